"""Texts that are nearly the same: candidates by MinHash, each verified by the exact Jaccard similarity of its shingles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.data.clusters import Clusters, Indices, Twin, choose
from deepwell.tuning.data.minhash import Sketcher, Sketches, buckets, least_agreement, sketch
from deepwell.tuning.data.shingles import shingle_sets

__all__ = ["SHINGLE_UNITS", "Duplicates", "Exact", "near_duplicates"]

SHINGLE_UNITS = 5
"""Words, or characters of Han, of a shingle."""

_MOST_MEMBERS = 512  # of a bucket in which all pairs are compared
_COMPARISONS_PER_TEXT = 100  # beyond which buckets are compared with their first member alone
_BATCH = 1 << 20  # pairs
_BATCH_CHARACTERS = 1 << 22  # of the texts whose shingles are in memory at a time, as sets


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Near-duplicates among texts.

    Attributes:
        clusters: groups of texts that pairs of near-duplicates connect, each in ascending order.
        dropped: the texts to drop, each with the kept text that it is a near-duplicate of.
        compared: number of candidates that were compared.
        passed_over: number of candidates in very large buckets that were not compared; their texts may be kept.
    """

    clusters: list[list[int]]
    dropped: dict[int, Twin]
    compared: int
    passed_over: int


class Exact:
    """Exact Jaccard similarity of the shingles of texts."""

    def __init__(self, texts: Sequence[str], width: int) -> None:
        self._texts = texts
        self._width = width

    def __call__(self, first: Indices, second: Indices) -> NDArray[np.float64]:
        """Returns the similarity of each pair of texts, by their indices; 0 for texts without units."""
        result = np.zeros(len(first), np.float64)
        order = np.lexsort((second, first))
        left, right = first[order].tolist(), second[order].tolist()
        for begin, end in self._runs(left, right):
            needed: list[int] = sorted({*left[begin:end], *right[begin:end]})
            found = shingle_sets([self._texts[index] for index in needed], self._width)
            sets = dict(zip(needed, found, strict=True))
            for place in range(begin, end):
                one, other = sets[left[place]], sets[right[place]]
                shared = len(one & other)
                total = len(one) + len(other) - shared
                result[order[place]] = shared / total if total else 0.0
        return result

    def _runs(self, left: list[int], right: list[int]) -> Iterator[tuple[int, int]]:
        """Yields ranges of pairs whose texts are small enough together."""
        begin, size, previous = 0, 0, -1
        for end, (i, j) in enumerate(zip(left, right, strict=True), 1):
            size += len(self._texts[j]) + (len(self._texts[i]) if i != previous else 0)
            previous = i
            if size >= _BATCH_CHARACTERS:
                yield begin, end
                begin, size, previous = end, 0, -1
        if begin < len(left):
            yield begin, len(left)


def near_duplicates(
    texts: Sequence[str],
    min_similarity: float = 0.9,
    width: int = SHINGLE_UNITS,
    advance: Callable[[int], None] = lambda _: None,
    sketcher: Sketcher = sketch,
) -> Duplicates:
    """Finds texts whose sets of shingles have a Jaccard similarity of at least `min_similarity`.

    Two texts are in one cluster if pairs of near-duplicates connect them. A pair is a candidate as `minhash` has it: at the
    default of 0.9, 4 of 10,000 pairs are missed if no other pair connects them.

    Args:
        width: units of a shingle.
        advance: is told how many further texts are done.
        sketcher: computes the sketches: in this process, or on other machines.
    """
    sketches = sketcher(texts, width, advance)
    search = _Search(sketches, Exact(texts, width), min_similarity)
    search.join_equal()
    for keys in sketches.keys:
        search.compare(keys)
    dropped = choose(search.clusters, search.similarity, min_similarity)
    return Duplicates(search.clusters.groups(), dropped, search.compared, search.passed_over)


