"""Evolution of candidates of least predicted loss within a budget: mutation, crossover and tournaments, from a seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.compress.search.space import Candidate, Population, Space

__all__ = ["Measure", "evenly", "evolved", "shallow"]

Measure = Callable[[Population], NDArray[np.float64]]
"""Returns a figure of each candidate: predicted loss, weights, or seconds."""
_SIZE: Final = 192
_GENERATIONS: Final = 100
_MOST_SHRINKS: Final = 400


def evolved(
    space: Space,
    loss: Measure,
    cost: Measure,
    budget: float,
    parents: Sequence[Candidate],
    seed: Sequence[int],
    *,
    known: Collection[Candidate] = (),
) -> Candidate | None:
    """Returns the candidate of least predicted loss whose cost is within a budget, of those that are not known already.

    Args:
        cost: figure that the budget bounds.
        parents: candidates to begin with, beside cuts by chance.
        seed: numbers from which all chance comes.

    Returns:
        None if no candidate that was met is within the budget.
    """
    rng = np.random.default_rng(list(seed))
    population = space.population([*parents, *[space.donor] * max(1, _SIZE - len(parents))])
    population = _within(space, population, cost, budget, rng)
    scores = np.where(cost(population) <= budget, loss(population), np.inf)
    if not np.isfinite(scores).any():
        return None
    met: dict[Candidate, float] = {}
    for _ in range(_GENERATIONS):
        children = _crossed(population, scores, rng)
        children = _within(space, _mutated(space, children, rng), cost, budget, rng)
        pool = population.joined(children)
        scores = np.concatenate([scores, np.where(cost(children) <= budget, loss(children), np.inf)])
        order = _best(pool, scores)
        population, scores = pool.take(order), scores[order]
    for row in np.argsort(scores, kind="stable")[: len(known) + 1]:
        if np.isfinite(scores[row]):
            met.setdefault(space.candidate(population, int(row)), float(scores[row]))
    fresh = [one for one in met if one not in known]
    return min(fresh, key=met.__getitem__) if fresh else None


def evenly(space: Space, loss: Measure, cost: Measure, budget: float) -> Candidate | None:
    """Returns a candidate within a budget whose MLPs all have one width, or the next narrower: first those it costs least."""
    for level in range(len(space.levels) - 1, 1, -1):
        wide = Candidate(space.kv_heads[-1], (True,) * space.layers, (space.levels[level],) * space.layers)
        one = Population(
            np.repeat(space.population([wide]).width, space.layers, 0) - np.eye(space.layers, dtype=np.int64),
            np.ones((space.layers, space.layers), bool),
            np.full(space.layers, len(space.kv_heads) - 1),
        )
        order = np.argsort(loss(one), kind="stable")
        counts = [space.layers] if space.uniform else range(1, space.layers + 1)
        for count in counts:
            narrow = set(order[:count].tolist())
            widths = tuple(space.levels[level - (n in narrow)] for n in range(space.layers))
            found = Candidate(wide.kv_heads, wide.attention, widths)
            if cost(space.population([found]))[0] <= budget:
                return found
    return None


def shallow(space: Space, loss: Measure, cost: Measure, budget: float) -> Candidate | None:
    """Returns a candidate within a budget without the layers that cost least one by one; all others are whole."""
    single = [
        Candidate(
            space.kv_heads[-1],
            tuple(n != gone for n in range(space.layers)),
            tuple(space.levels[-1] * (n != gone) for n in range(space.layers)),
        )
        for gone in range(space.layers)
    ]
    order = np.argsort(loss(space.population(single)), kind="stable").tolist()
    for count in range(1, space.layers):
        gone = set(order[:count])
        found = Candidate(
            space.kv_heads[-1],
            tuple(n not in gone for n in range(space.layers)),
            tuple(space.levels[-1] * (n not in gone) for n in range(space.layers)),
        )
        if cost(space.population([found]))[0] <= budget:
            return found
    return None


def _best(population: Population, scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """Returns the rows of the best candidates, each of them once while there are enough."""
    rows = np.concatenate([population.width, population.attention, population.heads[:, None]], axis=1)
    # Sums with large factors tell candidates apart, and are sorted faster than rows.
    factors = np.random.default_rng(0).integers(1, 1 << 48, rows.shape[1])
    _, first = np.unique(rows @ factors, return_index=True)
    order = first[np.argsort(scores[first], kind="stable")][:_SIZE]
    if len(order) < _SIZE:
        order = np.resize(order, _SIZE)
    return order


def _crossed(population: Population, scores: NDArray[np.float64], rng: np.random.Generator) -> Population:
    """Returns children of two winners of tournaments each: a run of layers of one, the rest of the other."""
    count, layers = population.width.shape
    drawn = rng.integers(0, count, (2, count, 3))
    winners = np.take_along_axis(drawn, scores[drawn].argmin(2)[..., None], 2)[..., 0]
    first, second = population.take(winners[0]), population.take(winners[1])
    ends = np.sort(rng.integers(0, layers + 1, (count, 2)), axis=1)
    places = np.arange(layers)
    inside = (places >= ends[:, :1]) & (places < ends[:, 1:])
    return Population(
        np.where(inside, second.width, first.width),
        np.where(inside, second.attention, first.attention),
        first.heads,
    )


def _mutated(space: Space, population: Population, rng: np.random.Generator) -> Population:
    """Changes a layer or two of each candidate: a step of width, attention on or off, or parts of two layers exchanged."""
    width, attention, heads = population.width.copy(), population.attention.copy(), population.heads.copy()
    count, layers = width.shape
    most = len(space.levels) - 1
    rows = np.arange(count)
    for _ in range(2):
        kind, layer, other = (
            rng.integers(0, 5, count),
            rng.integers(0, layers, count),
            rng.integers(0, layers, count),
        )
        step = rng.choice([-1, 1], count)
        if space.uniform:
            grown = rows[kind == 0]
            width[grown] = np.where(width[grown] > 0, np.clip(width[grown] + step[grown, None], 1, most), 0)
            back = rows[kind == 1]
            width[back, layer[back]] = width[back].max(1)
            attention[back, layer[back]] = True
        else:
            grown = rows[kind == 0]
            width[grown, layer[grown]] = np.clip(width[grown, layer[grown]] + step[grown], 0, most)
            switched = rows[kind == 1]
            attention[switched, layer[switched]] ^= True
            moved = rows[kind == 4]
            width[moved, layer[moved]] = np.clip(width[moved, layer[moved]] - 1, 0, most)
            width[moved, other[moved]] = np.clip(width[moved, other[moved]] + 1, 0, most)
        dropped = rows[(kind == 2) & (rng.random(count) < 0.5)]
        width[dropped, layer[dropped]] = 0
        attention[dropped, layer[dropped]] = False
        swapped = rows[kind == 3]
        a, b = layer[swapped], other[swapped]
        for values in (width, attention):
            values[swapped, a], values[swapped, b] = values[swapped, b], values[swapped, a].copy()
    changed = rows[rng.random(count) < 0.05]
    heads[changed] = rng.integers(0, len(space.kv_heads), len(changed))
    return space.repaired(Population(width, attention, heads))


def _within(
    space: Space, population: Population, cost: Measure, budget: float, rng: np.random.Generator
) -> Population:
    """Cuts parts by chance from candidates over the budget until they are within it."""
    layers = space.layers
    for _ in range(_MOST_SHRINKS):
        over = np.flatnonzero(cost(population) > budget)
        if not len(over):
            break
        width, attention = population.width.copy(), population.attention.copy()
        layer, kind = rng.integers(0, layers, len(over)), rng.random(len(over))
        if space.uniform:
            narrow, drop = over[kind < 0.5], kind >= 0.5
            width[narrow] = np.where(width[narrow] > 0, np.maximum(width[narrow] - 1, 1), 0)
            width[over[drop], layer[drop]] = 0
            attention[over[drop], layer[drop]] = False
        else:
            narrow, blind = kind < 0.6, kind >= 0.6
            width[over[narrow], layer[narrow]] = np.maximum(width[over[narrow], layer[narrow]] - 1, 0)
            attention[over[blind], layer[blind]] = False
        population = space.repaired(Population(width, attention, population.heads))
    return population
