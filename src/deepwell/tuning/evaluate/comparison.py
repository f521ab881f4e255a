"""`Comparison`: the differences between two models in everything that both were measured in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepwell.tuning.evaluate.latency import Latency
from deepwell.tuning.evaluate.run import Evaluation
from deepwell.tuning.evaluate.statistics import Difference, difference

__all__ = ["Comparison", "Row", "compare", "plain_name"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table of differences."""

    task: str
    metric: str
    unit: str
    better: str | None
    change: Difference


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between two models in everything that both were measured in, second minus first."""

    first: str
    second: str
    rows: tuple[Row, ...]
    latency: Latency | None = None


def compare(first: Evaluation, second: Evaluation, latency: Latency | None = None) -> Comparison:
    """Returns the differences of two models, second minus first."""
    rows = tuple(
        Row(task, name, measure.unit, measure.better, difference(measure, second.measures[task, name]))
        for (task, name), measure in first.measures.items()
        if (task, name) in second.measures
    )
    return Comparison(first.label, second.label, rows, latency)


def plain_name(label: str) -> str:
    """Returns a label as a name of a file."""
    return re.sub(r"[^\w.-]+", "_", label).strip("_") or "model"