class _Search:
    """Compares candidates, and joins those that are near-duplicates."""

    def __init__(self, sketches: Sketches, exact: Exact, min_similarity: float) -> None:
        self.clusters = Clusters(len(sketches.sequences))
        self.compared = 0
        self.passed_over = 0
        self._sketches = sketches
        self._exact = exact
        self._min_similarity = min_similarity
        self._least_agreement = least_agreement(min_similarity)
        self._budget = _COMPARISONS_PER_TEXT * len(sketches.sequences)
        self._different = np.empty(0, np.uint64)  # pairs that were compared and are no duplicates
        self._unique = np.empty(0, np.int64)

    def join_equal(self) -> None:
        """Joins texts of the same units in the same order. The first of each stands for the others from now on."""
        sequences = self._sketches.sequences
        filled = np.flatnonzero(self._sketches.filled)
        _, first, inverse = np.unique(sequences[filled], return_index=True, return_inverse=True)
        leaders = filled[first]
        for index, leader in zip(filled.tolist(), leaders[inverse].tolist(), strict=True):
            if index != leader:
                self.clusters.join(leader, index)
        self._unique = np.sort(leaders)

    def similarity(self, first: Indices, second: Indices) -> NDArray[np.float64]:
        """Returns exact similarities; those of equal sequences without a look at the texts."""
        sequences = self._sketches.sequences
        result = np.ones(len(first), np.float64)
        asked = np.flatnonzero(sequences[first] != sequences[second])
        result[asked] = self._exact(first[asked], second[asked])
        return result

    def compare(self, keys: NDArray[np.uint64]) -> None:
        """Compares the texts that share the key of a band."""
        found = [self._unique[members] for members in buckets(keys[self._unique])]
        if not found:
            return
        stars = np.concatenate([members[1:] for members in found])
        centres = np.repeat([members[0] for members in found], [len(members) - 1 for members in found])
        self._join(centres, stars)
        pending: list[tuple[Indices, Indices]] = []
        size = 0
        for members in found:
            if len(members) < 3:
                continue
            first, second = self._further(members)
            pending.append((first, second))
            size += len(first)
            if size >= _BATCH:
                self._join_all(pending)
                pending, size = [], 0
        self._join_all(pending)

    def _further(self, members: Indices) -> tuple[Indices, Indices]:
        """Returns the pairs of a bucket that are not in one cluster yet, beside those with its first member."""
        roots = self.clusters.roots(members)
        if (roots == roots[0]).all():
            return members[:0], members[:0]
        count = len(members)
        if self.compared > self._budget:
            self.passed_over += (count - 1) * (count - 2) // 2
            return members[:0], members[:0]
        if count <= _MOST_MEMBERS:
            one, other = np.triu_indices(count - 1, 1)
            one, other = one + 1, other + 1
        else:
            _, leaders = np.unique(roots, return_index=True)
            leaders = np.sort(leaders)[1 : 1 + max(1, _MOST_MEMBERS**2 // 2 // count)]
            one, other = (grid.ravel() for grid in np.meshgrid(leaders, np.arange(1, count), indexing="ij"))
            self.passed_over += (count - 1) * (count - 2) // 2 - len(one)
        apart = roots[one] != roots[other]
        return members[one[apart]], members[other[apart]]

    def _join_all(self, pending: list[tuple[Indices, Indices]]) -> None:
        if pending:
            self._join(*(np.concatenate(part) for part in zip(*pending, strict=True)))

    def _join(self, first: Indices, second: Indices) -> None:
        """Compares pairs, and joins those that are near-duplicates."""
        low, high = np.minimum(first, second), np.maximum(first, second)
        count = np.uint64(len(self._sketches.sequences))
        pairs = np.unique(low.astype(np.uint64) * count + high.astype(np.uint64))
        pairs = pairs[~np.isin(pairs, self._different, assume_unique=True)]
        first, second = (part.astype(np.int64) for part in np.divmod(pairs, count))
        apart = self.clusters.roots(first) != self.clusters.roots(second)
        pairs, first, second = pairs[apart], first[apart], second[apart]
        self.compared += len(pairs)
        likely = self._likely(first, second)
        similar = np.zeros(len(pairs), bool)
        similar[likely] = self._exact(first[likely], second[likely]) >= self._min_similarity
        for i, j in zip(first[similar].tolist(), second[similar].tolist(), strict=True):
            self.clusters.join(i, j)
        self._different = np.union1d(self._different, pairs[~similar])

    def _likely(self, first: Indices, second: Indices) -> Indices:
        """Returns the places of the pairs whose sketches agree enough for a comparison of their texts to be worthwhile."""
        rows = self._sketches.rows
        found = [
            begin + np.flatnonzero((rows[i] == rows[j]).sum(axis=1) >= self._least_agreement)
            for begin in range(0, len(first), 1 << 16)
            for i, j in [(first[begin : begin + (1 << 16)], second[begin : begin + (1 << 16)])]
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)
