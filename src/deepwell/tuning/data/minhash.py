"""MinHash signatures in bands: texts that agree in one band are worth comparing (Broder 1997; Leskovec et al., chapter 3).

With 14 bands of 8 rows, two texts of Jaccard similarity s become candidates with probability 1 - (1 - s^8)^14: 0.9996 at
0.90, 0.924 at 0.80, 0.565 at 0.70 and 0.053 at 0.50. A candidate is a duplicate only after its exact similarity is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.data.shingles import Hashes, Shingles, mix, portions, shingles, units

__all__ = [
    "BANDS",
    "ROWS",
    "Sketcher",
    "Sketches",
    "buckets",
    "candidate_probability",
    "least_agreement",
    "minima",
    "sketch",
]

BANDS = 14
ROWS = 8

_BLOCK = 1 << 16  # shingles that are hashed at a time: 512 kB, which stays in the cache


def candidate_probability(similarity: float, bands: int = BANDS, rows: int = ROWS) -> float:
    """Returns the chance that two texts of a Jaccard similarity become candidates."""
    return 1 - (1 - similarity**rows) ** bands


@dataclass(frozen=True, slots=True)
class Sketches:
    """Small stand-ins for many texts.

    Attributes:
        keys: one key for each band; texts with equal ones are candidates.  # [BANDS, texts]
        rows: one byte of each minimum, to estimate similarities with.  # [texts, BANDS * ROWS]
        sequences: a hash of the whole sequence of units.  # [texts]
        filled: true for texts that have units; the others resemble nothing.  # [texts]
    """

    keys: Hashes
    rows: NDArray[np.uint8]
    sequences: Hashes
    filled: NDArray[np.bool_]


class Sketcher(Protocol):
    """Computes the sketches of texts, as `sketch` does."""

    def __call__(self, texts: Sequence[str], width: int, advance: Callable[[int], None], /) -> Sketches:
        """Returns the sketches of texts of shingles of `width` units, and tells how many further texts are done."""
        ...


def sketch(texts: Sequence[str], width: int, advance: Callable[[int], None] = lambda _: None) -> Sketches:
    """Returns the sketches of texts. They are the same on every machine.

    Args:
        width: units of a shingle.
        advance: is told how many further texts are done.
    """
    count = len(texts)
    made = Sketches(
        np.empty((BANDS, count), np.uint64),
        np.empty((count, BANDS * ROWS), np.uint8),
        np.empty(count, np.uint64),
        np.empty(count, bool),
    )
    done = 0
    for part in portions(texts):
        span = slice(done, done + len(part))
        found = units(part)
        signature = minima(shingles(found, width))
        made.keys[:, span] = _keys(signature)
        made.rows[span] = (signature >> np.uint64(56)).astype(np.uint8).T
        made.filled[span] = np.diff(found.offsets) > 0
        made.sequences[span] = _sequences(found.hashes, found.offsets)
        done += len(part)
        advance(len(part))
    return made


def minima(found: Shingles) -> Hashes:
    """Returns the least hash of each text under each function; texts without shingles have the greatest number.

    Returns:
        minima  # [BANDS * ROWS, texts]
    """
    count = len(found.offsets) - 1
    signature = np.full((BANDS * ROWS, count), np.iinfo(np.uint64).max, np.uint64)
    multipliers, increments = _permutations()
    filled = np.flatnonzero(np.diff(found.offsets))
    for begin, end in _blocks(found.offsets[:-1][filled]):
        chosen = filled[begin:end]
        starts = found.offsets[chosen]
        block = found.hashes[starts[0] : found.offsets[chosen[-1] + 1]]
        rows = np.empty_like(block)
        for row in range(BANDS * ROWS):
            np.multiply(block, multipliers[row], out=rows)
            np.add(rows, increments[row], out=rows)
            signature[row, chosen] = np.minimum.reduceat(rows, starts - starts[0])
    return signature


def least_agreement(min_similarity: float) -> float:
    """Returns how many of a sketch's rows agree at least, for texts of a similarity; fewer have a chance below 1e-6."""
    rows = BANDS * ROWS
    return rows * min_similarity - 5 * math.sqrt(rows * min_similarity * (1 - min_similarity))


def _keys(signature: Hashes) -> Hashes:
    keys = np.zeros((BANDS, signature.shape[1]), np.uint64)
    for row in range(ROWS):
        keys = mix(keys ^ signature[row::ROWS])
    return keys


def buckets(keys: Hashes) -> Iterator[NDArray[np.int64]]:
    """Yields the groups of two and more texts that share a key, each in ascending order."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    begins = np.concatenate(([0], edges))
    ends = np.concatenate((edges, [len(keys)]))
    for pick in np.flatnonzero(ends - begins > 1):
        yield order[begins[pick] : ends[pick]]


def _permutations() -> tuple[Hashes, Hashes]:
    """Returns the multipliers, which are odd, and the increments of the hash functions."""
    seeds = mix(np.arange(2 * BANDS * ROWS, dtype=np.uint64))
    return seeds[: BANDS * ROWS] | np.uint64(1), seeds[BANDS * ROWS :]


def _sequences(hashes: Hashes, offsets: NDArray[np.int64]) -> Hashes:
    """Returns one hash for the units of each text in their order."""
    counts = np.diff(offsets)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    scattered = mix(hashes ^ mix(place.astype(np.uint64)))
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(scattered, dtype=np.uint64)))
    return mix(sums[offsets[1:]] - sums[offsets[:-1]])


def _blocks(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yields ranges of texts that have about `_BLOCK` shingles together."""
    begin = 0
    while begin < len(starts):
        end = int(np.searchsorted(starts, starts[begin] + _BLOCK, side="left"))
        yield begin, max(end, begin + 1)
        begin = max(end, begin + 1)
