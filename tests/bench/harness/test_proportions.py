"""Intervals and tests of shares, against published values."""

import pytest

from deepwell_bench.harness.proportions import mcnemar, wilson


def test_wilson_interval_of_a_share():
    low, high = wilson(81, 263)
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def test_mcnemar_is_exact_and_symmetric():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar(10, 10) == 1.0
