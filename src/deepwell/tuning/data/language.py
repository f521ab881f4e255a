"""Language of a text, by its scripts its most frequent short words, and the endings of longer ones.

Known are Chinese, English, German, French, Spanish, Italian, Portuguese, Dutch, Polish and Turkish; Japanese, Korean, Russian,
Ukrainian, Greek, Arabic, Hebrew, Hindi and Thai by their scripts. Other languages of these scripts are taken for one of
them or for `und`, which also stands for code, numbers, names, and texts that have too little to tell by.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache

__all__ = ["KNOWN_LANGUAGES", "language_of"]

_MOST_CHARACTERS = 4000  # of a text; more do not change the answer
# Of what tells the language: a frequent word counts 1, and less where it is frequent in several languages.
_LEAST_SCORE, _LEAST_SHARE = 1.3, 0.07

# The most frequent words of each language that few of the others share. Words of one letter are kept where they decide.
_FREQUENT = {
    "en": "the a of and to is that it for was on with as at by this are from be have not but you i he she they we his her "
    "had which or an were what there been their all would will one can do has if when who your my how so more out up its "
    "about than them no just like into time",
    "de": "der die das und ist nicht ich es ein eine zu den mit sich auf für dem von sie auch im als an wird so hat aus "
    "sind war bei oder einen haben noch nach kann nur aber wie wenn zum zur werden über sehr wir mir einem einer des "
    "diese dieser man durch vor",
    "fr": "le la les de des et est un une du en que qui dans pour pas sur au il je ne ce avec plus par vous nous sont mais "
    "elle aux cette été très ses se son sa ou tout fait être ont leur bien même comme si on c'est d'un j'ai",
    "es": "el la los las de y que en un una es por con no para del se su lo al como más pero muy me mi le este esta ha "
    "si sin son sus también fue era hay cuando todo ya ser porque desde nos donde",
    "it": "il la di che e è un una per non in del della con le i gli si da sono mi al come più ma anche dei nel ho alla "
    "lo ha molto questo questa se delle o su ci dal nella era loro stato così ed",
    "pt": "o a de que e do da em um uma para não com os no na se por mais as dos como mas foi ao ele das à seu sua ou "
    "muito são eu também pelo pela isso ser está você já tem quando nos foram ela até",
    "nl": "de het een en van is dat niet in ik op te zijn met voor er aan was maar om ook die als bij nog naar heeft "
    "uit ze dan wel hij zeer heb kan deze dit geen door over worden werd meer we je hebben",
    "pl": "i w na z nie się jest to że do o jak ale po co tak za od przez dla są już tylko jego był ze może która który "
    "bardzo pan przy jednak czy tym również mnie bez mi ma było być oraz",
    "tr": "ve bir bu için da de ile çok en olarak gibi daha ne ama sonra kadar olan var değil mi o ben her şey bunu "
    "oldu diye olduğu yok göre ya ki",
}
# Letters and endings that few of the other languages have.
_MARKS = {
    "de": re.compile(r"[ßäöü]|(?:ung|ungen|keit|lich|isch|ieren)$"),
    "en": re.compile(r"(?:ing|ness|ally|ment|ship|able)$"),
    "es": re.compile(r"[ñ¿¡]|(?:ción|ciones|miento|ando|iendo|idad)$"),
    "fr": re.compile(r"[œêèâëï]|(?:eux|ement|ées|és|eur)$|^[djlnscq]'"),
    "it": re.compile(r"(?:zione|zioni|ità|mento|ando|endo|ato|are)$|^(?:l|dell|nell|all|un)'"),
    "nl": re.compile(r"(?:heid|lijk|ingen|eren)$|ij|aa|ee"),
    "pl": re.compile(r"[ąęłńśźż]|(?:ych|ego|anie|enie|owania)$"),
    "pt": re.compile(r"[ãõ]|(?:ção|ções|dade|mento|ando|endo)$"),
    "tr": re.compile(r"[ğış]|(?:lar|ler|mak|mek|dır|dir)$"),
}
_SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CYRILLIC": "ru",
    "GREEK": "el",
    "ARABIC": "ar",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
    "THAI": "th",
}

KNOWN_LANGUAGES = ("zh", *_FREQUENT, *dict.fromkeys(_SCRIPTS.values()), "uk")
"""Codes that a text can have, beside `und`."""

_WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile(r"[\u3041-\u30ff]")
_UKRAINIAN = re.compile(r"[іїєґІЇЄҐ]")
_BLOCKS = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


def language_of(text: str) -> str:
    """Returns the code of the language that most of a text is in, or `und`. Code blocks and addresses do not count."""
    text = _BLOCKS.sub(" ", text[:_MOST_CHARACTERS])
    votes: Counter[str] = Counter()
    han = len(_HAN.findall(text))
    kana = len(_KANA.findall(text))
    if han or kana:
        # Japanese text has kana between its Han; Chinese text has a rare foreign name.
        votes["ja" if kana > 0.1 * (han + kana) else "zh"] = (han + kana + 1) // 2  # about two make a word
    latin: list[str] = []
    for word in _WORDS.findall(_HAN.sub(" ", _KANA.sub(" ", text))):
        script = _script(word[0])
        if script == "LATIN":
            latin.append(word.lower().replace("’", "'"))
        elif script in _SCRIPTS:
            votes[_SCRIPTS[script]] += 1
    if votes["ru"] and len(_UKRAINIAN.findall(text)) > 0.02 * len(text):
        votes["uk"] = votes.pop("ru")
    code = _latin_language(latin)
    if code != "und" or not votes:
        votes[code] += len(latin)
    return votes.most_common(1)[0][0]


def _latin_language(words: list[str]) -> str:
    scores: dict[str, float] = {}
    weights = _weights()
    for word in words:
        for code, weight in weights.get(word) or _marks(word):
            scores[code] = scores.get(code, 0.0) + weight
    if not scores:
        return "und"
    code, score = max(scores.items(), key=lambda one: one[1])
    if score < max(_LEAST_SCORE if len(words) > 4 else 1.0, _LEAST_SHARE * len(words)):
        return "und"
    return code


@cache
def _weights() -> dict[str, list[tuple[str, float]]]:
    """Returns the languages in which a word is frequent, and its weight: the more of them, the less it tells."""
    languages: dict[str, list[str]] = {}
    for code, words in _FREQUENT.items():
        for word in words.split():
            languages.setdefault(word, []).append(code)
    return {word: [(code, 1 / len(codes)) for code in codes] for word, codes in languages.items()}


@lru_cache(1 << 16)
def _marks(word: str) -> tuple[tuple[str, float], ...]:
    """Returns the languages that the letters and the ending of a word hint at."""
    if len(word) < 4:
        return ()
    found = [code for code, pattern in _MARKS.items() if pattern.search(word)]
    return tuple((code, 0.6 / len(found)) for code in found)


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]
