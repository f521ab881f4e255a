"""`LinearDetector`: finds injections, jailbreaks and requests for harm with a linear classifier over sliding windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.classifier.sums import GramSums, gram_sums
from deepwell.safety.classifier.weights import CATEGORIES, SHIPPED, Weights, read_weights
from deepwell.safety.findings import Finding
from deepwell.safety.normalise import Normalised, View

__all__ = ["SMOOTHING", "LinearDetector", "shipped_detector"]

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
    categories = CATEGORIES

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._table = np.ascontiguousarray(weights.table)
        self._windows: Sequence[int] = weights.windows.tolist()
        self._thresholds = np.asarray(weights.thresholds, dtype=np.float64)

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns at most one finding a category and reading, in the order of the text."""
        found: list[Finding] = []
        for view in text.views:
            found += self._of_view(view)
        return sorted(found, key=lambda one: (one.start, one.end))

    def logits(self, text: str) -> NDArray[np.float64]:
        """Returns the highest logit of any window: [categories]. A text without letters has minus infinity."""
        read = gram_sums(text, self._table)
        if not read.words:
            return np.full(len(CATEGORIES), -np.inf)
        return self._spans(read).logits.max(axis=0)

    def _spans(self, read: GramSums) -> _Spans:
        starts, ends = _windows(len(read.kept), self._windows)
        counts = read.totals[ends] - read.totals[starts]
        sums = (read.sums[ends] - read.sums[starts])[:, : len(CATEGORIES)]
        roots = np.sqrt(counts + SMOOTHING)[:, None]
        return _Spans(starts, ends, sums * self._weights.scales / roots + self._weights.biases)

    def _of_view(self, view: View) -> list[Finding]:
        read = gram_sums(view.text, self._table)
        if not read.words:
            return []
        spans = self._spans(read)
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


@dataclass(frozen=True, slots=True)
class _Spans:
    """The windows of a text.

    Attributes:
        starts, ends: int64 [windows]; characters read.
        logits: float64 [windows, categories].
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    logits: NDArray[np.float64]


def _windows(size: int, lengths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns where the windows of a text of `size` characters begin and end. A text shorter than a window is one window."""
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    seen: set[int] = set()
    for length in lengths:
        if min(length, size) in seen or not size:
            continue
        seen.add(min(length, size))
        last = max(size - length, 0)
        begins = np.arange(0, last + length // _STRIDES, max(length // _STRIDES, 1), dtype=np.int64)
        starts.append(np.minimum(begins, last))
        ends.append(np.minimum(starts[-1] + length, size))
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *starts]), np.concatenate([none, *ends])


@cache
def shipped_detector(path: Path = SHIPPED) -> LinearDetector:
    """Returns the detector with the weights of the package, read once. Raises as `read_weights`."""
    return LinearDetector(read_weights(path))
