"""The swaps, the paraphrases, and the arithmetic of the semantic cache's benchmark."""

from __future__ import annotations

from collections import Counter

import pytest

from deepwell.errors import DeepwellError
from deepwell.server.caches.wording import asks_the_same, normal_form
from deepwell_bench.suites.service.scrape import histogram_quantile
from deepwell_bench.suites.service.semantic import upper_bound
from deepwell_bench.workloads.swaps import families, paraphrase_pairs, swap_pairs


@pytest.mark.parametrize(
    ("hits", "trials", "upper"),
    [
        (0, 10, 0.3085),
        (1, 10, 0.4450),
        (5, 10, 0.8129),
        (10, 10, 1.0),
        (0, 3688, 0.0009998),
        (2, 5000, 0.001444),
    ],
)
def test_the_upper_bound_is_clopper_and_pearsons(hits: int, trials: int, upper: float) -> None:
    assert upper_bound(hits, trials) == pytest.approx(upper, rel=1e-3)


def test_swaps_are_many_and_repeatable_and_half_of_their_families_held_out() -> None:
    pairs = swap_pairs(20)
    assert pairs == swap_pairs(20) != swap_pairs(20, seed=1)
    assert len(set(pairs)) == len(pairs)
    assert set(Counter(pair.family for pair in pairs).values()) == {20}
    assert len({family.name for family in families()}) == len(families()) >= 60
    held_out = sum(pair.held_out for pair in pairs)
    assert 0.4 < held_out / len(pairs) < 0.6
    assert sum(pair.language == "zh" for pair in pairs) > len(pairs) / 4


def test_the_wording_alone_keeps_swaps_apart() -> None:
    taken = [
        pair
        for pair in swap_pairs(40, seed=7)
        if (one := normal_form(pair.first))
        and (other := normal_form(pair.second))
        and asks_the_same(one, other)
    ]
    assert taken == []


def test_paraphrases_are_enough_and_no_repetitions() -> None:
    pairs = paraphrase_pairs()
    assert len(pairs) >= 300 and min(Counter(pair.language for pair in pairs).values()) >= 100
    assert len({(pair.first, pair.second) for pair in pairs}) == len(pairs)
    assert all(pair.first != pair.second for pair in pairs)


def test_a_quantile_is_read_from_buckets() -> None:
    text = 'x_bucket{le="0.1"} 90.0\nx_bucket{le="0.5"} 99.0\nx_bucket{le="+Inf"} 100.0\n'
    assert histogram_quantile(text, "x", 0.9) == (0.1, 100)
    assert histogram_quantile(text, "x", 0.99) == (0.5, 100)
    assert histogram_quantile(text, "x", 0.999) == (float("inf"), 100)
    with pytest.raises(DeepwellError):
        histogram_quantile(text, "y", 0.5)
