"""Shingles of texts as 64-bit integers, computed for many texts at once.

A text becomes units: words of most scripts, and single characters of Han, Kana, Thai and other scripts that put no blanks
between words. A shingle is `width` units in a row; a shorter text is one shingle. Case, accents' encoding and sentence
punctuation do not count; signs that carry meaning, such as `+`, `<`, `-5` and emoji, are units of their own.

Two different shingles share a hash with a chance of 2^-64. In a million records with 60 shingles each, the chance that it
happens anywhere is below 1e-4, and it would change a similarity by less than 0.02.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hashes", "Offsets", "Shingles", "Units", "mix", "portions", "shingle_sets", "shingles", "units"]

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]

_SEPARATOR, _WORD, _SINGLE, _HYPHEN = 0, 1, 2, 3
_TABLE_END = 0x20000  # Han of the planes above; every other character up there is a unit of its own
# Scripts that are written without blanks between words; Hangul has them.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # Kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)
_SIGNS = frozenset("*/%&^#@\\")  # of ASCII, beside those that Unicode calls symbols

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0xD1342543DE82EF95)  # odd; steps from one unit of a shingle to the next


@dataclass(frozen=True, slots=True)
class Units:
    """Hashes of the units of several texts.

    Attributes:
        hashes: one for each unit, in the order of the texts.  # [units]
        offsets: where the units of each text begin, and their number at the end.  # [texts + 1]
    """

    hashes: Hashes
    offsets: Offsets


@dataclass(frozen=True, slots=True)
class Shingles:
    """Hashes of the shingles of several texts, with repetitions; laid out as `Units`."""

    hashes: Hashes
    offsets: Offsets


def mix(values: Hashes) -> Hashes:
    """Returns a permutation of the 64-bit integers that scatters them (splitmix64; Steele, Lea and Flood 2014, figure 15)."""
    values = values + _GOLDEN
    values ^= values >> np.uint64(30)
    values *= _FIRST
    values ^= values >> np.uint64(27)
    values *= _SECOND
    values ^= values >> np.uint64(31)
    return values


def units(texts: Sequence[str]) -> Units:
    """Returns the hashed units of texts."""
    folded = [_folded(text) for text in texts]
    lengths = np.fromiter(map(len, folded), np.int64, len(folded))
    ends = np.cumsum(lengths)
    data = "".join(folded).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(data, np.uint32)
    if not len(codes):
        return Units(np.empty(0, np.uint64), np.zeros(len(texts) + 1, np.int64))
    kinds = _kinds(codes)
    begins = np.zeros(len(codes) + 1, bool)  # of texts
    begins[ends - lengths] = True
    begins[-1] = True
    _settle_hyphens(kinds, codes, begins)
    inside = kinds != _SEPARATOR
    before = np.empty_like(inside)
    before[0] = False
    before[1:] = (kinds[1:] == _WORD) & (kinds[:-1] == _WORD) & ~begins[1:-1]
    starts = np.flatnonzero(inside & ~before)
    if not len(starts):
        return Units(np.empty(0, np.uint64), np.zeros(len(texts) + 1, np.int64))
    places = np.flatnonzero(inside)
    number = np.cumsum(~before[places]) - 1  # of the unit that each character belongs to
    within = (places - starts[number]).astype(np.uint64)
    scattered = mix(codes[places].astype(np.uint64) | (within << np.uint64(21)))
    hashes = mix(np.add.reduceat(scattered, np.searchsorted(places, starts)))
    return Units(hashes, np.concatenate(([0], np.searchsorted(starts, ends))).astype(np.int64))


def shingles(found: Units, width: int) -> Shingles:
    """Returns the shingles of texts. A text of fewer units than `width` has one of them all; one without units has none."""
    counts = np.diff(found.offsets)
    many = np.where(counts >= width, counts - width + 1, np.minimum(counts, 1))
    offsets = np.concatenate(([0], np.cumsum(many)))
    owner = np.repeat(np.arange(len(counts)), many)
    first = np.arange(offsets[-1]) - offsets[owner] + found.offsets[owner]
    length = np.minimum(counts, width)[owner]
    hashes = length.astype(np.uint64)
    last = len(found.hashes) - 1
    for step in range(width):
        part = found.hashes[np.minimum(first + step, last)] if last >= 0 else hashes
        hashes = np.where(step < length, hashes * _STEP + part, hashes)
    return Shingles(mix(hashes), offsets.astype(np.int64))


def shingle_sets(texts: Sequence[str], width: int) -> Iterator[frozenset[int]]:
    """Yields the set of shingles of each text."""
    for part in portions(texts):
        found = shingles(units(part), width)
        for begin, end in zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True):
            yield frozenset(found.hashes[begin:end].tolist())


def portions(texts: Sequence[str], characters: int = 1 << 20) -> Iterator[Sequence[str]]:
    """Yields the texts in runs of about so many characters, which bounds the memory of what is computed for a run."""
    begin, size = 0, 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= characters:
            yield texts[begin:end]
            begin, size = end, 0
    if begin < len(texts):
        yield texts[begin:]


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _kinds(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return _table()[np.minimum(codes, _TABLE_END)]


def _settle_hyphens(kinds: NDArray[np.uint8], codes: NDArray[np.uint32], begins: NDArray[np.bool_]) -> None:
    """Makes a hyphen a unit where a digit stands beside it, as in `5-3`, and punctuation elsewhere, as in `well-known`."""
    hyphens = np.flatnonzero(kinds == _HYPHEN)
    if not len(hyphens):
        return
    digit = np.zeros(len(codes) + 2, bool)
    digit[1:-1] = (codes >= ord("0")) & (codes <= ord("9"))
    left = digit[hyphens] & ~begins[hyphens]
    right = digit[hyphens + 2] & ~begins[hyphens + 1]
    kinds[hyphens] = np.where(left | right, _SINGLE, _SEPARATOR)


@cache
def _table() -> NDArray[np.uint8]:
    """Returns the kind of each character below the end of the table, and of all above it."""
    table = np.zeros(_TABLE_END + 1, np.uint8)
    for code in range(_TABLE_END):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind[0] in "LN" or kind in ("Mn", "Mc") or character == "_":
            table[code] = _WORD
        elif kind[0] == "S" or character in _SIGNS:
            table[code] = _SINGLE
    for first, last in _UNSPACED:
        span = table[first : last + 1]
        span[span != _SEPARATOR] = _SINGLE
    table[ord("-")] = table[0x2212] = _HYPHEN
    table[_TABLE_END] = _SINGLE
    return table
