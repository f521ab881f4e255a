"""How comparisons are run and summed up."""

from deepwell.cli.bench.engine import Run
from deepwell_bench.harness.comparison import Comparison, compare


def test_every_side_runs_once_a_round_after_a_warm_up_in_turning_order():
    calls: list[tuple[str, int]] = []

    def side(name):
        def run(number):
            calls.append((name, number))
            return Run(seconds=1.0, work_tokens=10, outputs=())

        return run

    result = compare({"a": side("a"), "b": side("b")}, rounds=2)

    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    assert result.rates == {"a": (10.0, 10.0), "b": (10.0, 10.0)}


def test_ratio_is_the_median_of_the_rounds_ratios():
    result = Comparison({"ours": (10.0, 40.0, 30.0), "peer": (10.0, 20.0, 10.0)})

    assert result.ratio("ours", "peer") == 2.0  # of 1, 2 and 3; the ratio of medians would be 3
    assert result.best(["ours", "peer"]) == "ours"
    assert result.spread("peer") == (10.0, 20.0)
