"""The answers that moderation is judged on: areas under curves, and which files they are read from."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from deepwell_bench.suites.safety.moderation import area
from deepwell_bench.workloads import safety
from deepwell_bench.workloads.safety.moderated import JUDGED, Scored, digest_of_scored


@pytest.mark.parametrize(
    ("harmful", "outputs", "wanted"),
    [
        ([0, 0, 1, 1], [1, 2, 3, 4], 1.0),
        ([1, 1, 0, 0], [1, 2, 3, 4], 0.0),
        ([0, 1, 0, 1], [1, 1, 1, 1], 0.5),
        ([0, 1, 0, 1], [1, 2, 3, 4], 0.75),
    ],
)
def test_the_area_counts_equal_outputs_half(harmful: list[int], outputs: list[int], wanted: float) -> None:
    assert area(np.array(harmful, np.bool_), np.array(outputs, np.float64)) == wanted


def test_the_digest_holds_texts_and_scores_in_any_order() -> None:
    one, other = Scored("sexual", "harm/sexual", "", "a", 0.5), Scored("sexual", "harm/sexual", "", "b", 0.25)
    assert digest_of_scored([one, other]) == digest_of_scored([other, one])
    assert digest_of_scored([one]) != digest_of_scored([Scored("sexual", "harm/sexual", "", "a", 0.75)])


def test_every_judged_category_is_frozen() -> None:
    frozen = tomllib.loads((Path(safety.__file__).parent / "frozen_moderation.toml").read_text("utf-8"))
    assert tuple(frozen) == JUDGED
    assert sum(one["count"] for one in frozen.values()) == 589
