"""`Renderings`: how voices make units sound in a head of frames, so that texts are learnt as if a new voice said them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Renderings", "Row", "aligned"]

Array = NDArray[np.float32]
Row = tuple[Array, Array]
"""Units of pairs of frames [n, units], whose rows sum to the weights, and the weights [n]."""

_LOST: Final = 4.0
"""Cost of a unit without a pair of frames, as the logarithm of a chance."""

_FLOOR: Final = 1e-3
_FEWEST: Final = 4
"""Renderings below which a unit is rendered as it is, half of the time."""


def aligned(row: Row, units: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the first pair of frames and the one behind the last of each unit, in order, at the least cost.

    Each pair belongs to one unit; a unit may have none. `units` are numbered from 1.
    """
    shares, weights = row
    costs = -np.log(shares[:, np.array(units) - 1] / np.maximum(weights, 1e-6)[:, None] + _FLOOR)
    count, length = costs.shape
    best = np.full((count, length), np.inf)
    back = np.zeros((count, length), np.int64)
    best[0] = costs[0] + _LOST * np.arange(length)
    for place in range(1, count):
        # From unit k to unit j at or behind it; units between them are lost.
        stay = best[place - 1]
        lowest, at = np.inf, 0
        for unit in range(length):
            lowest += _LOST
            options = [(stay[unit], unit), (lowest, at)]
            value, origin = min(options)
            best[place, unit], back[place, unit] = value + costs[place, unit], origin
            if stay[unit] < lowest + _LOST:
                lowest, at = stay[unit] - _LOST, unit
    last = int((best[-1] + _LOST * np.arange(length)[::-1]).argmin())
    owner = [last]
    for place in range(count - 1, 0, -1):
        owner.append(int(back[place, owner[-1]]))
    edges = np.searchsorted(np.array(owner[::-1]), np.arange(length + 1))
    return [(int(begin), int(end)) for begin, end in pairwise(edges)]


class Renderings:
    """Pairs of frames of each unit, as unheard voices gave them.

    Args:
        rows: clips, by a head of frames that was not trained on their voices.
        units: the units that each clip says, numbered from 1.
        count: number of units.
        seed: seed of what is drawn.
    """

    def __init__(self, rows: Sequence[Row], units: Sequence[Sequence[int]], count: int, seed: int) -> None:
        self._found: list[list[Row]] = [[] for _ in range(count + 1)]
        self._draw = np.random.default_rng(seed)
        self._count = count
        for row, said in zip(rows, units, strict=True):
            for unit, (begin, end) in zip(said, aligned(row, said), strict=True):
                self._found[unit].append((row[0][begin:end], row[1][begin:end]))

    def of(self, units: Sequence[int]) -> Row:
        """Returns a row of units as some voices would have said them, one after another."""
        parts = [self._one(unit) for unit in units]
        shares = np.concatenate([part[0] for part in parts])
        weights = np.concatenate([part[1] for part in parts])
        if not len(weights):
            return self._plain(units[0])
        return shares, weights

    def _one(self, unit: int) -> Row:
        found = self._found[unit]
        if len(found) < _FEWEST and self._draw.random() < 0.5:
            return self._plain(unit)
        return found[int(self._draw.integers(len(found)))] if found else self._plain(unit)

    def _plain(self, unit: int) -> Row:
        shares = np.zeros((1, self._count), np.float32)
        shares[0, unit - 1] = 1.0
        return shares, np.ones(1, np.float32)
