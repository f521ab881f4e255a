"""`Alignment`: the map between the vectors of two languages, so that a question finds passages of the other language.

NOTE: why and how.
  A multilingual encoder puts its language into every vector: with e5-small, passages in the question's language come first,
  even poor ones, and a translation is the nearest neighbour of the other language in 85 of 100 cases only. Two steps remove
  most of that, without any labelled pair: the mean of each language is taken away, and the second language is rotated onto the
  first by the orthogonal map that fits its mutual nearest neighbours best (Schoenemann 1966; Conneau et al. 2018, section 2.2).
  Stored vectors stay as they are. For a vector p of the second language and a query q of the first,
  ((p - mean2) R) . (q - mean1) is p . R (q - mean1) minus a constant, so that the query alone is turned. `leaning`
  moves it to the mean of the language that is searched: an index over both languages then returns that one's passages.
  How rankings of two languages become one is in `bilingual`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_PAIRS", "MOST_LEARNED", "Alignment", "learn_alignment"]

Vectors = NDArray[np.float32]

MIN_PAIRS: Final = 500
"""The least number of mutual nearest neighbours that a rotation is learned from."""

MOST_LEARNED: Final = 24_000
"""The most passages of each language that a rotation is learned from: 37 MB of vectors of 384 dimensions."""

_SAMPLE: Final = 6000  # vectors of the smaller language whose neighbours are looked for
_ROUNDS: Final = 2
_BLOCK: Final = 512
_LEAN: Final = (
    0.5  # of a query to the mean of a language: 97 of 100 passages found are of a language that is 1 in 20
)


@dataclass(frozen=True, slots=True)
class Alignment:
    """The map between the vectors of two languages.

    Attributes:
        first_mean, second_mean: [dimensions], mean vector of each language.
        rotation: [dimensions, dimensions], orthogonal; centred rows of the second language times it lie in the first.
        pairs: number of mutual nearest neighbours that it was learned from.
    """

    first_mean: Vectors
    second_mean: Vectors
    rotation: Vectors
    pairs: int

    def centred(self, vectors: Vectors, *, first: bool) -> Vectors:
        """Returns vectors of one language, [n, dimensions] or [dimensions], without its mean, of unit length.

        Args:
            first: whether they are of the first language, or of the second.
        """
        return _unit(vectors - (self.first_mean if first else self.second_mean))

    def turned(self, centred: Vectors, *, to_first: bool) -> Vectors:
        """Returns centred vectors of one language as they lie among those of the other.

        Args:
            to_first: whether they are of the second language and turned to the first, or the other way round.
        """
        # Not `@`: the threads of a BLAS product spin on after it, and the next query's embedding waits for the cores.
        way = self.rotation if to_first else self.rotation.T
        return np.einsum("...i,ij->...j", centred, way)

    def leaning(self, centred: Vectors, *, first: bool) -> Vectors:
        """Returns the query [dimensions] by which an index over both languages gives passages of one.

        Args:
            centred: [dimensions], a direction among the centred vectors of that language.
            first: whether that is the first language, or the second.
        """
        way = _unit(self.first_mean - self.second_mean)
        return _unit((_unit(centred) + (_LEAN if first else -_LEAN) * way).astype(np.float32))


def _never() -> bool:
    return False


def learn_alignment(
    first: Vectors, second: Vectors, *, seed: int = 0, stop: Callable[[], bool] = _never
) -> Alignment | None:
    """Returns the map between two languages, from passages of a store alone.

    Args:
        first: [n, dimensions], vectors of unit length of passages of one language.
        second: [m, dimensions], those of the other. They need not be translations; some subjects have to be common.
        seed: seed of the sample that neighbours are looked for.
        stop: asked several times a second; when it returns True, the work is given up.

    Returns:
        None if fewer than `MIN_PAIRS` passages are each other's nearest, or if it was stopped.
    """
    if min(len(first), len(second)) < MIN_PAIRS:
        return None
    if len(second) < len(
        first
    ):  # neighbours are looked for from the smaller side: a sample of it loses fewer pairs
        found = learn_alignment(second, first, seed=seed, stop=stop)
        if found is None:
            return None
        return Alignment(found.second_mean, found.first_mean, found.rotation.T, found.pairs)
    first_mean, second_mean = first.mean(axis=0), second.mean(axis=0)
    one, other = _unit(first - first_mean), _unit(second - second_mean)
    rotation = np.eye(first.shape[1], dtype=np.float32)
    chosen = np.random.default_rng(seed).permutation(len(one))[:_SAMPLE]
    pairs = 0
    for _ in range(_ROUNDS):
        turned = other @ rotation
        ahead = _nearest(one[chosen], turned, stop)
        back = _nearest(turned[ahead], one, stop)
        if stop():
            return None
        mutual = back == chosen
        pairs = int(mutual.sum())
        if pairs < MIN_PAIRS:
            return None
        left, _, right = np.linalg.svd(other[ahead[mutual]].T @ one[chosen[mutual]])
        rotation = (left @ right).astype(np.float32)
    return Alignment(first_mean, second_mean, rotation, pairs)


def _nearest(rows: Vectors, among: Vectors, stop: Callable[[], bool]) -> NDArray[np.int64]:
    """Returns the index of the nearest row of `among` for every row; any index after `stop` returned True."""
    found = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), _BLOCK):
        if stop():
            break
        found[start : start + _BLOCK] = np.argmax(rows[start : start + _BLOCK] @ among.T, axis=1)
    return found


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
