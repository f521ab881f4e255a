"""`StopRule`: when further labels no longer change what the learner says."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["StopRule", "kappa"]

LEAST_AGREEMENT: Final = 0.99
ROUNDS: Final = 3
LEAST_LABELS: Final = 30


class StopRule:
    """Stops when predictions are stable.

    The rule of Bloodgood and Vijay-Shanker (CoNLL 2009): the predictions of consecutive learners on the unlabelled texts
    agree with a mean of Cohen's kappa >= 0.99 over the last 3 rounds, and at least 30 labels are known. It needs no test set.
    It says that the learner has settled, not that it is right.
    """

    def __init__(self) -> None:
        self._before: NDArray[np.int64] | None = None
        self._agreements: deque[float] = deque(maxlen=ROUNDS)

    @property
    def agreement(self) -> float | None:
        """Mean agreement over the last rounds; None before there were enough."""
        return sum(self._agreements) / ROUNDS if len(self._agreements) == ROUNDS else None

    def observe(self, predictions: NDArray[np.int64], labels: int) -> bool:
        """Takes the predictions of a round on the same rows as before, and returns whether to stop.

        Args:
            labels: how many are known.
        """
        if self._before is not None:
            self._agreements.append(kappa(self._before, predictions))
        self._before = predictions
        mean = self.agreement
        return mean is not None and mean >= LEAST_AGREEMENT and labels >= LEAST_LABELS


def kappa(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Returns Cohen's kappa of two labellings of the same things: agreement beyond that of chance; 1 is full."""
    if len(one) == 0:
        return 1.0
    classes = int(max(one.max(), other.max())) + 1
    first, second = (np.bincount(labels, minlength=classes) / len(one) for labels in (one, other))
    chance = float(first @ second)
    return 1.0 if chance >= 1 else (float(np.mean(one == other)) - chance) / (1 - chance)
