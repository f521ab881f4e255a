"""`fuse`: one ranking from the hits of the lexical and the dense arm, with scores from 0 to 1."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.index.protocol import Hits

__all__ = ["fuse"]

DENSE_WEIGHT: Final = 0.5
LOW_COSINE: Final = 0.78
HIGH_COSINE: Final = 0.92


def fuse(query: str, lexical: Hits | None, dense: Hits | None) -> Hits:
    """Returns every hit of the two arms, best first; equal scores in the order of keys.

    Args:
        query: text of the query.
        lexical: hits by BM25; None: the arm was not asked.
        dense: hits by cosine; None: the arm was not asked.
    """
    arms = [
        (arm, weight)
        for arm, weight in ((lexical, 1 - DENSE_WEIGHT), (dense, DENSE_WEIGHT))
        if arm is not None
    ]
    keys = np.unique(np.concatenate([arm.keys for arm, _ in arms])) if arms else np.empty(0, np.int64)
    scores = np.zeros(len(keys), np.float64)
    for arm, weight in arms:
        scores[np.searchsorted(keys, arm.keys)] += weight * _min_max(arm.scores)
    if not len(keys):
        return Hits(keys, scores.astype(np.float32))
    scores *= _confidence(lexical, dense) / max(scores.max(), 1e-9)
    order = np.lexsort((keys, -scores))
    return Hits(keys[order], scores[order].astype(np.float32))


def _confidence(lexical: Hits | None, dense: Hits | None) -> float:
    if dense is not None and len(dense):
        return float(np.clip((dense.scores[0] - LOW_COSINE) / (HIGH_COSINE - LOW_COSINE), 0.0, 1.0))
    if lexical is not None and len(lexical):
        return float(lexical.scores[0] / (lexical.scores[0] + 10.0))
    return 0.0


def _min_max(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    values = scores.astype(np.float64)
    if not len(values):
        return values
    low, high = values.min(), values.max()
    return np.ones(len(values)) if high == low else (values - low) / (high - low)
