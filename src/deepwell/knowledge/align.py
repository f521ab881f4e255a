"""Aligns the vectors of two languages, so that a question finds passages of the other language.

NOTE: why and how.
  A multilingual encoder puts its language into every vector: with e5-small, passages in the question's language come first,
  even poor ones, and a translation is the nearest neighbour of the other language in 85 of 100 cases only. Two steps remove
  most of that, without any labelled pair: the mean of each language is taken away, and the second language is rotated onto the
  first by the orthogonal map that fits its mutual nearest neighbours best (Schoenemann 1966; Conneau et al. 2018, section 2.2).
  Stored vectors stay as they are. For a vector p of the second language and a query q of the first,
  ((p - mean2) R) . (q - mean1) is p . R (q - mean1) minus a constant, so that the query alone is mapped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_PAIRS", "Alignment", "across", "interleaved", "is_chinese", "learn_alignment"]

Vectors = NDArray[np.float32]

MIN_PAIRS: Final = 500
"""The least number of mutual nearest neighbours that a rotation is learned from."""

_SAMPLE: Final = 6000  # vectors of the first language whose neighbours are looked for
_ROUNDS: Final = 2
_BLOCK: Final = 1024
_BRIDGES: Final = 5  # passages of the question's language that lead to the other one
_LEXICAL_WEIGHT: Final = 0.1
_HAN_SHARE: Final = 0.15
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_LETTER: Final = re.compile(r"[^\W\d_]")


def is_chinese(text: str) -> bool:
    """Tells whether a text is Chinese: at least 15 % of its letters are Han. Names of products stay Latin in Chinese texts."""
    letters = len(_LETTER.findall(text))
    return letters > 0 and len(_HAN.findall(text)) >= _HAN_SHARE * letters


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

    def common(self, vectors: Vectors, *, of_first: bool) -> Vectors:
        """Returns vectors of either language, [n, dimensions] or [dimensions], centred and turned to the first language."""
        if of_first:
            return _unit(vectors - self.first_mean)
        return _unit(vectors - self.second_mean) @ self.rotation

    def from_first(self, query: Vectors) -> tuple[Vectors, Vectors]:
        """Returns a query of the first language as it searches passages of the first, and of the second."""
        own = _unit(query - self.first_mean)
        return own, own @ self.rotation.T

    def from_second(self, query: Vectors) -> tuple[Vectors, Vectors]:
        """Returns a query of the second language as it searches passages of the second, and of the first."""
        own = _unit(query - self.second_mean)
        return own, own @ self.rotation


def learn_alignment(first: Vectors, second: Vectors, *, seed: int = 0) -> Alignment | None:
    """Returns the map between two languages, from passages of a store alone.

    Args:
        first: [n, dimensions], vectors of unit length of passages of one language.
        second: [m, dimensions], those of the other. They need not be translations; some subjects have to be common.
        seed: seed of the sample that neighbours are looked for.

    Returns:
        None if fewer than `MIN_PAIRS` passages are each other's nearest.
    """
    if min(len(first), len(second)) < MIN_PAIRS:
        return None
    first_mean, second_mean = first.mean(axis=0), second.mean(axis=0)
    one, other = _unit(first - first_mean), _unit(second - second_mean)
    rotation = np.eye(first.shape[1], dtype=np.float32)
    chosen = np.random.default_rng(seed).permutation(len(one))[:_SAMPLE]
    pairs = 0
    for _ in range(_ROUNDS):
        ahead = _nearest(one[chosen], other @ rotation)
        back = _nearest((other @ rotation)[ahead], one)
        mutual = back == chosen
        pairs = int(mutual.sum())
        if pairs < MIN_PAIRS:
            return None
        left, _, right = np.linalg.svd(other[ahead[mutual]].T @ one[chosen[mutual]])
        rotation = (left @ right).astype(np.float32)
    return Alignment(first_mean, second_mean, rotation, pairs)


def _nearest(rows: Vectors, among: Vectors) -> NDArray[np.int64]:
    """Returns the index of the nearest row of `among` for every row."""
    return np.concatenate(
        [np.argmax(rows[start : start + _BLOCK] @ among.T, axis=1) for start in range(0, len(rows), _BLOCK)]
    )


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def across(
    own: Vectors, other: Vectors, query: Vectors, lexical: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the scores [n] of passages in a question's own language, and [m] of those in the other language.

    A passage of the other language is near the question itself, or near a passage of the question's language that answers it
    well: the latter makes up for questions whose wording the encoder carries badly from one language to the other. The numbers
    were chosen on the development questions of the LibreOffice help.

    Args:
        own: [n, dimensions], centred vectors of unit length; see `Alignment`.
        other: [m, dimensions], centred ones, rotated to the same language.
        query: [dimensions], likewise.
        lexical: [n], BM25 of the own passages over that of the best; 0 for those that no word was found in.
    """
    ranked = own @ query + _LEXICAL_WEIGHT * lexical
    best = np.argsort(-ranked, kind="stable")[:_BRIDGES]
    bridged = (own[best] @ other.T + ranked[best][:, None]).max(axis=0)
    return ranked, bridged + other @ query


def interleaved(first: NDArray[np.int64], second: NDArray[np.int64], limit: int) -> list[tuple[int, int]]:
    """Returns the ranks of two lists as one, by turns: pairs of the list's number, 0 or 1, and the key."""
    merged: list[tuple[int, int]] = []
    for place in range(limit):
        merged += [
            (number, int(keys[place])) for number, keys in ((0, first), (1, second)) if place < len(keys)
        ]
    return merged[:limit]
