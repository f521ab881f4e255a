"""Sentences of drafts: where one ends, which may stand in a text, and how terms are spelt in them."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from deepwell.agents.writing.brief import Brief, folded, length_of

__all__ = ["around", "cut", "spelt", "terms_of"]

_ENDS = {"zh": re.compile(r"(?<=[。！？])"), "en": re.compile(r"(?<=[.!?])\s+(?=[A-Z])")}
_CLOSES = {"zh": ("。", "！", "？"), "en": (".", "!", "?")}
_LIST = re.compile(r"^\s*(?:[-*•#]+|\d+[.、)](?!\d))\s*")
_REFUSED = re.compile(r"[\[\]{}<>*#|`_\"“”]|https?:")
_ECHO = re.compile(
    r"^(?:卖点|商品|文案|风格|特点|facts?|product|style|text)[^:：,，。.]{0,6}[:：]"
    r"|抱歉|无法|作为一|\bsorry\b|\bcan't assist\b|\bas an ai\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_OTHER_SCRIPT = {"zh": re.compile(r"[A-Za-z]{4,}"), "en": re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")}
_SHORTEST = {"zh": 6, "en": 3}
_GRAM, _MOST_EQUAL = {"zh": 3, "en": 2}, 2
_SPECIAL = frozenset("\\.+*?()|[]{}^$#&-~/")


def cut(draft: str, brief: Brief) -> list[str]:
    """Returns the sentences of a draft that may stand in the text, in its order.

    Left out are pieces without an end, markup, echoes of the prompt, refusals, forbidden terms, words of another script,
    numbers that the facts do not have, and sentences that turn in circles.
    """
    found = list[str]()
    for line in draft.splitlines():
        for part in _ENDS[brief.language].split(_LIST.sub("", line)):
            one = spelt(part.strip(), brief)
            if one.endswith(_CLOSES[brief.language]) and _sound(one, brief):
                found.append(one)
    return found


def spelt(sentence: str, brief: Brief) -> str:
    """Returns a Chinese sentence in which required terms have the brief's white space and case."""
    if brief.language != "zh":
        return sentence
    for term in brief.required:
        sentence = _loose(term).sub(lambda _, term=term: term, sentence)
    return sentence


def terms_of(sentence: str, brief: Brief) -> frozenset[int]:
    """Returns the numbers of the required terms that a sentence has."""
    flat = folded(sentence, "en")
    return frozenset(number for number, term in enumerate(brief.required) if folded(term, "en") in flat)


def around(term: str, language: str) -> str:
    """Returns a Lark grammar of one sentence with a term in it."""
    escaped = "".join(f"\\{one}" if one in _SPECIAL else one for one in term)
    if language == "zh":
        other = r"[^\s。！？；：.!?;:\"“”「」（）()\[\]*#A-Za-z0-9]"
        return f"start: SENTENCE\nSENTENCE: /{other}{{4,20}}{escaped}{other}{{0,20}}。/\n"
    word = r"[^\s.!?;:\"“”()\[\]*#0-9]+"
    return f"start: SENTENCE\nSENTENCE: /[A-Z]{word}( {word}){{1,8}} {escaped}( {word}){{0,8}}\\./\n"


def _sound(sentence: str, brief: Brief) -> bool:
    if length_of(sentence, brief.language) < _SHORTEST[brief.language] or brief.forbidden_in(sentence):
        return False
    told = folded(" ".join((brief.product, *brief.facts)), "en")
    foreign = [one for one in _OTHER_SCRIPT[brief.language].findall(sentence) if one.casefold() not in told]
    if _REFUSED.search(sentence) or _ECHO.search(sentence) or foreign:
        return False
    given = set(_NUMBER.findall(" ".join((brief.product, *brief.facts))))
    return set(_NUMBER.findall(sentence)) <= given and not _circles(sentence, brief.language)


def _circles(sentence: str, language: str) -> bool:
    """Returns whether the same few characters or words come back more than twice."""
    size = _GRAM[language]
    units = list("".join(sentence.split())) if language == "zh" else sentence.casefold().split()
    grams = Counter(tuple(units[at : at + size]) for at in range(len(units) - size + 1))
    return max(grams.values(), default=0) > _MOST_EQUAL


@cache
def _loose(term: str) -> re.Pattern[str]:
    pieces = [re.escape(one) for one in "".join(term.split())]
    return re.compile(r"\s*".join(pieces), re.IGNORECASE)
