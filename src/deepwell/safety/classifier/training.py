"""Trains the classifier: logistic regression over hashed n-grams, by AdaGrad, on windows spread over each text.

Same data and seed give the same weights, bit for bit. Training again on the windows that score highest was measured and
left out: on the development split it found fewer unseen attacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.classifier.detector import SMOOTHING
from deepwell.safety.classifier.features import BUCKET_BITS, Grams, grams
from deepwell.safety.classifier.weights import CATEGORIES, COLUMNS, Weights

__all__ = ["BENIGN", "Example", "TrainingOptions", "train"]

BENIGN: Final = "benign"
_CLASSES: Final = len(CATEGORIES)


@dataclass(frozen=True, slots=True)
class Example:
    """A text to learn from.

    Attributes:
        text: the folded reading of it.
        category: one of `CATEGORIES`, or `benign`.
        weight: how much it counts against others of its category.
    """

    text: str
    category: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Settings of a training run.

    Attributes:
        windows: lengths of the sliding windows, in characters.
        epochs: passes over the windows.
        batch: windows a step.
        rate: step size of AdaGrad.
        decay: pull of the weights to zero, a step.
        benign_share: weight of all benign windows together, against 1 for each category of attack.
        seed: order of the windows.
    """

    windows: tuple[int, ...] = (80, 256, 1024)
    epochs: int = 10
    batch: int = 256
    rate: float = 0.4
    decay: float = 1e-4
    benign_share: float = 3.0
    seed: int = 17


@dataclass(frozen=True, slots=True)
class _Windows:
    """Rows of the training matrix.

    Attributes:
        buckets: int32, of all rows one after the other.
        bounds: int64 [rows + 1].
        labels: int8 [rows]; number of the category, or -1 for benign.
        weights: float32 [rows].
    """

    buckets: NDArray[np.int32]
    bounds: NDArray[np.int64]
    labels: NDArray[np.int8]
    weights: NDArray[np.float32]


def train(
    examples: Sequence[Example],
    options: TrainingOptions | None = None,
    said: Callable[[str], None] = lambda _: None,
) -> Weights:
    """Returns trained weights. Thresholds are zero and scores plain logistic until `chosen` sets them.

    Args:
        said: called with a line at the end.

    Raises:
        ValueError: a category has no example.
    """
    options = options or TrainingOptions()
    labels = np.array([_label(one.category) for one in examples], dtype=np.int8)
    if missing := {*range(-1, _CLASSES)} - set(labels.tolist()):
        raise ValueError(f"no examples of {[(*CATEGORIES, BENIGN)[number] for number in sorted(missing)]}")
    read = [grams(one.text) for one in examples]
    rows = _rows(read, options.windows, labels, [one.weight for one in examples])
    table, biases, loss = _fitted(rows, options)
    said(f"{len(rows.labels):,} windows, loss {loss:.4f}")
    return _quantised(table, biases, np.array(options.windows, dtype=np.int32))


def _label(category: str) -> int:
    return CATEGORIES.index(category) if category in CATEGORIES else -1


