"""Trains the router's classifier in numpy: the likelihood of the labelled sets of intents, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.media.router.classifier import HEADS, SETS, Intent, RouterWeights, heads_of_sets
from deepwell.media.router.features import BUCKETS, Features, features_of, wording_count
from deepwell.media.router.fitting import Double, Sparse, least
from deepwell.media.router.joining import Join
from deepwell.media.router.labelled import Labelled

__all__ = ["cross_validated", "train_router"]

Float = NDArray[np.float32]
Progress = Callable[[int, int], None]

_SHRINK: Final = 0.5
_SHRINK_BIAS: Final = 0.02
# Scales of the kinds of features: a larger one lets its kind say more for the same penalty.
_SCALE_WORDINGS: Final = 2.5
_SCALE_ATTACHED: Final = 1.0
_SCALE_RUNS: Final = 3.0
_SCALE_LETTERS: Final = 2.0
_SCALE_CLAUSES: Final = 3.0
_SCALE_VECTOR: Final = 4.0
_COUNT_OF_JOIN: Final = 0.3
"""The weight of a join, a written request having 1."""


def train_router(
    requests: Sequence[Labelled],
    vectors: Float | None,
    progress: Progress = lambda done, total: None,
    joins: Sequence[Join] = (),
) -> RouterWeights:
    """Returns weights fitted to labelled requests.

    Args:
        requests: the requests.
        vectors: e5-small's vector of each, and behind them that of each join, [N, D]; None: a classifier for machines
            without the encoder.
        progress: told the step, and their number.
        joins: requests made of two.
    """
    table = _table([*requests, *(join.request for join in joins)], vectors)
    counts = np.concatenate([np.ones(len(requests)), np.full(len(joins), _COUNT_OF_JOIN)])
    fitted = _Fitted.of(table, _fit(table, counts, progress))
    wide, scale = 4 * wording_count(), _wording_scale()
    words, clauses = np.zeros((HEADS, wide + 2 * BUCKETS)), np.zeros((HEADS, BUCKETS))
    words[:, table.words_seen] = fitted.words.T
    clauses[:, table.clauses_seen] = fitted.clauses.T
    return RouterWeights(
        table.centre,
        _narrow(fitted.vector.T * table.spread),
        _narrow(words[:, :wide] * scale),
        _narrow(words[:, wide : wide + BUCKETS] * _SCALE_RUNS),
        _narrow(words[:, wide + BUCKETS :] * _SCALE_LETTERS),
        _narrow(clauses * _SCALE_CLAUSES),
        _narrow(fitted.clause_bias),
        _narrow(fitted.bias),
    )


def cross_validated(
    requests: Sequence[Labelled],
    vectors: Float | None,
    joins: Sequence[Join] = (),
    *,
    folds: int = 6,
    seed: int = 0,
) -> list[tuple[Intent, ...]]:
    """Returns what classifiers that have not seen a request, nor a join of it, say of it, for each request."""
    table = _table([*requests, *(join.request for join in joins)], vectors)
    order = np.random.default_rng(seed).permutation(len(requests))
    answers: list[tuple[Intent, ...]] = [()] * len(requests)
    for fold in np.array_split(order, min(folds, len(requests))):
        counts = np.ones(len(requests))
        counts[fold] = 0
        of_joins = [_COUNT_OF_JOIN * counts[join.first] * counts[join.second] for join in joins]
        fitted = _Fitted.of(table, _fit(table, np.concatenate([counts, of_joins]), lambda done, total: None))
        scores = fitted.heads(table)[0] @ heads_of_sets().T + fitted.bias
        for place in fold:
            answers[place] = SETS[int(scores[place].argmax())]
    return answers


@dataclass(frozen=True, slots=True)
class _Table:
    """The features of requests.

    Attributes:
        words: wordings, runs and letters, scaled, but for those that one request alone has: they say nothing of others.
        words_seen: their numbers.
        clauses: runs and letters of the clauses of all requests.
        clauses_seen: their buckets.
        owners: the request of each clause.
        vectors: [N, D], scaled; D is 0 without the encoder.
        wanted: the numbers of the sets that the requests want.
        centre: mean of the vectors.
        spread: the scale of the vectors.
    """

    words: Sparse
    words_seen: NDArray[np.int64]
    clauses: Sparse
    clauses_seen: NDArray[np.int64]
    owners: NDArray[np.int64]
    vectors: Double
    wanted: NDArray[np.int64]
    centre: Float
    spread: float


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Weights of scaled features, parts of one point of the search."""

    words: Double
    clauses: Double
    vector: Double
    clause_bias: Double
    bias: Double

    @staticmethod
    def of(table: _Table, point: Double) -> _Fitted:
        """Returns the parts of a point."""
        widths = (table.words.shape[1], table.clauses.shape[1], table.vectors.shape[1])
        ends = np.cumsum([HEADS * width for width in widths] + [HEADS])
        words, clauses, vector, clause_bias, bias = np.split(point, ends)
        return _Fitted(
            words.reshape(-1, HEADS), clauses.reshape(-1, HEADS), vector.reshape(-1, HEADS), clause_bias, bias
        )

    def heads(self, table: _Table) -> tuple[Double, Double]:
        """Returns the scores of the heads, [N, heads], and how much each clause moves those of its request."""
        each = table.clauses.times(self.clauses) + self.clause_bias
        most = np.zeros((len(table.wanted), HEADS))
        np.maximum.at(most, table.owners, each)
        powers = np.exp(each - most[table.owners])
        total = np.exp(-most)
        np.add.at(total, table.owners, powers)
        heads = table.words.times(self.words) + table.vectors @ self.vector + np.log(total) + most
        return heads, powers / total[table.owners]


