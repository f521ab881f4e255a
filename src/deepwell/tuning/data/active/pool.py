"""`Pool`: texts of which some are labelled, and the learner that chooses the next ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.data.active.features import Features
from deepwell.tuning.data.active.learner import Fitted, SoftmaxRegression
from deepwell.tuning.data.active.strategies import Strategy, ranked

__all__ = ["BATCH", "START", "Pool", "accuracy"]

START: Final = 10
"""Labels that are drawn at random before a learner chooses."""

BATCH: Final = 5
"""Labels after which the learner is fitted again."""


class Pool:
    """The rows of some features, the labels that are known, and the rows that people skipped.

    The pool never sees a test set: whoever measures one keeps its features apart.
    """

    def __init__(self, features: Features, classes: int, *, seed: int = 0, start: int = START) -> None:
        self._features = features
        self._learner = SoftmaxRegression(classes)
        self._rng = np.random.default_rng(seed)
        self._start = start
        self._labels: dict[int, int] = {}
        self._skipped: dict[int, None] = {}
        self.model: Fitted | None = None

    def __len__(self) -> int:
        return len(self._features)

    @property
    def labels(self) -> dict[int, int]:
        """The class of each labelled row, in the order in which they were given."""
        return dict(self._labels)

    def label(self, row: int, label: int) -> None:
        """Gives a row its class."""
        self._skipped.pop(row, None)
        self._labels[row] = label

    def skip(self, row: int) -> None:
        """Puts a row behind all others."""
        if row not in self._labels:
            self._skipped[row] = None

    def forget(self, row: int) -> None:
        """Takes back what was said of a row."""
        self._labels.pop(row, None)
        self._skipped.pop(row, None)

    def fit(self) -> Fitted | None:
        """Fits the learner to the labels and returns it; None while there are fewer than `start` or only one class."""
        self.model = None
        if len(self._labels) >= self._start and len(set(self._labels.values())) > 1:
            self.model = self._learner.fit(self._features, list(self._labels), list(self._labels.values()))
        return self.model

    def probabilities(self) -> NDArray[np.float32]:
        """Returns the fitted learner's probabilities of every row, [pool, classes]; equal ones without a learner."""
        if self.model is None:
            classes = self._learner.classes
            return np.full((len(self), classes), 1 / classes, np.float32)
        return self.model.probabilities(self._features)

    def ranking(self, strategy: Strategy) -> list[int]:
        """Returns the unlabelled rows in the order to ask about them, by the learner as it was last fitted.

        Skipped rows come last, the one that was skipped first first. Without a learner the order is random.
        """
        open_rows = np.array(
            [row for row in range(len(self)) if row not in self._labels and row not in self._skipped],
            np.int64,
        )
        arm: Strategy = "random" if self.model is None else strategy
        asked = ranked(arm, self.probabilities(), open_rows, self._rng)
        return [*asked.tolist(), *self._skipped]

    def choose(self, strategy: Strategy, number: int = BATCH) -> list[int]:
        """Fits the learner and returns the rows to ask about next."""
        self.fit()
        return self.ranking(strategy)[:number]


def accuracy(model: Fitted, features: Features, labels: Sequence[int]) -> float:
    """Returns the share of rows whose most likely class is the right one."""
    return float(np.mean(model.probabilities(features).argmax(axis=1) == np.asarray(labels)))