def _spread(read: Grams, windows: Sequence[int]) -> list[tuple[int, int]]:
    """Returns up to six windows of the middle size, spread evenly over a text."""
    size, length = len(read.kept), sorted(windows)[len(windows) // 2]
    if size <= length:
        return [(0, size)] if size else []
    number = min(6, -(-size // length))
    return [(int(start), int(start) + length) for start in np.linspace(0, size - length, number)]


def _rows(
    read: Sequence[Grams], windows: Sequence[int], labels: NDArray[np.int8], weights: Sequence[float]
) -> _Windows:
    """Returns the training matrix. The windows of a text share its weight; those of a benign text count in full."""
    pieces: list[NDArray[np.int64]] = []
    row_labels: list[int] = []
    row_weights: list[float] = []
    for one, label, weight in zip(read, labels.tolist(), weights, strict=True):
        spans = _spread(one, windows)
        for start, end in spans:
            pieces.append(buckets_between(one, start, end))
            row_labels.append(label)
            row_weights.append(weight if label < 0 else weight / len(spans))
    bounds = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=bounds[1:])
    return _Windows(
        np.concatenate(pieces).astype(np.int32),
        bounds,
        np.array(row_labels, dtype=np.int8),
        np.array(row_weights, dtype=np.float32),
    )


def buckets_between(read: Grams, start: int, end: int) -> NDArray[np.int64]:
    """Returns the buckets of the n-grams that begin in a window."""
    first, last = np.searchsorted(read.starts, (start, end))
    return np.concatenate(
        [*(each[start:end] for each in read.characters), *(each[first:last] for each in read.words)]
        or [np.zeros(0, dtype=np.int64)]
    )


def _fitted(
    rows: _Windows, options: TrainingOptions
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Returns a table, biases and the mean loss of the last epoch."""
    order_of = np.random.default_rng(options.seed)
    size = 1 << BUCKET_BITS
    table = np.zeros((_CLASSES, size), dtype=np.float32)
    biases = np.zeros(_CLASSES, dtype=np.float32)
    squares = np.full_like(table, 1e-8)
    bias_squares = np.full_like(biases, 1e-8)
    weights = _balanced(rows, options.benign_share)
    lengths = np.diff(rows.bounds)
    loss = 0.0
    for _ in range(options.epochs):
        losses = 0.0
        order = order_of.permutation(np.flatnonzero(lengths > 0))
        for begin in range(0, len(order), options.batch):
            batch = order[begin : begin + options.batch]
            counts = lengths[batch]
            places = np.repeat(rows.bounds[batch] - np.cumsum(counts) + counts, counts) + np.arange(
                counts.sum()
            )
            buckets = rows.buckets[places]
            values = (1 / np.sqrt(counts + SMOOTHING)).astype(np.float32)
            edges = np.cumsum(counts) - counts
            spread = np.repeat(np.arange(len(batch)), counts)
            for label in range(_CLASSES):
                weight = weights[label, batch]
                logits = np.add.reduceat(table[label][buckets], edges) * values + biases[label]
                wanted = (rows.labels[batch] == label).astype(np.float32)
                residuals = weight * (1 / (1 + np.exp(-logits)) - wanted)
                losses += float((weight * np.logaddexp(0, np.where(wanted > 0, -logits, logits))).sum())
                slope = np.bincount(buckets, (residuals * values)[spread], minlength=size).astype(np.float32)
                slope += options.decay * table[label]
                squares[label] += slope * slope
                table[label] -= options.rate * slope / np.sqrt(squares[label])
                bias = residuals.sum()
                bias_squares[label] += bias * bias
                biases[label] -= options.rate * bias / np.sqrt(bias_squares[label])
        loss = losses / _CLASSES / len(order)
    return table, biases, loss


def _balanced(rows: _Windows, benign_share: float) -> NDArray[np.float32]:
    """Returns a weight for each category and row: [categories, rows]. Other attacks say nothing of a category."""
    weights = np.zeros((_CLASSES, len(rows.labels)), dtype=np.float32)
    benign = rows.labels < 0
    for label in range(_CLASSES):
        own = rows.labels == label
        weights[label, own] = rows.weights[own] / rows.weights[own].sum()
        weights[label, benign] = benign_share * rows.weights[benign] / rows.weights[benign].sum()
    return weights * (len(rows.labels) / (1 + benign_share))


def _quantised(
    table: NDArray[np.float32], biases: NDArray[np.float32], windows: NDArray[np.int32]
) -> Weights:
    """Returns the table in int8. The scale is that of the 99.99th percentile, larger values are cut."""
    scales = np.maximum(np.quantile(np.abs(table), 0.9999, axis=1) / 127, 1e-9).astype(np.float32)
    packed = np.zeros((table.shape[1], COLUMNS), dtype=np.int8)
    packed[:, :_CLASSES] = np.clip(np.rint(table / scales[:, None]), -127, 127).T
    zeros, ones = np.zeros(_CLASSES, dtype=np.float32), np.ones(_CLASSES, dtype=np.float32)
    return Weights(packed, scales, biases.astype(np.float32), zeros, ones, zeros, windows)
