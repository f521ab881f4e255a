"""Learning curves: accuracy on held-out texts by number of labels, for every strategy beside the random one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.data.active.features import Features
from deepwell.tuning.data.active.pool import BATCH, START, Pool, accuracy
from deepwell.tuning.data.active.stopping import StopRule
from deepwell.tuning.data.active.strategies import STRATEGIES, Strategy

__all__ = ["Curve", "Labelled", "simulate", "simulate_arms"]

RANDOM: Final[Strategy] = "random"


@dataclass(frozen=True, slots=True)
class Labelled:
    """Features of texts with the class of each, from 0."""

    features: Features
    labels: Sequence[int]


@dataclass(frozen=True, slots=True)
class Curve:
    """The learning curve of one strategy.

    Attributes:
        budgets: numbers of labels, rising.
        accuracy: on the held-out texts, [seeds, budgets].
        stops: number of labels at which the stop rule fired, for each seed; None: it never did.
    """

    strategy: Strategy
    budgets: tuple[int, ...]
    accuracy: NDArray[np.float64]
    stops: tuple[int | None, ...]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean accuracy over the seeds, [budgets]."""
        return self.accuracy.mean(axis=0)

    def labels_to(self, target: float) -> int | None:
        """Returns the fewest labels at which the mean accuracy reaches a target; None: it never does."""
        reached = np.flatnonzero(self.mean >= target)
        return self.budgets[reached[0]] if len(reached) else None

    def least_lead(self, other: Curve, *, since: int = 30) -> float:
        """Returns the least difference of the mean accuracies to another curve, from `since` labels on."""
        places = [at for at, budget in enumerate(self.budgets) if budget >= since]
        return float((self.mean - other.mean)[places].min()) if places else 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns the curve as plain values."""
        return {
            "strategy": self.strategy,
            "labels": list(self.budgets),
            "accuracy": [round(float(one), 4) for one in self.mean],
            "stops": list(self.stops),
        }


def simulate(
    pool: Labelled,
    held_out: Labelled,
    strategy: Strategy,
    *,
    classes: int,
    seeds: Iterable[int] = range(5),
    start: int = START,
    batch: int = BATCH,
    budget: int = 200,
    tell: Callable[[], None] = lambda: None,
) -> Curve:
    """Labels the pool with the labels that are known, and measures on the held-out texts after every batch.

    The held-out texts are measured and nothing else: they choose neither a row nor a setting. Seeds give the first rows.

    Args:
        start: labels that are drawn at random. Below that, and while they are all of one class, the others are too.
        tell: is called after every seed.
    """
    most = min(budget, len(pool.labels))
    budgets = tuple(range(min(start, most), most + 1, batch))
    found: list[list[float]] = []
    stops: list[int | None] = []
    for seed in seeds:
        run = Pool(pool.features, classes, seed=seed, start=start)
        rule, stop = StopRule(), None
        line: list[float] = []
        for row in run.choose(strategy, budgets[0]):
            run.label(row, pool.labels[row])
        for known in budgets:
            model = run.fit()
            line.append(_measured(model, held_out, list(run.labels.values())))
            predictions = run.probabilities().argmax(axis=1)
            if rule.observe(predictions, known) and stop is None:
                stop = known
            for row in run.ranking(strategy)[: min(batch, most - known)]:
                run.label(row, pool.labels[row])
        found.append(line)
        stops.append(stop)
        tell()
    return Curve(strategy, budgets, np.array(found), tuple(stops))


def simulate_arms(
    pool: Labelled, held_out: Labelled, strategies: Iterable[Strategy] = STRATEGIES, **options: Any
) -> dict[Strategy, Curve]:
    """Returns the curves of some strategies, and always that of the random one."""
    arms = dict.fromkeys((*strategies, RANDOM))
    return {arm: simulate(pool, held_out, arm, **options) for arm in arms}


def _measured(model: Any, held_out: Labelled, known: Sequence[int]) -> float:
    """Returns the accuracy of a learner; of the only class that is known where there is no learner yet."""
    if model is not None:
        return accuracy(model, held_out.features, held_out.labels)
    most = max(set(known), key=list(known).count)
    return float(np.mean(np.asarray(held_out.labels) == most))
