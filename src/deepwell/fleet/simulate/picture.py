"""Draws latencies, throughput and busy time by the number of replicas, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepwell.errors import MissingDependency
from deepwell.fleet.simulate.figures import Figures
from deepwell.fleet.simulate.planning import Goal

__all__ = ["draw"]

_FIRST, _ANSWER, _BUSY, _TARGET = "#2563eb", "#0f766e", "#b45309", "#dc2626"


def draw(
    runs: Sequence[Figures], path: Path, *, title: str, goal: Goal | None = None, chosen: int = 0
) -> None:
    """Writes a picture of runs with different numbers of replicas. `chosen` is marked, if it is not 0.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "the picture needs matplotlib, which is not installed", fix="pip install 'deepwell[eval]'"
        ) from error
    ordered = sorted(runs, key=lambda one: one.replicas)
    replicas = [one.replicas for one in ordered]
    figure = Figure(figsize=(8, 6), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    late, work = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    late.plot(
        replicas, [one.answer_p95_ms for one in ordered], color=_ANSWER, marker="o", label="answer, p95"
    )
    late.plot(
        replicas, [one.first_p95_ms for one in ordered], color=_FIRST, marker="o", label="first token, p95"
    )
    late.plot(
        replicas, [one.first_p50_ms for one in ordered], color=_FIRST, linestyle=":", label="first token, p50"
    )
    if goal is not None:
        late.axhline(goal.target_p95_ms, color=_TARGET, linestyle="--", label=f"target ({goal.metric})")
    late.set_yscale("log")
    late.set_ylabel("milliseconds")
    late.legend(fontsize=8)
    work.plot(
        replicas, [100 * one.busy for one in ordered], color=_BUSY, marker="o", label="replicas busy, %"
    )
    work.plot(replicas, [100 * one.rejected for one in ordered], color=_TARGET, label="refused, %")
    work.set_ylim(0, 105)
    work.set_xlabel("replicas")
    work.set_ylabel("%")
    work.legend(fontsize=8)
    for axes in (late, work):
        axes.grid(color="#e5e7eb")
        axes.set_axisbelow(True)
        if chosen:
            axes.axvline(chosen, color="#1f2937", linewidth=1)
    if len(replicas) < 12:
        work.set_xticks(replicas)
    figure.savefig(path)
