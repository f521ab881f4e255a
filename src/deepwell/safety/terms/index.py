"""`TermIndex`: all occurrences of thousands of terms in a text, found by the hash of their first characters.

NOTE: An automaton looks at every character in turn, from an interpreter's view one call a text, but each step searches the
children of a node, and the root has thousands of them in Chinese: 0.36 ms for 2 kB with pyahocorasick. Here the hash of every
three (or two) characters is looked up in a table of bits, 5 us for 2 kB (30 us in numpy). Only where a term may begin are its
characters compared, by dictionary, once for each length of the terms that begin so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.compiled import extension
from deepwell.safety.readings.view import Codes, codes_of

__all__ = ["TermIndex"]

# Odd numbers by which characters are multiplied, as in Knuth's multiplicative hashing; the high bits are the hash.
_FACTORS: Final = tuple(np.uint32(factor) for factor in (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35))
_PAIR_BITS: Final = 18
_TRIPLE_BITS: Final = 21
_ASCII: Final = 128

_Lengths = dict[int, dict[str, int]]


class TermIndex:
    """Finds terms. One that begins with a Latin letter or digit is found at the beginning of a word alone.

    Args:
        terms: of two characters and more; of equal ones the first counts.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        self._buckets: dict[str, _Lengths] = {}
        pair_bits = np.zeros(1 << _PAIR_BITS, np.bool_)
        triple_bits = np.zeros(1 << _TRIPLE_BITS, np.bool_)
        self._word = np.zeros(_ASCII + 1, np.bool_)
        for character in "abcdefghijklmnopqrstuvwxyz0123456789":
            self._word[ord(character)] = True
        for number, term in enumerate(terms):
            if len(term) < 2:
                raise ValueError(f"a term has two characters at least, not {term!r}")
            head = term[:3]
            self._buckets.setdefault(head, {}).setdefault(len(term), {}).setdefault(term, number)
        pairs = [head for head in self._buckets if len(head) == 2]
        triples = [head for head in self._buckets if len(head) == 3]
        if pairs:
            codes = codes_of("".join(pairs)).reshape(-1, 2)
            pair_bits[_hashed(codes[:, 0], codes[:, 1]) >> (32 - _PAIR_BITS)] = True
        if triples:
            codes = codes_of("".join(triples)).reshape(-1, 3)
            hashes = _hashed(codes[:, 0], codes[:, 1]) + codes[:, 2] * _FACTORS[2]
            triple_bits[hashes >> (32 - _TRIPLE_BITS)] = True
        self._pairs = np.packbits(pair_bits, bitorder="little")
        self._triples = np.packbits(triple_bits, bitorder="little")

    def occurrences(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yields the start, end and number of every term in the text, also those inside of others, in order of starts."""
        count = len(text)
        for at in self.starts(text):
            for width in (3, 2):
                lengths = self._buckets.get(text[at : at + width])
                if lengths is None or at + width > count:
                    continue
                for length, terms in lengths.items():
                    number = terms.get(text[at : at + length])
                    if number is not None:
                        yield at, at + length, number

    def starts(self, text: str) -> list[int]:
        """Returns the places where terms may begin."""
        if len(text) < 2:
            return []
        codes = codes_of(text)
        native = extension()
        if native is not None:
            return native.term_starts(codes, self._pairs, self._triples)
        return self.numpy_starts(codes)

    def numpy_starts(self, codes: Codes) -> list[int]:
        """Returns the places where terms may begin in a text of two characters and more, as the extension does."""
        hashes = _hashed(codes[:-1], codes[1:])
        may = _has(self._pairs, hashes >> np.uint32(32 - _PAIR_BITS))
        hashes = hashes[:-1] + codes[2:] * _FACTORS[2]
        may[:-1] |= _has(self._triples, hashes >> np.uint32(32 - _TRIPLE_BITS))
        word = self._word[np.minimum(codes[:-1], _ASCII)]
        may[1:] &= ~(word[1:] & word[:-1])
        return np.flatnonzero(may).tolist()


def _hashed(first: Codes, second: Codes) -> NDArray[np.uint32]:
    return first * _FACTORS[0] + second * _FACTORS[1]


def _has(bits: NDArray[np.uint8], at: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return (bits[at >> np.uint32(3)] >> (at & np.uint32(7)).astype(np.uint8) & np.uint8(1)).astype(np.bool_)
