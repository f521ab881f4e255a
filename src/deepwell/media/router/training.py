"""Trains the router's classifier in numpy: the likelihood of the labelled sets of intents, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest
from deepwell.media.router.classifier import HEADS, INTENTS, SETS, Intent, RouterWeights, heads_of_sets
from deepwell.media.router.features import BUCKETS, Attachment, features_of, wording_count

__all__ = ["Labelled", "cross_validated", "read_labelled", "train_router"]

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Slope = Callable[[Double], tuple[float, Double]]

_STEPS: Final = 80
_MEMORY: Final = 10
_SHRINK: Final = 0.5
_SHRINK_BIAS: Final = 0.02
# Scales of the kinds of features: a larger one lets its kind say more for the same penalty.
_SCALE_WORDINGS: Final = np.float32(2.5)
_SCALE_RUNS: Final = np.float32(3.0)
_SCALE_VECTOR: Final = np.float32(4.0)
_SCALE_ATTACHED: Final = np.float32(1.0)


class Labelled(msgspec.Struct, forbid_unknown_fields=True):
    """A request and what it asks for."""

    text: str
    intents: tuple[Intent, ...]
    language: str = ""
    attached: tuple[Attachment, ...] = ()

    def wanted(self) -> tuple[Intent, ...]:
        """Returns the intents in the order of `INTENTS`."""
        return tuple(intent for intent in INTENTS if intent in self.intents)


def read_labelled(path: Path) -> list[Labelled]:
    """Returns the requests of a file of JSON lines.

    Raises:
        InvalidRequest: the file cannot be read, or a line has another form or asks for a set that the router does not know.
    """
    try:
        requests = msgspec.json.Decoder(Labelled).decode_lines(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidRequest.of("router_data", path=path, reason=error) from error
    for number, request in enumerate(requests, 1):
        if request.wanted() not in SETS:
            raise InvalidRequest.of(
                "router_data", path=path, reason=f"line {number}: {list(request.intents)}"
            )
    if not requests:
        raise InvalidRequest.of("router_data", path=path, reason="0")
    return requests


def train_router(
    requests: Sequence[Labelled],
    vectors: Float | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RouterWeights:
    """Returns weights fitted to labelled requests.

    Args:
        requests: the requests.
        vectors: e5-small's vector of each, [N, D]; None: a classifier for machines without the encoder.
        progress: told the step, and their number.
    """
    table, wide = _table(requests, vectors), 4 * wording_count()
    shares, bias = _fitted(table.features @ table.features.T, table.wanted, progress)
    weights, behind = shares.T @ table.features, wide + len(table.seen)
    runs = np.zeros((HEADS, BUCKETS), np.float32)
    runs[:, table.seen] = weights[:, wide:behind] * _SCALE_RUNS
    return RouterWeights(
        table.centre, weights[:, behind:] * table.spread, weights[:, :wide] * table.scale, runs, bias
    )


def cross_validated(
    requests: Sequence[Labelled], vectors: Float | None, *, folds: int = 6, seed: int = 0
) -> list[tuple[Intent, ...]]:
    """Returns what classifiers that have not seen a request say of it, for each request."""
    table = _table(requests, vectors)
    alike = table.features @ table.features.T
    order = np.random.default_rng(seed).permutation(len(requests))
    answers: list[tuple[Intent, ...]] = [()] * len(requests)
    for fold in np.array_split(order, min(folds, len(requests))):
        others = np.setdiff1d(order, fold)
        shares, bias = _fitted(alike[np.ix_(others, others)], table.wanted[others], lambda done, total: None)
        scores = alike[np.ix_(fold, others)] @ shares @ heads_of_sets().T + bias
        for place, best in zip(fold, scores.argmax(1), strict=True):
            answers[place] = SETS[int(best)]
    return answers


@dataclass(frozen=True, slots=True)
class _Table:
    """The features of requests, scaled, [N, wordings + seen runs + D], and the numbers of the sets that they want."""

    features: Float
    wanted: NDArray[np.int64]
    scale: Float
    seen: NDArray[np.int64]
    centre: Float
    spread: np.float32


def _table(requests: Sequence[Labelled], vectors: Float | None) -> _Table:
    count, wide = len(requests), 4 * wording_count()
    said = np.zeros((count, wide), np.float32)
    sparse = np.zeros((count, BUCKETS), np.float32)
    for row, request in enumerate(requests):
        one = features_of(request.text, request.attached)
        said[row, one.wordings] = 1.0
        sparse[row, one.runs] = max(1, len(one.runs)) ** -0.5
    seen = np.flatnonzero((sparse > 0).sum(0) >= 2)  # what one request alone has says nothing of others
    scale = np.full(wide, _SCALE_ATTACHED, np.float32)
    scale[: wording_count()] = _SCALE_WORDINGS
    blocks = [said * scale, sparse[:, seen] * _SCALE_RUNS]
    centre, spread = np.zeros(0, np.float32), np.float32(1.0)
    if vectors is not None:
        centre = vectors.mean(0)
        spread = np.float32(
            _SCALE_VECTOR / max(1e-9, float(np.sqrt(np.square(vectors - centre).sum(1).mean())))
        )
        blocks.append((vectors - centre) * spread)
    wanted = np.array([SETS.index(one.wanted()) for one in requests])
    return _Table(np.concatenate(blocks, 1), wanted, scale, seen, centre, spread)


def _fitted(
    alike: Float, wanted: NDArray[np.int64], progress: Callable[[int, int], None]
) -> tuple[Float, Float]:
    """Returns the share of each request in the weights of the heads, [N, heads], and the biases of the sets.

    Args:
        alike: inner products of the features of requests, [N, N]. Weights that the penalty keeps small are sums of
            features, and there are fewer requests than features.
    """
    values, vectors = np.linalg.eigh(alike)
    kept = values > 1e-5 * values[-1]
    roots, vectors = np.sqrt(values[kept]).astype(np.float32), vectors[:, kept].astype(np.float32)
    features = vectors * roots
    heads, rows = heads_of_sets(), np.arange(len(features))
    width = features.shape[1] * HEADS

    def slope(point: Double) -> tuple[float, Double]:
        weights, bias = point[:width].reshape(-1, HEADS), point[width:]
        scores = (features @ weights.astype(np.float32)) @ heads.T + bias
        most = scores.max(1, keepdims=True)
        powers = np.exp(scores - most)
        total = powers.sum(1, keepdims=True)
        loss = float((np.log(total[:, 0]) + most[:, 0] - scores[rows, wanted]).sum())
        loss += _SHRINK / 2 * float(np.square(weights).sum()) + _SHRINK_BIAS / 2 * float(
            np.square(bias).sum()
        )
        wrong = powers / total
        wrong[rows, wanted] -= 1
        by_weight = features.T @ (wrong @ heads).astype(np.float32) + _SHRINK * weights
        return loss, np.concatenate([by_weight.ravel(), wrong.sum(0) + _SHRINK_BIAS * bias])

    point = _least(slope, np.zeros(width + len(SETS)), progress)
    shares = vectors @ (point[:width].reshape(-1, HEADS).astype(np.float32) / roots[:, None])
    return shares.astype(np.float32), point[width:].astype(np.float32)


def _least(slope: Slope, point: Double, progress: Callable[[int, int], None]) -> Double:
    """Returns the point where a convex function is least (Nocedal and Wright 2006, algorithm 7.5)."""
    value, gradient = slope(point)
    pairs: list[tuple[Double, Double]] = []
    for step in range(1, _STEPS + 1):
        direction = _direction(gradient, pairs)
        decline, length = float(gradient @ direction), 1.0
        while True:
            after, gradient_after = slope(point + length * direction)
            if after <= value + 1e-4 * length * decline or length < 1e-8:
                break
            length /= 2
        moved, bent = length * direction, gradient_after - gradient
        if float(moved @ bent) > 1e-10:
            pairs = [*pairs, (moved, bent)][-_MEMORY:]
        settled = abs(value - after) < 1e-6 * abs(value)
        point, value, gradient = point + moved, after, gradient_after
        progress(step, _STEPS)
        if settled:
            break
    return point


def _direction(gradient: Double, pairs: Sequence[tuple[Double, Double]]) -> Double:
    direction, shares = -gradient, list[float]()
    if not pairs:
        return direction / max(1.0, float(np.linalg.norm(gradient)))
    for moved, bent in reversed(pairs):
        shares.append(float(moved @ direction) / float(moved @ bent))
        direction = direction - shares[-1] * bent
    moved, bent = pairs[-1]
    direction = direction * (float(moved @ bent) / float(bent @ bent))
    for (moved, bent), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + moved * (share - float(bent @ direction) / float(moved @ bent))
    return direction
