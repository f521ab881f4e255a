"""Fits weights in numpy: sparse features, and L-BFGS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Double", "Slope", "Sparse", "least"]

Double = NDArray[np.float64]
Slope = Callable[[Double], tuple[float, Double]]

_STEPS: Final = 60
_MEMORY: Final = 10


@dataclass(frozen=True, slots=True)
class Sparse:
    """Features of many texts, most of them zero, [texts, width].

    Attributes:
        places: features that are not zero, one text behind the other.
        values: their values.
        texts: the text of each.
        shape: the numbers of texts and of features.
    """

    places: NDArray[np.int64]
    values: Double
    texts: NDArray[np.int64]
    shape: tuple[int, int]

    @staticmethod
    def of(rows: Sequence[tuple[NDArray[np.int64], Double]], width: int) -> Sparse:
        """Returns the features of texts, given the places and the values of each."""
        lengths = [len(places) for places, _ in rows]
        places = np.concatenate([np.zeros(0, np.int64), *(places for places, _ in rows)])
        values = np.concatenate([np.zeros(0), *(values for _, values in rows)])
        return Sparse(places, values, np.repeat(np.arange(len(rows)), lengths), (len(rows), width))

    def kept(self, least_texts: int) -> tuple[Sparse, NDArray[np.int64]]:
        """Returns the features that so many texts have, numbered anew, and their old numbers."""
        often = np.bincount(self.places, minlength=self.shape[1]) >= least_texts
        numbers, here = np.cumsum(often) - 1, often[self.places]
        shape = (self.shape[0], int(often.sum()))
        return Sparse(numbers[self.places[here]], self.values[here], self.texts[here], shape), np.flatnonzero(
            often
        )

    def times(self, weights: Double) -> Double:
        """Returns the products with weights, [width, heads] -> [texts, heads]."""
        columns = np.ascontiguousarray(weights.T)
        told = [np.bincount(self.texts, self.values * one[self.places], self.shape[0]) for one in columns]
        return np.stack(told, 1, dtype=np.float64)

    def back(self, slopes: Double) -> Double:
        """Returns the slopes of the weights, given those of the products: [texts, heads] -> [width, heads]."""
        columns = np.ascontiguousarray(slopes.T)
        told = [np.bincount(self.places, self.values * one[self.texts], self.shape[1]) for one in columns]
        return np.stack(told, 1, dtype=np.float64)


def least(slope: Slope, point: Double, progress: Callable[[int, int], None]) -> Double:
    """Returns the point where a function is least (Nocedal and Wright 2006, algorithm 7.5).

    Args:
        slope: returns the value at a point, and the gradient.
        progress: told the step, and their number.
    """
    value, gradient = slope(point)
    pairs: list[tuple[Double, Double]] = []
    for step in range(1, _STEPS + 1):
        direction = _direction(gradient, pairs)
        decline, length = float(gradient @ direction), 1.0
        while True:
            after, gradient_after = slope(point + length * direction)
            if after <= value + 1e-4 * length * decline or length < 1e-8:
                break
            length /= 2
        moved, bent = length * direction, gradient_after - gradient
        if float(moved @ bent) > 1e-10:
            pairs = [*pairs, (moved, bent)][-_MEMORY:]
        settled = abs(value - after) < 1e-5 * abs(value)
        point, value, gradient = point + moved, after, gradient_after
        progress(step, _STEPS)
        if settled:
            break
    return point


def _direction(gradient: Double, pairs: Sequence[tuple[Double, Double]]) -> Double:
    direction, shares = -gradient, list[float]()
    if not pairs:
        return direction / max(1.0, float(np.linalg.norm(gradient)))
    for moved, bent in reversed(pairs):
        shares.append(float(moved @ direction) / float(moved @ bent))
        direction = direction - shares[-1] * bent
    moved, bent = pairs[-1]
    direction = direction * (float(moved @ bent) / float(bent @ bent))
    for (moved, bent), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + moved * (share - float(bent @ direction) / float(moved @ bent))
    return direction
