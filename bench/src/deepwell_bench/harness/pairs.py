"""Paired runs of two sides: their order, the interval of their median, and what it decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import numpy as np

__all__ = ["Bar", "Estimate", "Measure", "bootstrap_median", "run_pairs"]

Measure = Callable[[int], float]  # of a pair's number: a rate, or a time
PAIRS_A_START = (
    5  # then both sides are started anew: where a process happens to lie in memory moves its speed, too
)
SETTLE_SECONDS = 0.05  # threads of a side may spin for some milliseconds after their last region
_RESAMPLES = 10_000
_SEED = 12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over pairs, with the ends of its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bar:
    """The bar of an estimate: for the median, and with a `bound` for the nearer end of the interval as well."""

    median: float
    bound: float | None = None
    higher_is_better: bool = True

    def judge(self, estimate: Estimate) -> Literal["holds", "undecided", "fails"]:
        """Decides; "undecided" where the median is good enough and the interval reaches too far."""
        sign = 1 if self.higher_is_better else -1
        if not sign * estimate.median >= sign * self.median:
            return "fails"
        worst = estimate.low if self.higher_is_better else estimate.high
        return "holds" if self.bound is None or sign * worst >= sign * self.bound else "undecided"


def bootstrap_median(values: Sequence[float]) -> Estimate:
    """Returns the median and its percentile interval over resamples of the pairs; the same values give the same interval."""
    sample = np.asarray(values, np.float64)
    drawn = np.random.default_rng(_SEED).integers(0, len(sample), (_RESAMPLES, len(sample)))
    low, high = np.quantile(np.median(sample[drawn], axis=1), (0.025, 0.975))
    return Estimate(float(np.median(sample)), float(low), float(high))


def run_pairs(
    open_sides: Callable[[], AbstractContextManager[tuple[Measure, Measure]]],
    pairs: int,
    each_pair: Callable[[int], None] = lambda number: None,
) -> list[tuple[float, float]]:
    """Runs the two sides in pairs, after an untimed warm-up; returns each side's mean figure by pair.

    A pair is A B B A, the next one B A A B, so that a machine that slows down favours neither; one side waits while
    the other runs. Both see the pair's number, from 1. After `PAIRS_A_START` pairs both are closed and opened again.
    """
    figures: list[tuple[float, float]] = []
    for start in range(0, pairs, PAIRS_A_START):
        with open_sides() as sides:
            for side in sides:
                side(0)
            for number in range(start + 1, min(start + PAIRS_A_START, pairs) + 1):
                each_pair(number)
                found: tuple[list[float], list[float]] = [], []
                for which in (0, 1, 1, 0) if number % 2 else (1, 0, 0, 1):
                    time.sleep(SETTLE_SECONDS)
                    found[which].append(sides[which](number))
                figures.append((mean(found[0]), mean(found[1])))
    return figures
