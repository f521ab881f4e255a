"""A sequential test of two shares, which may be looked at after every vote: pure functions of counts.

The evidence against a hypothesis about two Bernoulli shares is the likelihood under a mixture of all pairs of shares
(independent Beta(1/2, 1/2), as of Krichevsky and Trofimov), over the largest likelihood that the hypothesis allows. Under
every pair that the hypothesis allows, this ratio is at most a martingale that begins at 1. So the probability that it ever
reaches 1/alpha is at most alpha (Ville 1939), however often one looks and whenever one stops, without any approximation
(universal inference: Wasserman, Ramdas, Balakrishnan 2020; mixture tests: Robbins 1970).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["Counts", "difference_interval", "log_evidence_of_gain", "log_evidence_of_loss"]

_HALVINGS: Final = 60
_BISECTIONS: Final = 24  # of an interval, to a ten-millionth
_LOG_PI: Final = math.log(math.pi)  # logarithm of Beta(1/2, 1/2)


@dataclass(frozen=True, slots=True)
class Counts:
    """Observations of one arm: how many, and how many of them are good."""

    users: int = 0
    good: int = 0

    def __post_init__(self) -> None:
        """Checks the counts.

        Raises:
            ValueError: they are not those of any observations.
        """
        if not 0 <= self.good <= self.users:
            raise ValueError(f"{self.good} of {self.users} cannot be good")

    @property
    def share(self) -> float:
        """Returns the share of good ones; nan: there are no observations."""
        return self.good / self.users if self.users else math.nan


def log_evidence_of_loss(current: Counts, candidate: Counts, margin: float = 0.0) -> float:
    """Returns the logarithm of the evidence against "the candidate is at most `margin` worse than the current model"."""
    return (
        _log_mixture(current)
        + _log_mixture(candidate)
        - _most_likely(current, candidate, -margin, least=True)
    )


def log_evidence_of_gain(current: Counts, candidate: Counts, margin: float = 0.0) -> float:
    """Returns the logarithm of the evidence against "the candidate is at least `margin` worse than the current model"."""
    return (
        _log_mixture(current)
        + _log_mixture(candidate)
        - _most_likely(current, candidate, -margin, least=False)
    )


@lru_cache(maxsize=512)  # a page that is watched asks for the same counts again and again
def difference_interval(current: Counts, candidate: Counts, alpha: float) -> tuple[float, float]:
    """Returns the differences of the shares, candidate - current, that the votes leave possible, between -1 and 1.

    Each end errs with a probability of at most `alpha`, however often one looks. Zero lies above the interval exactly if
    the evidence of a loss suffices, and `-margin` below it exactly if that of a gain does.
    """
    needed = math.log(1 / alpha)

    def end(evidence: Callable[[Counts, Counts, float], float], refuted: float, possible: float) -> float:
        if evidence(current, candidate, -refuted) < needed:
            return refuted
        for _ in range(_BISECTIONS):
            middle = (refuted + possible) / 2
            if evidence(current, candidate, -middle) >= needed:
                refuted = middle
            else:
                possible = middle
        return refuted

    seen = bool(current.users and candidate.users)
    found = candidate.share - current.share if seen else 0.0
    return end(log_evidence_of_gain, -1.0, found), end(log_evidence_of_loss, 1.0, found)


def _log_mixture(one: Counts) -> float:
    """Returns the logarithm of the likelihood of a sequence of these counts, averaged over Beta(1/2, 1/2)."""
    bad = one.users - one.good
    return math.lgamma(one.good + 0.5) + math.lgamma(bad + 0.5) - math.lgamma(one.users + 1) - _LOG_PI


def _log_likelihood(one: Counts, share: float) -> float:
    bad = one.users - one.good
    good_part = one.good * _log(share) if one.good else 0.0
    return good_part + (bad * _log(1 - share) if bad else 0.0)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _most_likely(current: Counts, candidate: Counts, gap: float, *, least: bool) -> float:
    """Returns the largest log likelihood where candidate - current is at least `gap`, or else at most `gap`."""
    # An arm without observations takes whatever share the hypothesis asks for.
    free = not current.users or not candidate.users
    if not free:
        difference = candidate.share - current.share
        free = difference >= gap if least else difference <= gap
    if free:
        return sum(_log_likelihood(one, one.share) for one in (current, candidate) if one.users)
    # The likelihood is concave, so that its maximum lies on the border: candidate = current + gap.
    low, high = max(0.0, -gap), min(1.0, 1.0 - gap)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _slope(current, middle) + _slope(candidate, middle + gap) > 0:
            low = middle
        else:
            high = middle
    return max(
        _log_likelihood(current, share) + _log_likelihood(candidate, min(max(share + gap, 0.0), 1.0))
        for share in (low, high)
    )


def _slope(one: Counts, share: float) -> float:
    """Returns the derivative of the log likelihood."""
    bad = one.users - one.good
    rising = (one.good / share if share > 0 else math.inf) if one.good else 0.0
    return rising - ((bad / (1 - share) if share < 1 else math.inf) if bad else 0.0)
