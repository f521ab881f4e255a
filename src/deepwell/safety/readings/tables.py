"""Tables of folding: what each character reads as, and the class it belongs to."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.readings.view import Codes

__all__ = [
    "EXPANDED",
    "HAN",
    "LETTER",
    "OTHER",
    "SENTENCE",
    "SIZE",
    "SPACE",
    "SYMBOL",
    "FoldTables",
    "fold_tables",
    "folded_term",
    "is_invisible",
]

SIZE: Final = 0x30000
"""Characters from here on are of planes that hold Han alone, tags and selectors, or nothing."""

EXPANDED: Final = 1 << 31
"""Marks an entry of the table that stands for several characters."""

SYMBOL, LETTER, HAN, SPACE, SENTENCE, OTHER = range(6)
"""Classes of folded characters: a to z and 0 to 9; Han; white space; punctuation of sentences; other letters."""

_MAX_EXPANSION: Final = 6
_QUOTES: Final = {
    **dict.fromkeys("“”„‟«»「」『』〝〞《》", '"'),
    **dict.fromkeys("‘’‚‛′`´", "'"),
    **dict.fromkeys("‐‑‒–−⁃﹣", "-"),
    **dict.fromkeys("•‧∙・●", "·"),
    "【": "[",
    "】": "]",
    "〔": "[",
    "〕": "]",
    "⁄": "/",
    "∕": "/",
    "⟨": "<",
    "⟩": ">",
    "〈": "<",
    "〉": ">",
    "\u2800": " ",
}
_FILLERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u0640")
_MARKS: Final = (
    (0x0300, 0x036F),
    (0x0483, 0x0489),
    (0x064B, 0x065F),
    (0x180B, 0x180F),
    (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20FF),
    (0xFE00, 0xFE0F),
    (0xFE20, 0xFE2F),
)


@dataclass(frozen=True, slots=True)
class FoldTables:
    """Tables over code points below `SIZE`.

    Attributes:
        folded: uint32; the folded character, 0 for none, or `EXPANDED` + row of `expansions`.
        expansions: uint32 [rows, 6]; the folded characters of one that stands for several.
        lengths: int64 [rows]; the number of characters of each row.
        classes: uint8; the class of a folded character.
    """

    folded: Codes
    expansions: Codes
    lengths: NDArray[np.int64]
    classes: NDArray[np.uint8]


def is_invisible(code: int) -> bool:
    """Returns whether a character leaves no trace on the screen or only a mark on its neighbour."""
    if 0xE0000 <= code <= 0xE0FFF:
        return True
    if code < 0x80:
        return (code < 32 and code not in (9, 10, 11, 12, 13, 28, 29, 30, 31)) or code == 127
    character = chr(code)
    if character in _FILLERS or any(low <= code <= high for low, high in _MARKS):
        return True
    return unicodedata.category(character) in ("Cf", "Cc") and code != 0x85


@cache
def fold_tables() -> FoldTables:
    """Returns the tables. The first call builds them, in about a tenth of a second."""
    simplified, similar = _simplified(), _similar()
    folded = np.arange(SIZE, dtype=np.uint32)
    rows: list[str] = []
    for code in _folding_codes():
        form = _form(code, simplified, similar)
        if len(form) == 1:
            folded[code] = ord(form)
        elif not form:
            folded[code] = 0
        elif len(form) <= _MAX_EXPANSION:
            folded[code] = EXPANDED + len(rows)
            rows.append(form)
    for traditional, simple in simplified.items():
        folded[ord(traditional)] = ord(simple)
    expansions = np.zeros((len(rows), _MAX_EXPANSION), np.uint32)
    for number, form in enumerate(rows):
        expansions[number, : len(form)] = [ord(character) for character in form]
    return FoldTables(folded, expansions, np.array([len(row) for row in rows], np.int64), _classes())


def folded_term(text: str) -> str:
    """Returns what a term reads as in a folded view, by the same tables."""
    tables = fold_tables()
    out: list[str] = []
    for character in text:
        code = ord(character)
        if code >= SIZE:
            out.append("" if is_invisible(code) else character)
            continue
        form = int(tables.folded[code])
        if form >= EXPANDED:
            out.extend(chr(c) for c in tables.expansions[form - EXPANDED] if c)
        elif form:
            out.append(chr(form))
    return " ".join("".join(out).split())


def _folding_codes() -> Iterator[int]:
    """Yields the characters that may fold: not Han ideographs, Hangul syllables, surrogates and private ones."""
    for low, high in (
        (0x1, 0x3400),
        (0xA000, 0xAC00),
        (0xD7B0, 0xD800),
        (0xF900, 0x12000),
        (0x16000, 0x17000),
        (0x1BC00, 0x20000),
        (0x2F800, 0x2FA20),
    ):
        yield from range(low, high)


def _form(code: int, simplified: dict[str, str], similar: dict[str, str]) -> str:
    character = chr(code)
    if is_invisible(code):
        return ""
    if character in "\n\r\x0b\x0c\x85\u2028\u2029":
        return "\n"
    if character.isspace():
        return " "
    if code < 0x80:
        return character.lower()
    if character in _QUOTES:
        return _QUOTES[character]
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if found := similar.get(character):
        return found
    form = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold())
    out: list[str] = []
    for one in form:
        base = unicodedata.normalize("NFD", one)
        if len(base) > 1 and ord(base[0]) < 0x530:
            one = base[0]
        if one != character and is_invisible(ord(one)):
            continue
        one = " " if one.isspace() else _QUOTES.get(one, one)
        out.append(similar.get(one, simplified.get(one, one)))
    return "".join(out)


def _classes() -> NDArray[np.uint8]:
    classes = np.zeros(SIZE, np.uint8)
    for code in range(0x80, 0x20000):
        if chr(code).isalnum():
            classes[code] = OTHER
    for low, high in (
        (0x3400, 0x4DC0),
        (0x4E00, 0xA000),
        (0xF900, 0xFB00),
        (0x20000, SIZE),
        (0x3007, 0x3008),
    ):
        classes[low:high] = HAN
    for character in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789":
        classes[ord(character)] = LETTER
    for character in " \n":
        classes[ord(character)] = SPACE
    for character in "。、，；：！？,;:!?\"'()[]<>{}…—―":
        classes[ord(character)] = SENTENCE
    return classes


def _lines(name: str) -> Iterator[str]:
    text = files("deepwell.safety").joinpath("data", name).read_text(encoding="utf-8")
    return (line for line in text.splitlines() if not line.startswith("# "))


def _simplified() -> dict[str, str]:
    words = (word for line in _lines("simplified.txt") for word in line.split())
    return {traditional: word[0] for word in words for traditional in word[1:]}


def _similar() -> dict[str, str]:
    return {similar: line[0] for line in _lines("confusables.txt") for similar in line[2:]}
