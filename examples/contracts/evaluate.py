"""Figures of a review: F1 of labels over texts, and intervals by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Counts", "Judged", "counts_of", "interval", "macro", "micro"]

_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Judged:
    """An item that was judged: its family, what is true, and what was said, both as labels or `field=value`."""

    family: str
    true: frozenset[str]
    said: frozenset[str]


@dataclass(slots=True)
class Counts:
    """Hits, false alarms and misses."""

    hits: int = 0
    false: int = 0
    missed: int = 0

    @property
    def f1(self) -> float:
        """The F1 of the counts; 1 where there was nothing to find and nothing was said."""
        whole = 2 * self.hits + self.false + self.missed
        return 2 * self.hits / whole if whole else 1.0


def counts_of(items: Sequence[Judged], name: Callable[[str], str] = str) -> dict[str, Counts]:
    """Returns the counts of each label.

    Args:
        name: the label that a statement belongs to.
    """
    found: dict[str, Counts] = {}
    for one in items:
        for statement in one.true | one.said:
            counts = found.setdefault(name(statement), Counts())
            counts.hits += statement in one.true and statement in one.said
            counts.false += statement not in one.true
            counts.missed += statement not in one.said
    return found


def micro(items: Sequence[Judged]) -> float:
    """Returns the F1 over all statements of all items."""
    hits = sum(len(one.true & one.said) for one in items)
    whole = sum(len(one.true) + len(one.said) for one in items)
    return 2 * hits / whole if whole else 1.0


def macro(counts: Mapping[str, Counts]) -> float:
    """Returns the mean F1 of the labels."""
    return sum(one.f1 for one in counts.values()) / len(counts) if counts else 1.0


def interval(
    systems: Sequence[Sequence[Judged]], figure: Callable[[Sequence[float]], float], seed: int = 0
) -> tuple[float, float]:
    """Returns the 95 % interval of a figure of several systems' micro F1 on the same items, by drawing families anew.

    Args:
        systems: what each system said about the same items in the same order.
        figure: the figure, of one F1 a system.
    """
    families = sorted({one.family for one in systems[0]})
    sums = np.zeros((len(systems), len(families), 2))
    place = {one: number for number, one in enumerate(families)}
    for number, items in enumerate(systems):
        for one in items:
            sums[number, place[one.family]] += (2 * len(one.true & one.said), len(one.true) + len(one.said))
    draws = np.random.default_rng(seed).integers(0, len(families), (_DRAWS, len(families)))
    drawn = sums[:, draws].sum(axis=2)  # [systems, draws, 2]
    values = [figure([float(a / b) if b else 1.0 for a, b in drawn[:, draw]]) for draw in range(_DRAWS)]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
