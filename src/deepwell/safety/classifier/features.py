"""Hashes a text into n-grams: three to five characters, and one to three words, each at the character where it begins.

NOTE: all of it is arithmetic on whole arrays of code points. 2,000 characters take about 0.1 ms. A Han character is a
word, so that pairs and triples of words are what Chinese is read by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUCKET_BITS", "Grams", "grams"]

BUCKET_BITS: Final = 18
_SPACE: Final = 32
_LONGEST_WORD: Final = 48
_HASH: Final = np.uint64(0x9E3779B97F4A7C15)
_STEPS: Final = np.array(
    [
        0xA0761D6478BD642F,
        0xE7037ED1A0B428DB,
        0x8EBC6AF09C88C6E3,
        0x589965CC75374CC3,
        0x1D8E4E27C47D124F,
    ],
    dtype=np.uint64,
)
_WORD_STEPS: Final = np.cumprod(np.full(_LONGEST_WORD, 0xD6E8FEB86659FD93, dtype=np.uint64))
_NEXT_WORDS: Final = np.array([0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


def _table() -> NDArray[np.uint32]:
    """Returns what each ASCII character is read as: capitals as small letters, digits as 0, blanks as a space."""
    table = np.arange(128, dtype=np.uint32)
    table[: _SPACE + 1] = _SPACE
    table[127] = _SPACE
    table[ord("A") : ord("Z") + 1] += 32
    table[ord("0") : ord("9") + 1] = ord("0")
    return table


_TABLE: Final = _table()


def _letters() -> NDArray[np.bool_]:
    letters = np.zeros(128, dtype=np.bool_)
    letters[ord("a") : ord("z") + 1] = True
    letters[ord("0")] = True
    return letters


_LETTERS: Final = _letters()


@dataclass(frozen=True, slots=True)
class Grams:
    """The n-grams of a text.

    Attributes:
        kept: int64 [characters read]; place in the text of each character that was read. Repeated marks are read once.
        characters: int32 buckets of the 3-, 4- and 5-grams; entry i begins at character read i.
        words: int32 buckets of the words, pairs and triples of words; entry i begins at `starts[i]`.
        starts: int64 [words]; character read at which each word begins.
    """

    kept: NDArray[np.int64]
    characters: tuple[NDArray[np.int64], ...]
    words: tuple[NDArray[np.int64], ...]
    starts: NDArray[np.int64]


def grams(text: str) -> Grams:
    """Returns the n-grams of a text."""
    points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    points = np.where(points < 128, _TABLE[np.minimum(points, 127)], points)
    letters = np.where(points < 128, _LETTERS[np.minimum(points, 127)], True)
    repeated = np.zeros(len(points), dtype=np.bool_)
    repeated[1:] = (points[1:] == points[:-1]) & ~letters[1:]
    kept = np.flatnonzero(~repeated)
    points, letters = points[kept], letters[kept]
    wide = points.astype(np.uint64)
    words, starts = _words(points, letters, wide)
    return Grams(kept, _characters(wide), words, starts)


def _characters(wide: NDArray[np.uint64]) -> tuple[NDArray[np.int64], ...]:
    found: list[NDArray[np.int64]] = []
    size = len(wide)
    hashed = wide * _STEPS[0]
    for place in range(1, 5):
        if size <= place:
            break
        hashed = hashed[: size - place] + wide[place:] * _STEPS[place]
        if place >= 2:
            found.append(_bucket(hashed))
    return tuple(found)


def _words(
    points: NDArray[np.uint32], letters: NDArray[np.bool_], wide: NDArray[np.uint64]
) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.int64]]:
    if not letters.any():
        return (), np.zeros(0, dtype=np.int64)
    han = (points >= 0x3400) & (points <= 0x9FFF)
    begins = letters.copy()
    begins[1:] &= ~letters[:-1] | han[1:] | han[:-1]
    starts = np.flatnonzero(begins)
    places = np.arange(len(points)) - starts[np.cumsum(begins) - 1]
    steps = _WORD_STEPS[np.minimum(np.maximum(places, 0), _LONGEST_WORD - 1)]
    one = np.add.reduceat(np.where(letters, wide * steps, np.uint64(0)), starts)
    one ^= one >> np.uint64(31)
    two = one[:-1] + one[1:] * _NEXT_WORDS[0]
    three = two[:-1] + one[2:] * _NEXT_WORDS[1]
    return tuple(_bucket(each + np.uint64(7)) for each in (one, two, three) if len(each)), starts


def _bucket(hashed: NDArray[np.uint64]) -> NDArray[np.int64]:
    mixed = (hashed ^ (hashed >> np.uint64(29))) * _HASH
    return (mixed >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
