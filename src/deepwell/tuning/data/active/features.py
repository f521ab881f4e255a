"""Features of texts for the base learner: hashed TF-IDF, which needs no model, or dense vectors of one.

The learner works on products of rows alone, so that both kinds share one interface and neither needs scipy.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DenseFeatures",
    "Features",
    "HashedFeatures",
    "HashedWeights",
    "Vectors",
    "features_apart",
    "tokens_of",
]

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
"""Makes dense features of texts, [texts, size]."""

_BUCKETS: Final = 1 << 18
_TOKEN: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_CJK: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_PIECE_ROWS: Final = 4096


class Features(Protocol):
    """Rows of features with a product: all that the learner needs."""

    def __len__(self) -> int: ...

    def gram(self, rows: Rows) -> Floats:
        """Returns the products of some rows with each other, [rows, rows]."""
        ...

    def weights(self, rows: Rows, coefficients: Floats) -> Any:
        """Returns the sum of `rows` with `coefficients` [rows, classes], as `scores` of the same kind of features reads it."""
        ...

    def scores(self, weights: Any) -> Floats:
        """Returns the products of all rows with weights, [len(self), classes]."""
        ...


def tokens_of(text: str) -> Iterator[str]:
    """Yields lower-cased words; of Chinese and Japanese text, which has no blanks, characters and pairs of them."""
    for found in _TOKEN.finditer(text.lower()):
        word = found.group()
        if not _CJK.search(word):
            yield word
            continue
        end = 0
        for run in _CJK.finditer(word):
            if run.start() > end:
                yield word[end : run.start()]
            signs = run.group()
            yield from signs
            yield from (signs[at : at + 2] for at in range(len(signs) - 1))
            end = run.end()
        if end < len(word):
            yield word[end:]


@dataclass(frozen=True, slots=True)
class HashedWeights:
    """Weights of the buckets that some rows have: ids in rising order, and values [ids, classes]."""

    ids: NDArray[np.int32]
    values: Floats


class HashedFeatures:
    """TF-IDF of hashed words in sparse rows of unit length, 8 bytes a distinct word of a text.

    Words fall into 2^18 buckets by CRC-32. Document frequencies are those of the texts given here; texts that are measured
    later take them with `transform`, so that nothing of a test set enters.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        ids, counts, starts = _count(texts)
        seen = np.bincount(ids, minlength=_BUCKETS).astype(np.float32)
        self._idf = np.log((1 + len(texts)) / (1 + seen)) + np.float32(1)
        self._set(ids, counts, starts)

    def transform(self, texts: Sequence[str]) -> HashedFeatures:
        """Returns the features of other texts, with the document frequencies of these."""
        other = object.__new__(HashedFeatures)
        other._idf = self._idf
        other._set(*_count(texts))
        return other

    def _set(self, ids: NDArray[np.int32], counts: Floats, starts: Rows) -> None:
        values = (1 + np.log(counts)) * self._idf[ids]
        lengths = np.diff(starts)
        squares = np.zeros(len(lengths), np.float32)
        full = lengths > 0
        squares[full] = np.add.reduceat(values**2, starts[:-1][full]) if full.any() else 0
        norms = np.sqrt(squares)
        values /= np.repeat(np.where(norms > 0, norms, 1), lengths)
        self._ids, self._values, self._starts = ids, values.astype(np.float32), starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def nbytes(self) -> int:
        """Memory of the rows, in bytes."""
        return self._ids.nbytes + self._values.nbytes + self._starts.nbytes

    def gram(self, rows: Rows) -> Floats:
        ids, dense = self._dense(rows)
        del ids
        return dense @ dense.T

    def weights(self, rows: Rows, coefficients: Floats) -> HashedWeights:
        ids, dense = self._dense(rows)
        return HashedWeights(ids, dense.T @ coefficients)

    def scores(self, weights: HashedWeights) -> Floats:
        classes = weights.values.shape[1]
        table = np.zeros((_BUCKETS, classes), np.float32)
        table[weights.ids] = weights.values
        found = np.zeros((len(self), classes), np.float32)
        for first in range(0, len(self), _PIECE_ROWS):
            last = min(first + _PIECE_ROWS, len(self))
            begin, end = int(self._starts[first]), int(self._starts[last])
            if begin == end:
                continue
            products = table[self._ids[begin:end]] * self._values[begin:end, None]
            starts = self._starts[first:last]
            full = self._starts[first + 1 : last + 1] > starts
            found[first:last][full] = np.add.reduceat(products, starts[full] - begin)
        return found

    def _dense(self, rows: Rows) -> tuple[NDArray[np.int32], Floats]:
        """Returns the buckets that some rows have, in rising order, and the rows over those alone."""
        parts = [slice(int(self._starts[row]), int(self._starts[row + 1])) for row in rows]
        if not parts:
            return np.empty(0, np.int32), np.empty((0, 0), np.float32)
        every = np.concatenate([self._ids[part] for part in parts])
        ids, places = np.unique(every, return_inverse=True)
        dense = np.zeros((len(parts), len(ids)), np.float32)
        lines = np.repeat(np.arange(len(parts)), [part.stop - part.start for part in parts])
        dense[lines, places] = np.concatenate([self._values[part] for part in parts])
        return ids, dense


