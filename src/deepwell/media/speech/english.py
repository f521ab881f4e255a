"""Phonemes of English words: from lexicons, from endings, letter by letter, or from a net that reads unknown words."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidModelFile

__all__ = ["English"]

_MOST_LEXICON_BYTES: Final = 16 << 20
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*['’]?")
_HUMPS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z'’]+|[^\W\d_]")
_VOWELS: Final = frozenset("AIOQWYaeiouæɑɐɒɔəɚɛɜɪʊʌᵊᵻ")
_DETERMINERS: Final = frozenset(
    "a an the this that these those my your his her its our their no some any each every".split()
)
_HELPERS: Final = frozenset(
    "to will would can could may might must shall should do does did don't won't".split()
)
_PERFECT: Final = frozenset("have has had having was were been being is are be 've".split())
# Words that are said otherwise inside of a sentence than alone.
_WEAK: Final = {"a": "ɐ", "an": "ɐn", "and": "ænd", "of": "ʌv", "for": "fɔɹ"}
_WEAK_BRITISH: Final = {"a": "ɐ", "an": "ən", "and": "and", "of": "ɒv", "for": "fɔː"}
_SYMBOL_NAMES: Final = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "θ": "theta",
    "λ": "lambda",
    "μ": "mu",
    "π": "pi",
    "σ": "sigma",
    "τ": "tau",
    "φ": "phi",
    "ω": "omega",
    "ß": "ss",
}


class English:
    """Reads English with the lexicons and the net in `folder`.

    Args:
        british: read as in Britain, not as in America.

    Raises:
        InvalidModelFile: a lexicon is missing or damaged.
    """

    def __init__(self, folder: Path, *, british: bool) -> None:
        accent = "gb" if british else "us"
        self._british = british
        self._gold = _lexicon(folder / f"lexicon_{accent}_gold.json.gz")
        self._silver = _lexicon(folder / f"lexicon_{accent}_silver.json.gz")
        self._reader = _UnknownWords(folder / ("oov_gb.onnx" if british else "oov.onnx"))
        self._weak = _WEAK_BRITISH if british else _WEAK
        self._known = lru_cache(8192)(self._word)

    def phonemes(self, text: str) -> str:
        """Returns the phonemes of a text whose numbers are words; punctuation stays where it is."""
        text = unicodedata.normalize("NFC", text)
        found = list(_WORD.finditer(text))
        words = [one[0].replace("’", "'") for one in found]
        said, at = "", 0
        for place, one in enumerate(found):
            said += text[at : one.start()]
            said += self._in_context(words, place)
            at = one.end()
        return said + text[at:]

    def _in_context(self, words: Sequence[str], place: int) -> str:
        word = words[place].strip("'")
        lower = word.lower()
        following = words[place + 1] if place + 1 < len(words) else ""
        before_vowel = bool(following) and self._known(following, "DEFAULT").lstrip("ˈˌ")[:1] in _VOWELS
        if lower == "the":
            return "ði" if before_vowel else "ðə"
        if lower == "to" and following:
            return "tʊ" if before_vowel else "tə"
        if word == "A" and place and not following[:1].islower():
            return self._known(word, "DEFAULT")
        if lower in self._weak and (word != "A" or not place) and following:
            return self._weak[lower]
        return self._known(word, _part_of_speech(words, place))

    def _word(self, word: str, part: str) -> str:
        """Returns the phonemes of one word."""
        word = word.strip("'")
        if not word:
            return ""
        if (found := self._looked_up(word, part)) is not None:
            return found
        plain = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
        if plain != word and (found := self._looked_up(plain, part)) is not None:
            return found
        pieces = _HUMPS.findall(word)
        if len(pieces) > 1 and word.isascii() and "".join(pieces) == word and not word.endswith(("'s", "'S")):
            return " ".join(filter(None, (self._word(piece, "DEFAULT") for piece in pieces)))
        if word.isupper() and len(word) <= 5:
            return self._spelled(plain)
        return (
            self._reader.phonemes(word.lower())
            or self._reader.phonemes(plain.lower())
            or self._spelled(plain)
        )

    def _looked_up(self, word: str, part: str) -> str | None:
        for form in dict.fromkeys((word, word.lower(), word.capitalize())):
            for lexicon in (self._gold, self._silver):
                if form in lexicon:
                    if form != word and word.isupper() and 1 < len(word) <= 3:
                        continue  # IT and US are spelled, not read as the words
                    return self._chosen(lexicon[form], part, form)
        if (name := _SYMBOL_NAMES.get(word.lower())) is not None:
            return self._word(name, "DEFAULT")
        return self._with_ending(word, part)

    def _chosen(self, entry: Any, part: str, form: str) -> str:
        if not isinstance(entry, dict):
            return cast("str", entry)
        forms = cast("Mapping[str, str | None]", entry)
        if form.isupper() and None in forms.values():
            return self._spelled(form)
        general = {"VBD": "VERB", "VBN": "VERB", "VBP": "VERB"}.get(part, "DEFAULT")
        return forms.get(part) or forms.get(general) or forms.get("DEFAULT") or self._spelled(form)

    def _with_ending(self, word: str, part: str) -> str | None:
        lower = word.lower()
        for ending, stems in (
            ("'s", (lower[:-2],)),
            ("s'", (lower[:-1],)),
            ("ies", (f"{lower[:-3]}y",)),
            ("es", (lower[:-2], lower[:-1])),
            ("s", (lower[:-1],)),
            ("ied", (f"{lower[:-3]}y",)),
            ("ed", (lower[:-2], lower[:-1], lower[:-3])),
            ("ing", (lower[:-3], f"{lower[:-3]}e", lower[:-4])),
        ):
            if not lower.endswith(ending) or len(lower) < len(ending) + 3:
                continue
            for stem in stems:
                entry = self._gold.get(stem, self._silver.get(stem))
                if entry is not None:
                    return self._ended(self._chosen(entry, part, stem), ending)
        return None

    def _ended(self, stem: str, ending: str) -> str:
        """Appends a plural, a past or a participle as English phonology has it."""
        weak = "ɪ" if self._british else "ᵻ"
        if ending == "ing":
            flap = not self._british and stem[-1:] == "t" and stem[-2:-1] in _VOWELS
            return f"{stem[:-1]}ɾɪŋ" if flap else f"{stem}ɪŋ"
        if ending.endswith("d"):
            if stem[-1:] in ("t", "d"):
                return f"{stem}{weak}d"
            return f"{stem}t" if stem[-1:] in "pkfθʃsʧ" else f"{stem}d"
        if stem[-1:] in "szʃʒʧʤ":
            return f"{stem}{weak}z"
        return f"{stem}s" if stem[-1:] in "ptkfθ" else f"{stem}z"

    def _spelled(self, word: str) -> str:
        """Returns the names of the letters, with the stress on the last."""
        names = [self._gold.get(letter) for letter in word.upper()]
        said = [cast("str", name) for name in names if isinstance(name, str)]
        return "".join([*(name.replace("ˈ", "ˌ") for name in said[:-1]), *said[-1:]])


def _part_of_speech(words: Sequence[str], place: int) -> str:
    """Returns the part of speech that the word before suggests, for words such as "read" and "use"."""
    before = words[place - 1].lower() if place else ""
    if before in _DETERMINERS:
        return "NOUN"
    if before in _HELPERS:
        return "VERB"
    if before in _PERFECT:
        return "VBN"
    return "DEFAULT"


def _lexicon(path: Path) -> Mapping[str, Any]:
    try:
        with gzip.open(path, "rb") as file:
            data = file.read(_MOST_LEXICON_BYTES + 1)
        if len(data) > _MOST_LEXICON_BYTES:
            raise ValueError("it is too large")
        value: object = json.loads(data)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidModelFile(f"{path.name} cannot be read: {error}", fix="pull the model again") from error
    if not isinstance(value, dict):
        raise InvalidModelFile(f"{path.name} is no lexicon", fix="pull the model again")
    return cast("Mapping[str, Any]", value)


class _UnknownWords:
    """A net that reads the letters of a word, with a blank between sounds (connectionist temporal classification)."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self._letters = {letter: number for number, letter in enumerate(about["in"], start=1)}
        self._sounds = dict(enumerate(about["out"], start=1))
        self._most_letters = int(about["maxlen"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def phonemes(self, word: str) -> str:
        """Returns the phonemes of a word; none if the net knows none of its letters."""
        import numpy as np

        numbers = [self._letters[letter] for letter in word if letter in self._letters]
        said = ""
        for start in range(0, len(numbers), self._most_letters):
            piece = np.asarray([numbers[start : start + self._most_letters]], np.int64)
            before = 0
            for number in self._session.run(None, {"chars": piece})[0][0].tolist():
                if number not in (before, 0):
                    said += self._sounds[number]
                before = number
        return said.replace("1", "")
