"""Figures of three systems on the same items, and the share of decisions with reasons."""

from __future__ import annotations

import io

import pytest
from examples.contracts.evaluate import Judged

from deepwell.agents.rules import Decision, Fact, Step
from deepwell.agents.rules.decision import Denied, Explanation
from deepwell.cli.bench.report import Report
from deepwell_bench.suites.applications.joined import explained, joined_figures


def judged(*said: str) -> list[Judged]:
    return [Judged(f"family {place % 2}", frozenset("ab"), frozenset(one)) for place, one in enumerate(said)]


def test_joined_figures_compare_with_the_best_single_system() -> None:
    report = Report(as_json=True)
    report.console.file = io.StringIO()
    systems = {"rules": judged("a", "b"), "model": judged("ab", "c"), "joined": judged("ab", "ab")}
    value = joined_figures(report, systems, str)
    assert value["f1_rules"] == pytest.approx(2 / 3, abs=1e-3)
    assert value["f1_model"] == pytest.approx(4 / 7, abs=1e-3)
    assert value["points_over_best"] == pytest.approx(100 / 3, abs=0.1)
    assert value["times_rules"] == pytest.approx(1.5)
    assert value["errors_of_rules"] == 0
    assert value["rules_bar"] > 1
    assert value["f1_joined_interval"] == [1.0, 1.0]


def test_a_fact_without_a_reason_in_both_languages_is_not_explained() -> None:
    good, silent, bare = Fact("a"), Fact("b"), Fact("c")
    step = Step("rule", "one", {"en": "because", "zh": "因为"}, (), good)
    denial = Step("score", "", {"en": "low", "zh": "低"}, (silent,))
    decision = Decision(
        "decided", (), (Denied(silent, denial),), (good, bare), Explanation((step,), (Denied(silent, denial),), step)
    )  # fmt: skip
    assert explained([decision]) == pytest.approx(1 / 3)
