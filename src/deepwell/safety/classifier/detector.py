"""`LinearDetector`: finds injections, jailbreaks and requests for harm with a linear classifier over sliding windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.classifier.features import Grams, grams
from deepwell.safety.classifier.weights import CATEGORIES, COLUMNS, SHIPPED, Weights, read_weights
from deepwell.safety.findings import Finding
from deepwell.safety.normalise import Normalised, View

__all__ = ["SMOOTHING", "LinearDetector", "Spans", "shipped_detector", "spans_of"]

SMOOTHING: Final = 100
"""n-grams added to those of a window when its sum is divided by their root: a few words weigh less than a paragraph."""

_STRIDES: Final = 4
"""A window moves by a quarter of its length."""


class LinearDetector:
    """Scores windows of every reading of a text, and reports the worst window of each category. Holds no state of a request.

    Raises:
        InvalidModelFile: the file of weights cannot be used.
    """

    name = "classifier"

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._words = np.ascontiguousarray(weights.table).view(np.int32).reshape(-1)
        self._thresholds = np.asarray(weights.thresholds, dtype=np.float64)

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns at most one finding a category and reading, in the order of the text."""
        found: list[Finding] = []
        for view in text.views:
            found += self._of_view(view)
        return sorted(found, key=lambda one: (one.start, one.end))

    def logits(self, text: str) -> NDArray[np.float64]:
        """Returns the highest logit of any window: [categories]. A text without letters has minus infinity."""
        read = grams(text)
        spans = self.spans(read)
        if not len(read.starts):
            return np.full(len(CATEGORIES), -np.inf)
        return spans.logits.max(axis=0)

    def spans(self, read: Grams) -> Spans:
        """Returns every window of a text with its logits."""
        sums = self._sums(read)
        spans = spans_of(read, self._weights.windows)
        counts = np.sqrt(spans.counts + SMOOTHING)[:, None]
        logits = (
            sums[spans.ends] - sums[spans.starts]
        ) * self._weights.scales / counts + self._weights.biases
        return Spans(spans.starts, spans.ends, spans.counts, logits)

    def _of_view(self, view: View) -> list[Finding]:
        read = grams(view.text)
        if not len(read.starts):
            return []
        spans = self.spans(read)
        worst = spans.logits.argmax(axis=0)
        found: list[Finding] = []
        for number, category in enumerate(CATEGORIES):
            place = int(worst[number])
            above = float(spans.logits[place, number]) - self._thresholds[number]
            if above >= 0:
                first = int(read.kept[spans.starts[place]])
                last = int(read.kept[spans.ends[place] - 1]) + 1
                start, end = view.span(first, last)
                found.append(
                    Finding(
                        f"classifier.{category}", category, start, end, self._score(number, above), view.name
                    )
                )
        return found

    def _score(self, number: int, above: float) -> float:
        slope, offset = float(self._weights.slopes[number]), float(self._weights.offsets[number])
        return float(1 / (1 + np.exp(-np.clip(slope * above + offset, -50, 50))))

    def _sums(self, read: Grams) -> NDArray[np.int64]:
        """Returns running sums of the table over the n-grams: [characters read + 1, categories]."""
        size = len(read.kept)
        each = np.zeros((size, COLUMNS), dtype=np.int16)
        for buckets in read.characters:
            each[: len(buckets)] += self._rows(buckets)
        for buckets in read.words:
            each[read.starts[: len(buckets)]] += self._rows(buckets)
        sums = np.zeros((size + 1, COLUMNS), dtype=np.int64)
        np.cumsum(each, axis=0, out=sums[1:])
        return sums[:, : len(CATEGORIES)]

    def _rows(self, buckets: NDArray[np.int64]) -> NDArray[np.int8]:
        return self._words[buckets].view(np.int8).reshape(-1, COLUMNS)


@dataclass(frozen=True, slots=True)
class Spans:
    """The windows of a text.

    Attributes:
        starts, ends: int64 [windows]; characters read.
        counts: int64 [windows]; n-grams that begin in each.
        logits: float64 [windows, categories].
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    counts: NDArray[np.int64]
    logits: NDArray[np.float64]


def spans_of(read: Grams, sizes: NDArray[np.int32]) -> Spans:
    """Returns the windows of a text. A text shorter than a window is one window."""
    size = len(read.kept)
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    seen: set[int] = set()
    for length in map(int, sizes):
        if min(length, size) in seen or not size:
            continue
        seen.add(min(length, size))
        begins = np.arange(
            0, max(size - length, 0) + length // _STRIDES, max(length // _STRIDES, 1), dtype=np.int64
        )
        begins = np.minimum(begins, max(size - length, 0))
        starts.append(begins)
        ends.append(np.minimum(begins + length, size))
    none = np.zeros(0, dtype=np.int64)
    first, last = (np.concatenate(each) if each else none for each in (starts, ends))
    totals = np.zeros(size + 1, dtype=np.int64)
    for buckets in read.characters:
        totals[1 : len(buckets) + 1] += 1
    for buckets in read.words:
        totals[read.starts[: len(buckets)] + 1] += 1
    totals = np.cumsum(totals)
    return Spans(first, last, totals[last] - totals[first], np.zeros((len(first), len(CATEGORIES))))


@cache
def shipped_detector(path: Path = SHIPPED) -> LinearDetector:
    """Returns the detector with the weights of the package, read once. Raises as `read_weights`."""
    return LinearDetector(read_weights(path))
