"""Plots of a report as PNG, by matplotlib: the values of each task with their intervals, and the differences."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deepwell.tuning.evaluate.comparison import Comparison, plain_name
from deepwell.tuning.evaluate.run import Evaluation
from deepwell.tuning.evaluate.statistics import estimate

__all__ = ["plot"]

_LABEL = 24  # characters
_COLOURS = {
    "better": "#1a7f37",
    "worse": "#c0392b",
    "different": "#7d5ba6",
    "within noise": "#8a8f98",
    "too few": "#8a8f98",
}


def plot(folder: Path, evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> list[Path]:
    """Draws one picture for each task, and one for each comparison. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for task in dict.fromkeys(task for one in evaluations for task, _ in one.measures):
        paths.append(folder / f"{plain_name(task)}.png")
        _save(_values(task, evaluations), paths[-1])
    for one in comparisons:
        if one.rows:
            name = f"{plain_name(one.first)}-to-{plain_name(one.second)}.png"
            paths.append(folder / name)
            _save(_changes(one), paths[-1])
    return paths


def _values(task: str, evaluations: Sequence[Evaluation]) -> Figure:
    """Draws every metric of a task on its own axis, since their units differ."""
    names = list(dict.fromkeys(name for one in evaluations for t, name in one.measures if t == task))
    figure = Figure(figsize=(2.4 * max(2, len(names)), 3.2), layout="constrained")
    axes: Any = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        for place, one in enumerate(evaluations):
            if (task, name) not in one.measures:
                continue
            found = estimate(one.measures[task, name])
            below, above = max(0.0, found.value - found.low), max(0.0, found.high - found.value)
            axis.errorbar([place], [found.value], yerr=[[below], [above]], fmt="o", capsize=4)
        axis.set_title(name, fontsize=9)
        axis.set_xticks(
            range(len(evaluations)),
            [_short(one.label) for one in evaluations],
            rotation=30,
            ha="right",
            fontsize=7,
        )
        axis.margins(x=0.4)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(f"{task}: value and 95 % interval", fontsize=10)
    return figure


def _changes(comparison: Comparison) -> Figure:
    """Draws each difference over the width of its interval's larger end, so that all units share one axis."""
    rows = comparison.rows
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(rows)), layout="constrained")
    axis: Any = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        change = row.change
        scale = max(abs(change.low), abs(change.high)) or 1.0
        below, above = max(0.0, change.value - change.low), max(0.0, change.high - change.value)
        axis.errorbar(
            [change.value / scale],
            [place],
            xerr=[[below / scale], [above / scale]],
            fmt="o",
            capsize=3,
            color=_COLOURS[change.verdict],
        )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [f"{row.task} {row.metric}" for row in reversed(rows)], fontsize=7)
    axis.set_xticks([])
    axis.set_xlabel("difference and 95 % interval, each row on its own scale", fontsize=8)
    axis.set_title(f"{_short(comparison.second)} against {_short(comparison.first)}", fontsize=9)
    return figure


def _short(label: str) -> str:
    """Returns the end of a label, which tells paths apart."""
    return label if len(label) <= _LABEL else f"…{label[-_LABEL:]}"


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path))
