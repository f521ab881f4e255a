"""Guards are compared at no more false positives than the other's, and spans must overlap what was planted."""

from __future__ import annotations

import pytest

from deepwell_bench.suites.safety.peers import Judged, recall_at

OURS = Judged({"set": [0.9, 0.8, 0.4, -1.0]}, {"benign": [0.85, 0.4, -1.0, -1.0]}, [1.0])


@pytest.mark.parametrize(("most", "recall"), [(0, 25.0), (1, 50.0), (2, 75.0), (4, 75.0)])
def test_fewer_false_positives_cost_recall(most: int, recall: float) -> None:
    assert recall_at(OURS, "set", most) == recall


def test_a_text_without_a_finding_is_never_found() -> None:
    silent = Judged({"set": [-1.0, -1.0]}, {"benign": [-1.0]}, [1.0])

    assert (silent.recall("set"), recall_at(silent, "set", 1), silent.false_positives()) == (0.0, 0.0, 0)


def test_figures_count_from_a_score_on() -> None:
    assert OURS.recall("set", 0.5) == 50.0
    assert OURS.false_percent(0.5) == 25.0
