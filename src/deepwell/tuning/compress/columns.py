"""Chooses the inputs of a projection that can go, and moves their part of its outputs to those that stay.

Removing inputs R of y = W x changes y least, in the mean square over the activations seen, where the columns that stay become
W_S - W_R (P_RR)^-1 P_RS, with P the inverse of the activations' second moments. The rise of the error by one group of inputs
is the trace of W_g (P_gg)^-1 W_g', so both come from one inverse (the optimal brain surgeon, for columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kept", "moments_factor", "removal_path", "remove_inputs"]

_RIDGE: Final = 1e-3
_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """The groups of inputs that stay, in their order, and the weights on them."""

    groups: NDArray[np.intp]
    weight: NDArray[np.float32]


def moments_factor(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the inverse of second moments, with a ridge of a thousandth of their mean: rare inputs are never divided by 0."""
    size = len(moments)
    ridge = _RIDGE * max(float(np.trace(moments)) / size, 1e-12)
    return np.asarray(np.linalg.inv(moments + ridge * np.eye(size)), np.float64)


def remove_inputs(
    weight: NDArray[np.float32], inverse: NDArray[np.float64], keep: int, *, size: int = 1
) -> Kept:
    """Removes the groups of inputs that matter least, a part at a time, and returns those that stay.

    Args:
        weight: [outputs, inputs].
        inverse: of the moments of the inputs; see `moments_factor`.
        keep: number of groups that stay.
        size: inputs of a group, which follow each other.
    """
    weights, inverse = weight.astype(np.float64), inverse.copy()
    groups = np.arange(weight.shape[1] // size)
    while len(groups) > keep:
        count = min(len(groups) - keep, max(1, -(-(weight.shape[1] // size - keep) // _ROUNDS)))
        scores = _scores(weights, inverse, size)
        stay = np.ones(len(groups), bool)
        stay[np.argsort(scores, kind="stable")[:count]] = False
        columns = np.repeat(stay, size)
        weights, inverse = _without(weights, inverse, columns)
        groups = groups[stay]
    return Kept(groups, weights.astype(np.float32))


def removal_path(
    weight: NDArray[np.float32], inverse: NDArray[np.float64], keeps: Sequence[int]
) -> dict[int, Kept]:
    """Removes inputs as `remove_inputs` does, from one number that stays to the next lower, and returns each result.

    Args:
        keeps: numbers of inputs that stay; what a lower number keeps, every higher one keeps too.
    """
    found: dict[int, Kept] = {}
    inputs, weights = np.arange(weight.shape[1]), weight.astype(np.float64)
    for keep in sorted(keeps, reverse=True):
        step = max(1, -(-(len(inputs) - keep) // _ROUNDS))
        while len(inputs) > keep:
            stay = np.ones(len(inputs), bool)
            order = np.argsort(_scores(weights, inverse, 1), kind="stable")
            stay[order[: min(step, len(inputs) - keep)]] = False
            weights, inverse = _without(weights, inverse, stay)
            inputs = inputs[stay]
        found[keep] = Kept(inputs, weights.astype(np.float32))
    return found


def _scores(weights: NDArray[np.float64], inverse: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    if size == 1:
        return np.square(weights).sum(0) / np.diag(inverse)
    found = np.empty(weights.shape[1] // size)
    for group in range(len(found)):
        where = slice(group * size, (group + 1) * size)
        part = weights[:, where]
        found[group] = np.sum(part.T * np.linalg.solve(inverse[where, where], part.T))
    return found


def _without(
    weights: NDArray[np.float64], inverse: NDArray[np.float64], stay: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the best weights on the columns that stay, and the inverse of their moments alone."""
    gone = ~stay
    carried = np.linalg.solve(inverse[np.ix_(gone, gone)], inverse[np.ix_(gone, stay)])
    return (
        weights[:, stay] - weights[:, gone] @ carried,
        inverse[np.ix_(stay, stay)] - inverse[np.ix_(stay, gone)] @ carried,
    )
