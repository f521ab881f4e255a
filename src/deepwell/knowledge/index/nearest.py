"""Exact search: the rows nearest to a query, the same numbers in the same order whatever index found them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.index.protocol import Hits

__all__ = ["checked_query", "checked_vectors", "exact_scores", "hits", "merge", "nearest"]

_BLOCK: Final = 2048  # rows that are widened to float64 at once
_LENGTH_ERROR: Final = 1e-3


def hits(keys: NDArray[np.int64], scores: NDArray[np.float32], limit: int) -> Hits:
    """Returns the `limit` best of what was found, equal scores in the order of keys. Their arrays cannot be written to."""
    order = np.lexsort((keys, -scores))[:limit]
    best_keys, best_scores = keys[order], scores[order]
    best_keys.flags.writeable = best_scores.flags.writeable = False
    return Hits(best_keys, best_scores)


def merge(found: list[Hits], limit: int) -> Hits:
    """Returns the `limit` best of several hits over different keys."""
    keys = np.concatenate([np.empty(0, np.int64), *(one.keys for one in found)])
    scores = np.concatenate([np.empty(0, np.float32), *(one.scores for one in found)])
    return hits(keys, scores, limit)


def exact_scores(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the inner products [n] of `vectors` [n, d] with a query [d], summed in float64 and rounded once.

    Equal vectors get equal scores wherever they lie, which a product of matrices does not promise.
    """
    wide = query.astype(np.float64)
    scores = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float64)
        block *= wide
        scores[start : start + _BLOCK] = block.sum(axis=1)
    return scores


def nearest(
    vectors: NDArray[np.float32],
    keys: NDArray[np.int64],
    query: NDArray[np.float32],
    limit: int,
    *,
    alive: NDArray[np.bool_] | None = None,
) -> Hits:
    """Returns the `limit` rows of `vectors` [n, d] with the largest inner products with a query [d].

    Products in float32 narrow the rows down to those that rounding could bring among the best; `exact_scores` ranks these.
    `einsum` takes 1.5 ms for 26,000 rows on one core. A product of a matrix runs on all cores in OpenBLAS, whose threads wait
    for each other: beside other work 8 ms.

    Args:
        keys: [n], a key a row.
        alive: [n], rows that can be found. None: all.
    """
    rough = np.einsum("ij,j->i", vectors, query)
    if alive is not None:
        rough[~alive] = -np.inf
    # The error of a sum of d products of float32, at most d * 2^-24 * |x| * |q|, to both sides.
    error = 2 * len(query) * 2.0**-24 * (1 + _LENGTH_ERROR) ** 2
    least = np.partition(rough, len(rough) - limit)[len(rough) - limit] if limit < len(rough) else -np.inf
    candidates = np.flatnonzero((rough >= least - 2 * error) & (rough > -np.inf))
    return hits(keys[candidates], exact_scores(vectors[candidates], query), limit)


def checked_query(query: NDArray[np.float32], dimensions: int, limit: int) -> NDArray[np.float32]:
    """Returns a query [dimensions] as float32.

    Raises:
        ValueError: the shape does not fit, it is not finite, neither of unit length nor zero, or the limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit has to be at least 1, is {limit}")
    query = np.asarray(query)
    if query.shape != (dimensions,):
        raise ValueError(f"a query has shape [{dimensions}], this one {list(query.shape)}")
    return _checked(query[None])[0]


def checked_vectors(
    keys: NDArray[np.int64], vectors: NDArray[np.float32], dimensions: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns keys [n] as int64 and vectors [n, dimensions] as float32.

    Raises:
        ValueError: the shapes do not fit, a key is there twice, a vector is not finite, or neither of unit length nor zero.
    """
    keys, vectors = np.asarray(keys), np.asarray(vectors)
    if keys.ndim != 1 or (len(keys) and keys.dtype.kind not in "iu"):
        raise ValueError(f"keys are whole numbers of shape [n], these {keys.dtype} {list(keys.shape)}")
    if vectors.shape != (len(keys), dimensions):
        raise ValueError(
            f"{len(keys)} keys need vectors of shape [{len(keys)}, {dimensions}], not {list(vectors.shape)}"
        )
    keys = keys.astype(np.int64)
    if len(np.unique(keys)) < len(keys):
        raise ValueError("a key is there twice")
    return keys, _checked(vectors)


def _checked(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("a vector is not finite")
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    wrong = (np.abs(lengths - 1) > _LENGTH_ERROR) & (lengths != 0)
    if wrong.any():
        raise ValueError(f"a vector has length {lengths[wrong][0]:.4g}, neither 1 nor 0")
    return vectors
