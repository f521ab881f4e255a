"""Intervals of measured values: the bootstrap over samples, and the paired bootstrap of a difference.

A metric is a function of sums over samples: an accuracy is hits over rows, a perplexity the exponential of a loss over bytes.
Resampling the rows with the same weights for two models keeps what they share, such as hard questions, out of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import DeepwellError

__all__ = [
    "Difference",
    "Estimate",
    "Floats",
    "Measure",
    "Verdict",
    "difference",
    "estimate",
    "exponential",
    "mean_of",
    "ratio_of",
    "wilson",
]

Floats = NDArray[np.float64]
"""Sums of terms, and values of metrics."""

Verdict = Literal["better", "worse", "different", "within noise", "too few"]
"""The verdict of an interval about a difference."""

RESAMPLES = 2000
_FEWEST = 10  # pairs
_SEED = 20_260_101
_CHUNK = 100  # resamples at once, which bounds the memory of their weights


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric over samples.

    Attributes:
        rows: the terms of each sample: [samples, terms].
        of: function from sums of terms, [..., terms], to values, [...].
        better: which values are better; None: neither.
        binary: whether every sample is a hit or a miss.
        keys: identity of each sample, the same for all models.
    """

    name: str
    rows: Floats
    of: Callable[[Floats], Floats]
    better: Literal["higher", "lower"] | None = "higher"
    unit: Literal["share", "number"] = "number"
    binary: bool = False
    keys: tuple[str, ...] = field(default=())

    @property
    def value(self) -> float:
        """The value over all samples."""
        return float(self.of(self.rows.sum(axis=0)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two models in a metric, second minus first, with its 95 % interval.

    Attributes:
        verdict: "better" or "worse" if the interval excludes zero, else "within noise"; "different" where neither direction is
            better; "too few" below ten pairs, of which no interval can be trusted.
        paired: number of samples that both models answered.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    paired: int
    verdict: Verdict


def mean_of(
    name: str,
    values: Sequence[float],
    *,
    better: Literal["higher", "lower"] | None = "higher",
    share: bool = False,
    keys: Sequence[str] = (),
) -> Measure:
    """Returns the mean of a value of each sample; `share` shows it in per cent."""
    numbers = np.asarray(values, np.float64)
    rows = np.stack([numbers, np.ones(len(numbers))], axis=1)
    binary = share and bool(np.isin(numbers, (0.0, 1.0)).all())
    return Measure(name, rows, _ratio, better, "share" if share else "number", binary, tuple(keys))


def ratio_of(
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    of: Callable[[Floats], Floats] | None = None,
    better: Literal["higher", "lower"] | None = "lower",
    keys: Sequence[str] = (),
) -> Measure:
    """Returns the ratio of two sums over samples, `of` that ratio: a perplexity has `np.exp`."""
    rows = np.stack([np.asarray(above, np.float64), np.asarray(below, np.float64)], axis=1)
    return Measure(
        name, rows, _ratio if of is None else lambda sums: of(_ratio(sums)), better, keys=tuple(keys)
    )


def exponential(values: Floats) -> Floats:
    """Returns e to each value: a perplexity from its loss."""
    with np.errstate(over="ignore"):
        return np.exp(values)


def estimate(measure: Measure, *, resamples: int = RESAMPLES) -> Estimate:
    """Returns the value of a metric with its percentile bootstrap interval.

    Where every sample is a hit, or every one a miss, no resample differs; Wilson's interval stands in.
    """
    count, value = len(measure.rows), measure.value
    if measure.binary and value in (0.0, 1.0):
        low, high = wilson(int(measure.rows[:, 0].sum()), count)
        return Estimate(value, low, high, count)
    low, high = _interval(_resampled([measure], resamples)[0])
    return Estimate(value, low, high, count)


def difference(first: Measure, second: Measure, *, resamples: int = RESAMPLES) -> Difference:
    """Returns second minus first over the samples that both have, with its paired bootstrap interval.

    Raises:
        DeepwellError: they share no sample.
    """
    here, there = _paired(first, second)
    if not here:
        raise DeepwellError(
            f"no sample has {first.name} of both models", fix="evaluate both on the same task"
        )
    one, other = _only(first, here), _only(second, there)
    values = _resampled([one, other], resamples)
    low, high = _interval(values[1] - values[0])
    change = other.value - one.value
    verdict: Verdict = "within noise"
    if len(here) < _FEWEST:
        verdict = "too few"
    elif low > 0 or high < 0:
        better = first.better
        verdict = (
            "different" if better is None else "better" if (low > 0) == (better == "higher") else "worse"
        )
    return Difference(one.value, other.value, change, low, high, len(here), verdict)


def wilson(hits: int, trials: int, *, z: float = 1.96) -> tuple[float, float]:
    """Returns the ends of the 95 % interval of a share (Wilson 1927)."""
    share = hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _paired(first: Measure, second: Measure) -> tuple[list[int], list[int]]:
    if not first.keys and not second.keys and len(first.rows) == len(second.rows):
        return list(range(len(first.rows))), list(range(len(second.rows)))
    place = {key: number for number, key in enumerate(second.keys)}
    pairs = [(number, place[key]) for number, key in enumerate(first.keys) if key in place]
    return [here for here, _ in pairs], [there for _, there in pairs]


def _only(measure: Measure, rows: Sequence[int]) -> Measure:
    return Measure(
        measure.name, measure.rows[list(rows)], measure.of, measure.better, measure.unit, measure.binary
    )


def _resampled(measures: Sequence[Measure], resamples: int) -> list[Floats]:
    """Returns the values of metrics over resamples of their common rows: [resamples] each."""
    count = len(measures[0].rows)
    generator = np.random.default_rng(_SEED)
    shares = np.full(count, 1 / count)
    values: list[list[Floats]] = [[] for _ in measures]
    for start in range(0, resamples, _CHUNK):
        weights = generator.multinomial(count, shares, size=min(_CHUNK, resamples - start)).astype(np.float64)
        for found, measure in zip(values, measures, strict=True):
            found.append(measure.of(weights @ measure.rows))
    return [np.concatenate(found) for found in values]


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]
