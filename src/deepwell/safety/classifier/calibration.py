"""Chooses the thresholds of trained weights on a development split, and makes their scores probabilities."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.classifier.weights import CATEGORIES, Weights

__all__ = ["calibrated"]

_STEPS: Final = 200
_DECAY: Final = 1e-4
"""Weight of the square of the slope, which keeps it finite where the kinds do not overlap."""

_SHORTEST: Final = 1e-6
_FINEST: Final = 20
"""Most benign texts of one category: every way to divide more of them would take minutes to look at."""
_MARGIN: Final = 0.05
"""Distance of a threshold above the highest benign text that it lets through."""


def calibrated(
    weights: Weights,
    benign: NDArray[np.float64],
    attacks: dict[str, NDArray[np.float64]],
    *,
    max_false_positives: float,
) -> Weights:
    """Returns weights whose thresholds let through the benign texts of a development split, and whose scores are probabilities.

    The categories share the benign texts that may be found: of all ways to divide them, the one with the highest mean recall
    on the attacks is taken, and of equal ones that which finds the fewest.

    Args:
        benign: highest logits of benign texts: [texts, categories].
        attacks: highest logits of attacks by category: [texts, categories].
        max_false_positives: share of the benign texts that may be found, over all categories.

    Raises:
        ValueError: there are no benign texts, or the share is not between 0 and 1.
    """
    if not len(benign) or not 0 < max_false_positives < 1:
        raise ValueError("thresholds need benign texts, and a share between 0 and 1")
    thresholds = _divided(benign, attacks, int(max_false_positives * len(benign)))
    slopes, offsets = np.ones(len(CATEGORIES)), np.zeros(len(CATEGORIES))
    for number, category in enumerate(CATEGORIES):
        if len(found := attacks.get(category, benign[:0])):
            slopes[number], offsets[number] = _logistic(
                benign[:, number] - thresholds[number], found[:, number] - thresholds[number]
            )
    single = (each.astype(np.float32) for each in (thresholds, slopes, offsets))
    return replace(weights, **dict(zip(("thresholds", "slopes", "offsets"), single, strict=True)))


def _divided(
    benign: NDArray[np.float64], attacks: dict[str, NDArray[np.float64]], most: int
) -> NDArray[np.float64]:
    """Returns the thresholds at which at most so many benign texts are found and the mean recall is highest."""
    ordered = np.sort(benign, axis=0)[::-1] + _MARGIN
    most = min(most, len(benign) - 1)
    candidates = ordered[: min(most, _FINEST) + 1]
    recalls = np.zeros(candidates.shape)
    for number, category in enumerate(CATEGORIES):
        if len(found := attacks.get(category, benign[:0])):
            recalls[:, number] = (found[:, number] >= candidates[:, None, number]).mean(axis=1)
    best, thresholds = (-1.0, 0), candidates[0]
    for places in product(range(len(candidates)), repeat=len(CATEGORIES)):
        chosen = candidates[list(places), range(len(CATEGORIES))]
        wrong = int((benign >= chosen).any(axis=1).sum())
        recall = float(sum(recalls[place, number] for number, place in enumerate(places)))
        if wrong <= most and (recall, -wrong) > best:
            best, thresholds = (recall, -wrong), chosen
    return thresholds


def _logistic(benign: NDArray[np.float64], attacks: NDArray[np.float64]) -> tuple[float, float]:
    """Returns slope and offset of the probability of an attack, both kinds being equally frequent (Platt, 1999)."""
    values = np.concatenate([benign, attacks])
    wanted = np.concatenate([np.zeros(len(benign)), np.ones(len(attacks))])
    weights = np.concatenate(
        [np.full(len(benign), 0.5 / len(benign)), np.full(len(attacks), 0.5 / len(attacks))]
    )
    inputs = np.stack([values, np.ones_like(values)], axis=1)

    def loss(at: NDArray[np.float64]) -> float:
        signed = np.where(wanted > 0, inputs @ at, -(inputs @ at))
        return float((weights * np.logaddexp(0, -signed)).sum() + 0.5 * _DECAY * at[0] ** 2)

    now: NDArray[np.float64] = np.array([1.0, 0.0])
    for _ in range(_STEPS):
        found = 1 / (1 + np.exp(-np.clip(inputs @ now, -30, 30)))
        gradient = inputs.T @ (weights * (found - wanted)) + [_DECAY * now[0], 0]
        curve = (inputs * (weights * found * (1 - found))[:, None]).T @ inputs
        step: NDArray[np.float64] = np.linalg.solve(curve + np.diag([_DECAY, 1e-9]), gradient).astype(
            np.float64
        )
        # a whole step of Newton's method may leap past the minimum and diverge where the kinds hardly overlap
        length = 1.0
        while length > _SHORTEST and loss(now - length * step) > loss(now):
            length /= 2
        now = now - length * step
        if length <= _SHORTEST or np.abs(length * step).max() < 1e-9:
            break
    return max(float(now[0]), 0.05), float(now[1])