class DenseFeatures:
    """Vectors of a model as features, [texts, size]: embeddings, or log likelihoods of the classes.

    They are centred on the mean of the texts given here and scaled to a mean length of one. Embeddings of one model point
    much the same way, and without that every product of two is nearly the same.
    """

    def __init__(self, vectors: NDArray[np.floating[Any]]) -> None:
        given = np.asarray(vectors, np.float32)
        self._mean = given.mean(axis=0) if len(given) else np.zeros(given.shape[1], np.float32)
        centred = given - self._mean
        length = float(np.sqrt(np.mean(np.sum(centred**2, axis=1)))) if len(given) else 0.0
        self._scale = np.float32(1 / length if length > 0 else 1)
        self._rows: Floats = centred * self._scale

    def transform(self, vectors: NDArray[np.floating[Any]]) -> DenseFeatures:
        """Returns the features of other texts, centred and scaled like these."""
        other = object.__new__(DenseFeatures)
        other._mean, other._scale = self._mean, self._scale
        other._rows = (np.asarray(vectors, np.float32) - self._mean) * self._scale
        return other

    def __len__(self) -> int:
        return len(self._rows)

    def gram(self, rows: Rows) -> Floats:
        return self._rows[rows] @ self._rows[rows].T

    def weights(self, rows: Rows, coefficients: Floats) -> Floats:
        return self._rows[rows].T @ coefficients

    def scores(self, weights: Floats) -> Floats:
        return self._rows @ weights


def features_apart(
    pool: Sequence[str], held_out: Sequence[str], vectors: Vectors | None = None
) -> tuple[Features, Features]:
    """Returns the features of a pool, and those of held-out texts, which do not touch the first.

    Args:
        vectors: makes dense features of texts; None: hashed words.
    """
    if vectors is None:
        hashed = HashedFeatures(pool)
        return hashed, hashed.transform(held_out)
    found = vectors([*pool, *held_out])
    dense = DenseFeatures(found[: len(pool)])
    return dense, dense.transform(found[len(pool) :])


def _count(texts: Iterable[str]) -> tuple[NDArray[np.int32], Floats, Rows]:
    """Returns the buckets of each text in rising order, how often each occurs, and where the texts begin."""
    known: dict[str, int] = {}
    ids: list[NDArray[np.int32]] = []
    counts: list[NDArray[np.int64]] = []
    starts = [0]
    for text in texts:
        found: list[int] = []
        for token in tokens_of(text):
            bucket = known.get(token)
            if bucket is None:
                bucket = known[token] = zlib.crc32(token.encode()) & (_BUCKETS - 1)
            found.append(bucket)
        buckets, numbers = np.unique(np.array(found, np.int32), return_counts=True)
        ids.append(buckets)
        counts.append(numbers)
        starts.append(starts[-1] + len(buckets))
    if not ids:
        return np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(1, np.int64)
    return np.concatenate(ids), np.concatenate(counts).astype(np.float32), np.array(starts, np.int64)
