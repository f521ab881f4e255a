"""`fuse`: one ranking from the hits of the lexical and the dense arm, with scores from 0 to 1.

NOTE: ranking.
  relevance = 0.3 * nearness + 0.7 * coverage
    nearness    cosine, stretched so that the candidates of one query cover 0 to 1: an embedder's cosines lie in a narrow band
    coverage    BM25 over the most that the query could reach. It is absolute: where no passage has more than a common word of
                the question (a paraphrase, another language) the lexical arm has little say. Min-max or reciprocal ranks would
                give it half, and lose up to 8 points of nDCG@10 to the dense arm on questions over the LibreOffice help.

NOTE: scores.
  The best passage's score is the probability, by logistic regression on its cosine and coverage, that the store treats the
  subject of the question, rather than another one. The others' are in proportion to their relevance.

NOTE: development data.
  The weight was chosen on man pages in English and Chinese asked by their summary lines, docstrings by their first line,
  descriptions of packages by their titles, and the development questions on the LibreOffice help, by a criterion that was
  written first: the mean gain over the best single arm, of settings within 0.1 points the simplest. Feedback from the best
  passages (Rocchio's, on vectors) and a list of function words for queries gained less than that, and went. Neither Cranfield's
  queries nor the law's took part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.index.protocol import Hits, VectorIndex

__all__ = ["E5", "Calibration", "Candidates", "calibration_of", "candidates", "confidence_of", "fuse"]

_DENSE_WEIGHT: Final = 0.3
_COSINE_WEIGHT, _COVERAGE_WEIGHT, _BOTH_OFFSET = 5.3, 11.4, -5.9
_COSINE_ALONE, _COSINE_OFFSET = 5.4, -3.4
_COVERAGE_ALONE, _COVERAGE_OFFSET = 10.8, -2.2


@dataclass(frozen=True, slots=True)
class Calibration:
    """The cosines of an embedder.

    Attributes:
        unrelated: median cosine of a question with the nearest passage of another subject.
        related: median cosine of a question with the passage that answers it.
    """

    unrelated: float
    related: float

    def nearness(self, cosine: float) -> float:
        """Returns a cosine on the scale where `unrelated` is 0 and `related` is 1."""
        return (cosine - self.unrelated) / (self.related - self.unrelated)


E5: Final = Calibration(unrelated=0.83, related=0.895)
"""Measured on e5-small-q4 with the development data."""

_ISOTROPIC: Final = Calibration(unrelated=0.3, related=0.6)


def calibration_of(embedder: str) -> Calibration:
    """Returns the calibration of an embedder by its name; one for cosines around 0 if it was not measured."""
    return E5 if "e5" in embedder.lower() else _ISOTROPIC


@dataclass(frozen=True, slots=True)
class Candidates:
    """Vectors of passages that may be in a ranking.

    Attributes:
        query: float32 [dimensions]: vector of the query.
        keys: int64 [passages].
        vectors: float32 [passages, dimensions], of unit length.
    """

    query: NDArray[np.float32]
    keys: NDArray[np.int64]
    vectors: NDArray[np.float32]


def candidates(index: VectorIndex, query: NDArray[np.float32], lexical: Hits, dense: Hits) -> Candidates:
    """Returns the vectors of the hits of both arms, for `fuse`."""
    keys, vectors = index.fetch(np.union1d(lexical.keys, dense.keys))
    return Candidates(query, keys, vectors)


def fuse(
    lexical: Hits | None,
    dense: Hits | None,
    candidates: Candidates | None = None,
    *,
    calibration: Calibration = E5,
) -> Hits:
    """Returns the hits of both arms as one ranking, best first; equal scores in the order of keys.

    Args:
        lexical: hits by BM25; None: the arm was not asked.
        dense: hits by cosine; None: the arm was not asked.
        candidates: vectors of the hits of both arms. Without them a passage that only the lexical arm found counts as the
            farthest of the dense one's.
        calibration: the cosines of the store's embedder.
    """
    found = [arm.keys for arm in (lexical, dense) if arm is not None]
    keys = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    if not len(keys):
        return Hits(keys, np.empty(0, np.float32))
    coverage = None if lexical is None else _coverage(keys, lexical, dense)
    if dense is None or not len(dense):
        cosine = None
    else:
        cosine = _cosines(keys, dense, candidates)
    relevance = _relevance(cosine, coverage)
    best = int(np.lexsort((keys, -relevance))[0])
    confidence = confidence_of(
        None if cosine is None else calibration.nearness(float(cosine[best])),
        None if coverage is None else float(coverage[best]),
    )
    scores = (confidence * relevance / max(float(relevance[best]), 1e-9)).astype(np.float32)
    order = np.lexsort((keys, -scores))
    return Hits(keys[order], scores[order])


def _relevance(
    cosine: NDArray[np.float64] | None, coverage: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    if cosine is None:
        assert coverage is not None
        return coverage
    low, high = float(cosine.min()), float(cosine.max())
    nearness = (cosine - low) / (high - low) if high > low else np.ones(len(cosine))
    return nearness if coverage is None else _DENSE_WEIGHT * nearness + (1 - _DENSE_WEIGHT) * coverage


def _coverage(keys: NDArray[np.int64], lexical: Hits, dense: Hits | None) -> NDArray[np.float64]:
    if not len(lexical):
        return np.zeros(len(keys))
    most = lexical.ceiling or float(lexical.scores[0])
    # Behind a list that was cut, a passage may have anything from nothing to the score of the last one in it.
    is_cut = dense is not None and len(lexical) >= len(dense)
    return _scattered(keys, lexical, float(lexical.scores[-1]) / 2 if is_cut else 0.0) / most


def _cosines(keys: NDArray[np.int64], dense: Hits, candidates: Candidates | None) -> NDArray[np.float64]:
    cosine = _scattered(keys, dense, float(dense.scores[-1]))
    if candidates is not None:
        rows, have = _rows(keys, candidates)
        cosine[have] = np.einsum("ij,j->i", candidates.vectors[rows], candidates.query)
    return cosine


def confidence_of(nearness: float | None, coverage: float | None) -> float:
    """Returns the score of the best passage: the probability that the store treats the subject of the question.

    Args:
        nearness: its cosine on the scale of `Calibration.nearness`. None: not known.
        coverage: its BM25 over the most that the query could reach. None: not known.
    """
    if nearness is None:
        logit = _COVERAGE_ALONE * (coverage or 0.0) + _COVERAGE_OFFSET
    elif coverage is None:
        logit = _COSINE_ALONE * nearness + _COSINE_OFFSET
    else:
        logit = _COSINE_WEIGHT * nearness + _COVERAGE_WEIGHT * coverage + _BOTH_OFFSET
    return 1 / (1 + math.exp(-logit))


def _scattered(keys: NDArray[np.int64], hits: Hits, missing: float) -> NDArray[np.float64]:
    values = np.full(len(keys), missing)
    values[np.searchsorted(keys, hits.keys)] = hits.scores
    return values


def _rows(keys: NDArray[np.int64], candidates: Candidates) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns the rows of the candidates' vectors, in the order of those `keys` that have one, and which keys do."""
    order = np.argsort(candidates.keys)
    have = np.isin(keys, candidates.keys)
    return order[np.searchsorted(candidates.keys, keys[have], sorter=order)], have
