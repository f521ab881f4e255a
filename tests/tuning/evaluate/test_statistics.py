"""Intervals: how often they cover the truth, and what a pair of models tells that two single ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from deepwell.errors import DeepwellError
from deepwell.tuning.evaluate.statistics import (
    Measure,
    difference,
    estimate,
    exponential,
    mean_of,
    ratio_of,
    wilson,
)


def covered(draw: object, truth: float, runs: int = 300) -> float:
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(runs):
        found = estimate(draw(generator), resamples=400)  # pyright: ignore[reportCallIssue]
        hits += found.low <= truth <= found.high
    return hits / runs


def test_the_interval_of_an_accuracy_covers_the_truth_as_often_as_it_says():
    share = covered(lambda g: mean_of("acc", (g.random(200) < 0.7).astype(float), share=True), 0.7)
    assert 0.91 <= share <= 0.98


def test_the_interval_of_a_perplexity_covers_the_truth_as_often_as_it_says():
    def draw(generator: np.random.Generator) -> Measure:
        sizes = generator.integers(50, 150, 120)
        return ratio_of("ppl", sizes * generator.normal(2.0, 0.3, 120), sizes, of=exponential)

    assert 0.91 <= covered(draw, float(np.exp(2.0))) <= 0.98


def test_the_interval_of_a_difference_covers_zero_as_often_as_it_says():
    generator = np.random.default_rng(3)
    noise = 0
    for _ in range(300):
        shared = generator.normal(0, 1, 100)
        one, other = (shared + generator.normal(0, 0.2, 100) for _ in range(2))
        noise += difference(mean_of("x", one), mean_of("x", other), resamples=400).verdict == "within noise"
    assert 0.91 <= noise / 300 <= 0.98


def test_pairs_tell_more_than_two_intervals():
    generator = np.random.default_rng(5)
    hard = generator.normal(0, 1, 200)
    one = mean_of("loss", hard, better="lower")
    other = mean_of("loss", hard - 0.05 + generator.normal(0, 0.02, 200), better="lower")
    first, second = estimate(one), estimate(other)
    assert first.low < second.value < first.high
    found = difference(one, other)
    assert (found.verdict, found.paired) == ("better", 200)
    assert found.value == pytest.approx(-0.05, abs=0.01)


def test_the_direction_of_a_metric_decides_the_verdict():
    low, high = np.zeros(50), np.ones(50)
    assert difference(mean_of("a", low), mean_of("a", high)).verdict == "better"
    assert (
        difference(mean_of("a", low, better="lower"), mean_of("a", high, better="lower")).verdict == "worse"
    )
    assert difference(mean_of("a", low, better=None), mean_of("a", high, better=None)).verdict == "different"
    assert difference(mean_of("a", low), mean_of("a", low)).verdict == "within noise"
    assert difference(mean_of("a", low[:9]), mean_of("a", high[:9])).verdict == "too few"


def test_only_samples_that_both_have_are_compared():
    one = mean_of("acc", [1, 0, 1], share=True, keys=["a", "b", "c"])
    other = mean_of("acc", [0, 1], share=True, keys=["b", "c"])
    found = difference(one, other)
    assert (found.paired, found.first, found.second) == (2, 0.5, 0.5)
    with pytest.raises(DeepwellError, match="no sample"):
        difference(one, mean_of("acc", [1], share=True, keys=["z"]))


def test_all_right_is_not_certain():
    found = estimate(mean_of("acc", [1.0] * 20, share=True))
    assert (found.low, found.high) == wilson(20, 20)
    assert found.low < 0.85


def test_intervals_are_repeatable():
    values = np.random.default_rng(1).random(60)
    assert estimate(mean_of("x", values)) == estimate(mean_of("x", values))