def _fit(table: _Table, counts: Double, progress: Progress) -> Double:
    """Returns the point of the likeliest weights.

    Args:
        counts: the weight of each request; 0 leaves it out.
    """
    heads, rows = heads_of_sets().astype(np.float64), np.arange(len(table.wanted))
    width = HEADS * (table.words.shape[1] + table.clauses.shape[1] + table.vectors.shape[1])
    shrink = np.full(width + HEADS + len(SETS), _SHRINK_BIAS)
    shrink[:width] = _SHRINK

    def slope(point: Double) -> tuple[float, Double]:
        fitted = _Fitted.of(table, point)
        told, moved = fitted.heads(table)
        scores = told @ heads.T + fitted.bias
        most = scores.max(1, keepdims=True)
        powers = np.exp(scores - most)
        total = powers.sum(1, keepdims=True)
        missed = np.log(total[:, 0]) + most[:, 0] - scores[rows, table.wanted]
        loss = float(counts @ missed) + float(shrink @ np.square(point)) / 2
        wrong = powers / total
        wrong[rows, table.wanted] -= 1
        wrong *= counts[:, None]
        by_head = wrong @ heads
        by_clause = by_head[table.owners] * moved
        parts = (
            table.words.back(by_head).ravel(),
            table.clauses.back(by_clause).ravel(),
            (table.vectors.T @ by_head).ravel(),
            by_clause.sum(0),
            wrong.sum(0),
        )
        return loss, np.concatenate(parts) + shrink * point

    return least(slope, np.zeros(len(shrink)), progress)


def _table(requests: Sequence[Labelled], vectors: Float | None) -> _Table:
    features = [features_of(one.text, one.attached) for one in requests]
    scale, wide = _wording_scale(), 4 * wording_count()
    words = Sparse.of([_words(one, scale) for one in features], wide + 2 * BUCKETS)
    clauses = [_scaled(clause, _SCALE_CLAUSES) for one in features for clause in one.clauses]
    centre, spread = np.zeros(0, np.float32), 1.0
    dense = np.zeros((len(requests), 0))
    if vectors is not None:
        centre = vectors.mean(0)
        dense = (vectors - centre).astype(np.float64)
        spread = _SCALE_VECTOR / max(1e-9, float(np.sqrt(np.square(dense).sum(1).mean())))
        dense *= spread
    return _Table(
        *words.kept(2),
        *Sparse.of(clauses, BUCKETS).kept(2),
        np.repeat(np.arange(len(requests)), [len(one.clauses) for one in features]),
        dense,
        np.array([SETS.index(one.wanted()) for one in requests]),
        centre,
        spread,
    )


def _words(features: Features, scale: Double) -> tuple[NDArray[np.int64], Double]:
    wide = len(scale)
    runs, run_values = _scaled(features.runs, _SCALE_RUNS)
    letters, letter_values = _scaled(features.letters, _SCALE_LETTERS)
    places = np.concatenate([features.wordings.astype(np.int64), wide + runs, wide + BUCKETS + letters])
    return places, np.concatenate([scale[features.wordings], run_values, letter_values])


def _scaled(buckets: NDArray[np.int32], scale: float) -> tuple[NDArray[np.int64], Double]:
    return buckets.astype(np.int64), np.full(len(buckets), scale * max(1, len(buckets)) ** -0.5)


def _wording_scale() -> Double:
    scale = np.full(4 * wording_count(), _SCALE_ATTACHED)
    scale[: wording_count()] = _SCALE_WORDINGS
    return scale


def _narrow(values: Double) -> Float:
    return np.ascontiguousarray(values, np.float32)
