"""Strategies: which unlabelled rows to ask about next."""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRATEGIES", "Strategy", "ranked", "uncertainty"]

Strategy = Literal["margin", "entropy", "random"]
STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)


def uncertainty(strategy: Strategy, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns how unsure the learner is of every row, [rows]; larger is asked about earlier.

    `margin` is the negative distance of the two best classes (also called breaking ties), `entropy` the entropy of all
    classes, and `random` the same for every row.
    """
    if strategy == "random" or probabilities.shape[1] < 2:
        return np.zeros(len(probabilities), np.float32)
    if strategy == "margin":
        best = np.partition(probabilities, -2, axis=1)[:, -2:]
        return best[:, 0] - best[:, 1]
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)


def ranked(
    strategy: Strategy, probabilities: NDArray[np.float32], rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Returns `rows` in the order to ask about them; equal ones are in random order.

    Args:
        probabilities: of all rows of the pool, [pool, classes].
    """
    shuffled = rng.permutation(rows)
    order = np.argsort(-uncertainty(strategy, probabilities[shuffled]), kind="stable")
    return shuffled[order]
