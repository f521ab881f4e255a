"""Near-duplicates among texts: MinHash of character shingles, joined into clusters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["clusters", "contained", "shingles"]

SHINGLE: Final = 5
PERMUTATIONS: Final = 192


def shingles(text: str) -> NDArray[np.uint64]:
    """Returns the sorted hashes of the 5-character shingles of a text, without case, spaces and punctuation."""
    plain = "".join(one for one in unicodedata.normalize("NFKC", text).casefold() if one.isalnum())
    points = np.frombuffer(plain.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(points) < SHINGLE:
        points = np.pad(points, (0, SHINGLE - len(points)))
    hashed = np.zeros(len(points) - SHINGLE + 1, dtype=np.uint64)
    for offset in range(SHINGLE):
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + points[offset : len(points) - SHINGLE + 1 + offset]
    hashed ^= hashed >> np.uint64(29)
    hashed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.unique(hashed ^ (hashed >> np.uint64(32)))


def clusters(texts: Sequence[str], *, min_jaccard: float = 0.5, min_containment: float = 0.8) -> list[int]:
    """Returns a cluster number for each text: two texts share one if a chain of near-duplicates joins them.

    Args:
        min_jaccard: estimated share of common shingles at which two texts are near-duplicates.
        min_containment: share of the smaller text's shingles at which it is a part of the larger one.
    """
    sets = [shingles(text) for text in texts]
    signatures = _signatures(sets)
    sizes = np.array([len(one) for one in sets], dtype=np.float64)
    parents = list(range(len(texts)))
    for one in range(len(texts)):
        jaccard = (signatures[one + 1 :] == signatures[one]).mean(axis=1)
        common = jaccard / (1 + jaccard) * (sizes[one] + sizes[one + 1 :])
        containment = common / np.minimum(sizes[one], sizes[one + 1 :])
        for other in np.flatnonzero(
            (jaccard >= min_jaccard) | ((containment >= min_containment) & (jaccard > 0.1))
        ):
            _join(parents, one, one + 1 + int(other))
    return [_root(parents, one) for one in range(len(texts))]


def contained(texts: Sequence[str], others: Sequence[str], *, min_containment: float = 0.6) -> list[bool]:
    """Returns for each text true if it holds that share of the shingles of one of the others, or the reverse."""
    sets = [shingles(text) for text in texts]
    sizes = np.array([len(one) for one in sets])
    hashes = np.concatenate(sets)
    owners = np.repeat(np.arange(len(sets)), sizes)[order := np.argsort(hashes, kind="stable")]
    hashes = hashes[order]
    found = np.zeros(len(texts), dtype=np.bool_)
    for other in map(shingles, others):
        first, last = (np.searchsorted(hashes, other, side) for side in ("left", "right"))
        spread = last - first
        places = np.repeat(first - np.cumsum(spread) + spread, spread) + np.arange(spread.sum())
        common = np.bincount(owners[places], minlength=len(sets))
        found |= common >= min_containment * np.minimum(len(other), sizes)
    return found.tolist()


def _signatures(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    draw = np.random.default_rng(20260901)
    factors = draw.integers(1, 1 << 62, PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    found = np.empty((len(sets), PERMUTATIONS), dtype=np.uint64)
    for row, one in enumerate(sets):
        for column, factor in enumerate(factors):
            mixed = one * factor
            found[row, column] = (mixed ^ (mixed >> np.uint64(31))).min()
    return found


def _root(parents: list[int], one: int) -> int:
    while parents[one] != one:
        parents[one] = parents[parents[one]]
        one = parents[one]
    return one


def _join(parents: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first
