"""Results of raters who compare pairs: win rate, raw agreement and Cohen's kappa, with bootstrap intervals over pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepwell.tuning.evaluate.statistics import Estimate, Floats, Measure, estimate, mean_of

__all__ = ["Agreement", "Preference", "RaterCount", "agreement", "preference_of"]

Choice = Literal["first", "second", "tie"]
_CHOICES: tuple[Choice, ...] = ("first", "second", "tie")
_SCORES: Mapping[Choice, float] = {"first": 0.0, "tie": 0.5, "second": 1.0}


@dataclass(frozen=True, slots=True)
class RaterCount:
    """The votes of one rater."""

    rater: str
    first: int
    second: int
    tie: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of two raters.

    Attributes:
        pairs: number of pairs that both rated.
        share: share of pairs on which they say the same.
        kappa: Cohen's kappa (1960), the agreement beyond chance; None where chance alone would always agree.
    """

    raters: tuple[str, str]
    pairs: int
    share: Estimate
    kappa: Estimate | None


@dataclass(frozen=True, slots=True)
class Preference:
    """The result of a study.

    Attributes:
        rated: number of pairs that anybody rated.
        win_rate: win rate of the second model, a tie counted as half and each pair once; None without votes.
    """

    raters: tuple[RaterCount, ...]
    rated: int
    win_rate: Estimate | None
    agreements: tuple[Agreement, ...]


def preference_of(votes: Mapping[str, Mapping[int, Choice]]) -> Preference:
    """Returns the result of the votes of each rater, by pair."""
    counts = tuple(
        RaterCount(rater, *(list(given.values()).count(choice) for choice in _CHOICES))
        for rater, given in votes.items()
    )
    by_pair: dict[int, list[float]] = {}
    for given in votes.values():
        for pair, choice in given.items():
            by_pair.setdefault(pair, []).append(_SCORES[choice])
    means = [sum(scores) / len(scores) for _, scores in sorted(by_pair.items())]
    rate = estimate(mean_of("win_rate", means, share=True)) if means else None
    agreements = [
        agreement((one, other), [(votes[one][pair], votes[other][pair]) for pair in sorted(both)])
        for one, other in itertools.combinations(votes, 2)
        if (both := votes[one].keys() & votes[other].keys())
    ]
    return Preference(counts, len(by_pair), rate, tuple(agreements))


def agreement(raters: tuple[str, str], pairs: Sequence[tuple[Choice, Choice]]) -> Agreement:
    """Returns the agreement of two raters on the pairs that both rated, of which there is at least one."""
    share = estimate(mean_of("agreement", [one == other for one, other in pairs], share=True))
    cells = np.zeros((len(pairs), len(_CHOICES) ** 2))
    for number, (one, other) in enumerate(pairs):
        cells[number, _CHOICES.index(one) * len(_CHOICES) + _CHOICES.index(other)] = 1
    measure = Measure("kappa", cells, _kappa)
    kappa = None if math.isnan(measure.value) else estimate(measure)
    return Agreement(raters, len(pairs), share, kappa)


def _kappa(sums: Floats) -> Floats:
    """Returns Cohen's kappa of tables of counts, flat in the last axis; nan where chance always agrees."""
    size = len(_CHOICES)
    table = sums.reshape(*sums.shape[:-1], size, size)
    total = table.sum(axis=(-2, -1))
    observed = np.trace(table, axis1=-2, axis2=-1) / total
    expected = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / total**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan)
