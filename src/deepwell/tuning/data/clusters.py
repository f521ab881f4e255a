"""Clusters of records that resemble each other, and the choice of which of them to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clusters", "Similarity", "Twin", "choose"]

Indices = NDArray[np.int64]
Similarity = Callable[[Indices, Indices], NDArray[np.float64]]
"""Returns the similarity of each pair of records."""


@dataclass(frozen=True, slots=True)
class Twin:
    """The reason that a record is dropped: the record that is kept in its place.

    Attributes:
        kept: index of the kept record.
        similarity: similarity of the two.
    """

    kept: int
    similarity: float


class Clusters:
    """Disjoint sets of records, joined pair by pair (union-find with path halving; Tarjan and van Leeuwen 1984).

    The root of a set is its first record, whatever the order of the pairs.
    """

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def root(self, index: int) -> int:
        """Returns the first record of the set that a record is in."""
        parents = self._parents
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    def join(self, first: int, second: int) -> None:
        """Joins the sets of two records."""
        one, other = self.root(first), self.root(second)
        self._parents[max(one, other)] = min(one, other)

    def roots(self, indices: Indices | None = None) -> Indices:
        """Returns the root of each of the records; None: of all."""
        chosen = range(len(self._parents)) if indices is None else indices.tolist()
        return np.fromiter(map(self.root, chosen), np.int64, len(chosen))

    def groups(self) -> list[list[int]]:
        """Returns the sets of two and more records, each in ascending order, in the order of their first records."""
        members: dict[int, list[int]] = {}
        for index, root in enumerate(self.roots().tolist()):
            if root != index:
                members.setdefault(root, [root]).append(index)
        return [members[root] for root in sorted(members)]


def choose(clusters: Clusters, similarity: Similarity, min_similarity: float) -> dict[int, Twin]:
    """Returns the records to drop, each with the kept record that resembles it.

    The first record of a cluster is kept, and all are dropped that resemble it. A cluster may be a chain, whose ends do not
    resemble each other: the first of those that remain is kept in turn, and so on.
    """
    dropped: dict[int, Twin] = {}
    remaining = clusters.groups()
    while remaining:
        kept = np.array([group[0] for group in remaining for _ in group[1:]], np.int64)
        others = np.array([index for group in remaining for index in group[1:]], np.int64)
        similarities = similarity(kept, others)
        alike = similarities >= min_similarity
        for index, twin, value in zip(
            others[alike].tolist(), kept[alike].tolist(), similarities[alike].tolist(), strict=True
        ):
            dropped[index] = Twin(twin, value)
        rest = [[index for index in group[1:] if index not in dropped] for group in remaining]
        remaining = [group for group in rest if len(group) > 1]
    return dropped
