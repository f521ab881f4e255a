"""Shares of trials: their intervals, and the comparison of two paired ones."""

from __future__ import annotations

import math

__all__ = ["mcnemar", "wilson"]


def wilson(hits: int, trials: int, *, z: float = 1.96) -> tuple[float, float]:
    """Returns the ends of the 95 % interval of a share (Wilson 1927)."""
    share = hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(gained: int, lost: int) -> float:
    """Returns the two-sided p of McNemar's exact test: the chance of so uneven a split if both sides were equally good.

    Args:
        gained: items that only the second side has right.
        lost: items that only the first side has right.
    """
    trials = gained + lost
    if not trials:
        return 1.0
    tail = sum(math.comb(trials, k) for k in range(min(gained, lost) + 1)) / 2**trials
    return min(1.0, 2 * tail)
