"""Win rates and agreement, beside values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deepwell.tuning.evaluate.agreement import agreement, preference_of


def test_kappa_of_a_table_from_the_literature():
    # Cohen's kappa of 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no is 0.4: 0.7 observed, 0.5 by chance.
    pairs = (
        [("first", "first")] * 20
        + [("first", "second")] * 5
        + [("second", "first")] * 10
        + [("second", "second")] * 15
    )
    found = agreement(("a", "b"), pairs)
    assert found.kappa is not None
    assert found.share.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4)
    # The large-sample standard error of this table is 0.126.
    assert found.kappa.low == pytest.approx(0.4 - 1.96 * 0.126, abs=0.05)
    assert found.kappa.high == pytest.approx(0.4 + 1.96 * 0.126, abs=0.05)


def test_raters_by_chance_have_no_kappa():
    generator = np.random.default_rng(2)
    names = np.array(["first", "second", "tie"])
    pairs = list(zip(names[generator.integers(0, 3, 600)], names[generator.integers(0, 3, 600)], strict=True))
    found = agreement(("a", "b"), pairs)
    assert found.kappa is not None
    assert found.kappa.low < 0 < found.kappa.high


def test_raters_who_always_agree_on_one_answer_have_no_kappa_at_all():
    found = agreement(("a", "b"), [("tie", "tie")] * 5)
    assert (found.share.value, found.kappa) == (1, None)
    mixed = agreement(("a", "b"), [("tie", "tie"), ("first", "first"), ("second", "second")] * 5)
    assert mixed.kappa is not None and mixed.kappa.value == 1


def test_each_pair_counts_once_however_many_rate_it():
    found = preference_of({"a": {0: "second", 1: "second", 2: "first"}, "b": {0: "second", 1: "tie"}})
    assert found.win_rate is not None
    assert found.win_rate.value == pytest.approx((1 + 0.75 + 0) / 3)
    assert found.rated == 3
    assert [(one.first, one.second, one.tie) for one in found.raters] == [(1, 2, 0), (0, 1, 1)]
    assert found.agreements[0].pairs == 2
    assert preference_of({}).win_rate is None
    assert preference_of({"a": {0: "tie"}, "b": {1: "tie"}}).agreements == ()
