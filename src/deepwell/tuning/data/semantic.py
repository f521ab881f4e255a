"""Texts that mean the same: every pair is compared by the cosine of their embedding vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest
from deepwell.tuning.data.clusters import Clusters, Indices, Twin, choose

__all__ = ["MIN_COSINE", "MOST_TEXTS", "Embedder", "semantic_duplicates"]

MIN_COSINE = 0.98
"""Least cosine of duplicates, chosen with e5-small-q4 to lose little: `deepwell bench near-duplicates` prints which shares of
paraphrases, and of questions that one word turns into others, lie above it. Other models need another one."""

MOST_TEXTS = 200_000
"""Most texts that are compared. The work grows with the square of their number."""

_BLOCK = 2048  # texts


class Embedder(Protocol):
    """An embedding model."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns vectors of unit length.  # [texts, hidden_size]"""
        ...


def semantic_duplicates(
    vectors: NDArray[np.float32],
    min_cosine: float = MIN_COSINE,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[list[int]], dict[int, Twin]]:
    """Returns clusters of texts of like meaning, and those of them to drop, each with the kept text it resembles.

    Args:
        vectors: unit vectors of the texts.  # [texts, hidden_size]
        advance: is told how many further texts are compared.

    Raises:
        InvalidRequest: there are more than `MOST_TEXTS` of them.
    """
    count = len(vectors)
    if count > MOST_TEXTS:
        raise InvalidRequest.of("data_semantic_many", count=count, limit=MOST_TEXTS)
    clusters = Clusters(count)
    for begin in range(0, count, _BLOCK):
        rows = vectors[begin : begin + _BLOCK]
        for other in range(begin, count, _BLOCK):
            cosines = rows @ vectors[other : other + _BLOCK].T
            first, second = np.nonzero(cosines >= min_cosine)
            first, second = first + begin, second + other
            for i, j in zip(first[first < second].tolist(), second[first < second].tolist(), strict=True):
                clusters.join(i, j)
        advance(len(rows))

    def cosine(first: Indices, second: Indices) -> NDArray[np.float64]:
        parts = range(0, len(first), 1 << 14)
        found = [
            np.einsum("nd,nd->n", vectors[first[at : at + (1 << 14)]], vectors[second[at : at + (1 << 14)]])
            for at in parts
        ]
        return np.concatenate([np.empty(0), *found]).astype(np.float64)

    # The products of matrices and of rows round differently: a pair at the threshold may pass one and not the other.
    return clusters.groups(), choose(clusters, cosine, min_cosine - 1e-5)
