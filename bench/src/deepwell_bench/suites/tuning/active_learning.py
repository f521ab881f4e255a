"""Active learning: labels that margin and entropy sampling save against random ones, on held-out texts.

The held-out sets are frozen by hash and are measured alone; features, rows and the stop rule come from the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.tuning.data.active.curve import Curve, Labelled, simulate_arms
from deepwell.tuning.data.active.features import HashedFeatures
from deepwell.tuning.data.active.strategies import Strategy
from deepwell_bench.workloads.tuning.labelled import LabelledSet, bbc_news, rotten_tomatoes

__all__ = ["bench_active_learning"]

TARGET: Final = 0.90
SINCE: Final = 30
_SHOWN: Final = (10, 20, 30, 50, 75, 100, 150, 200, 300)
_Curves = Mapping[Strategy, Curve]


def bench_active_learning(report: Report, *, seeds: int = 5) -> dict[str, Any]:
    """Returns the labels to 90 % on BBC News by margin sampling and by chance, and what Rotten Tomatoes shows.

    Args:
        seeds: number of different first draws; curves are their means.
    """
    bbc = _measured(report, bbc_news(), seeds, budget=200)
    movies = _measured(report, rotten_tomatoes(), seeds, budget=300)
    random, margin = bbc["random"], bbc["margin"]
    by_chance, chosen = random.labels_to(TARGET), margin.labels_to(TARGET)
    saved = 1 - chosen / by_chance if chosen and by_chance else 0.0
    last = movies["random"].budgets[-1]
    return {
        "seeds": seeds,
        "bbc_labels_random": by_chance,
        "bbc_labels_margin": chosen,
        "bbc_labels_entropy": bbc["entropy"].labels_to(TARGET),
        "bbc_saved": rounded(saved),
        "bbc_least_lead": rounded(margin.least_lead(random, since=SINCE)),
        "bbc_stop_labels": _median_stop(margin),
        "movies_labels": last,
        "movies_random": rounded(float(movies["random"].mean[-1])),
        "movies_margin": rounded(float(movies["margin"].mean[-1])),
        "movies_entropy": rounded(float(movies["entropy"].mean[-1])),
        "movies_least_lead": rounded(movies["margin"].least_lead(movies["random"], since=SINCE)),
    }


def _measured(report: Report, data: LabelledSet, seeds: int, *, budget: int) -> _Curves:
    features = HashedFeatures([one.text for one in data.pool])
    held_out = features.transform([one.text for one in data.held_out])
    report.note(
        f"{data.name}: pool {len(data.pool)}, held out {len(data.held_out)}, classes {len(data.classes)}, "
        f"{seeds} seeds, 10 random labels, then 5 at a time"
    )
    curves = simulate_arms(
        Labelled(features, data.numbers(data.pool)),
        Labelled(held_out, data.numbers(data.held_out)),
        classes=len(data.classes),
        seeds=range(seeds),
        budget=budget,
    )
    budgets = curves["random"].budgets
    rows = [
        (str(labels), *(f"{100 * curve.mean[budgets.index(labels)]:.1f} %" for curve in curves.values()))
        for labels in _SHOWN
        if labels in budgets
    ]
    rows += [
        (f"labels to {100 * target:.0f} %", *(_number(curve.labels_to(target)) for curve in curves.values()))
        for target in (0.8, 0.85, 0.9, 0.92)
    ]
    rows.append(("stop rule, by seed", *(" ".join(map(_number, c.stops)) for c in curves.values())))
    report.table(f"accuracy on {data.name} by labels, mean of {seeds} seeds", ("labels", *curves), rows)
    return curves


def _number(value: int | None) -> str:
    return "never" if value is None else str(value)


def _median_stop(curve: Curve) -> int | None:
    """Returns the median of the labels at which the stop rule fired; None: for fewer than half of the seeds it did."""
    stops = sorted(one if one is not None else 1 << 30 for one in curve.stops)
    middle = stops[len(stops) // 2]
    return middle if middle < 1 << 30 else None
