"""`choose`: takes the pieces that a question needs, up to a budget, so that every part of the question gets its own.

NOTE: several facts. The best pieces by the whole question may all speak of one of its parts. The choice is that of xQuAD
(Santos et al. 2010, "Exploiting Query Reformulations for Web Search Result Diversification"): a piece counts for a part of the
question as far as the pieces taken so far have left it open, and for the whole question at all times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHOICE", "Choice", "choose"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights of the choice. They were set on the development split of `bench/workloads/context`.

    Attributes:
        parts: weight of the parts of a question against its whole.
        covered: how far a piece that fits a part perfectly closes that part.
        size: power of a piece's tokens by which its worth is divided: 0 takes the best piece, 1 the best a token.
    """

    parts: float = 0.8
    covered: float = 0.5
    size: float = 0.1


CHOICE: Final = Choice()
"""The weights unless others are given."""


def choose(
    scores: NDArray[np.float64],
    costs: NDArray[np.int64],
    budget: int,
    weights: Choice = CHOICE,
    *,
    extra: Callable[[int, set[int]], int] | None = None,
) -> list[int]:
    """Returns the pieces to keep in the order of their choice; of equal ones the first.

    Args:
        scores: float64 [facets, pieces], 0 to 1; the first facet is the whole question.
        costs: int64 [pieces]: tokens of each.
        budget: most tokens of all.
        extra: tokens that a piece costs besides, given those that were chosen before it: its seams.
    """
    # Each part's best piece counts the same, however much of that part it covers.
    scores = scores / np.maximum(scores.max(1, keepdims=True), 1e-9) if scores.size else scores
    whole, parts = scores[0], scores[1:]
    scale = np.maximum(costs, 1).astype(np.float64) ** weights.size
    open_parts = np.ones(len(parts))
    left = budget
    free = costs <= budget
    chosen: list[int] = []
    taken: set[int] = set()
    while free.any():
        worth = whole
        if len(parts):
            needed = (open_parts[:, None] * parts).sum(0) / len(parts)
            worth = (1 - weights.parts) * whole + weights.parts * needed
        worth = np.where(free, worth / scale, -1.0)
        best = int(np.argmax(worth))
        if worth[best] < 0:
            break
        free[best] = False
        cost = int(costs[best]) + (extra(best, taken) if extra is not None else 0)
        if cost > left:
            continue
        left -= cost
        taken.add(best)
        chosen.append(best)
        open_parts *= 1 - weights.covered * parts[:, best]
        free &= costs <= left
    return chosen
