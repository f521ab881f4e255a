"""Figures of three systems on the same items: rules alone, the model alone, and both joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepwell.agents.rules import Decision
from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.workloads.applications import example

__all__ = ["SYSTEMS", "explained", "joined_figures"]

SYSTEMS = ("rules", "model", "joined")
"""Names of the systems, in the order in which they are reported."""


def joined_figures(
    report: Report, judged: Mapping[str, Sequence[Any]], name: Callable[[str], str]
) -> dict[str, Any]:
    """Returns F1 with 95 % intervals by family, and what joining gains; prints a table of the labels.

    Args:
        judged: the items of each system, in the same order; see `examples/contracts/evaluate.py`.
        name: the label that a statement belongs to.
    """
    figures = example("contracts.evaluate")
    counts = {one: figures.counts_of(judged[one], name) for one in SYSTEMS}
    micro = {one: figures.micro(judged[one]) for one in SYSTEMS}
    labels = sorted(set().union(*(one.keys() for one in counts.values())))
    empty = figures.Counts()
    rows = [
        (label, counts["rules"].get(label, empty).hits + counts["rules"].get(label, empty).missed,
         *(f"{counts[one].get(label, empty).f1:.3f}" for one in SYSTEMS))
        for label in labels
    ]  # fmt: skip
    report.table("F1 by label", ("label", "true", *SYSTEMS), rows)
    value: dict[str, Any] = {}
    for one in SYSTEMS:
        low, high = figures.interval([judged[one]], lambda f1: f1[0])
        value[f"f1_{one}"] = rounded(micro[one])
        value[f"f1_{one}_interval"] = [rounded(low), rounded(high)]
        value[f"macro_{one}"] = rounded(figures.macro(counts[one]))
    both = [judged[one] for one in SYSTEMS]
    low, high = figures.interval(both, lambda f1: 100 * (f1[2] - max(f1[0], f1[1])))
    value["points_over_best"] = rounded(100 * (micro["joined"] - max(micro["rules"], micro["model"])))
    value["points_over_best_interval"] = [rounded(low), rounded(high)]
    value["times_rules"] = rounded(micro["joined"] / micro["rules"])
    value["errors_of_rules"] = rounded((1 - micro["joined"]) / (1 - micro["rules"]))
    # The bar has two ways: 1.65 times the F1 of the rules, or half of their errors.
    value["rules_bar"] = rounded(max(value["times_rules"] / 1.65, 0.5 / max(value["errors_of_rules"], 1e-9)))
    return value


def explained(decisions: Sequence[Decision]) -> float:
    """Returns the share of derived and denied facts whose reasons are said in both languages by a named rule."""
    total = right = 0
    for decision in decisions:
        for fact in (*decision.derived, *(one.fact for one in decision.denied)):
            steps = decision.why(fact)
            total += 1
            right += any(one.rule and one.said("zh") and one.said("en") for one in steps)
    return right / total if total else 1.0
