"""The figures of the benchmark of session adapters."""

from __future__ import annotations

from pathlib import Path

from deepwell_bench.suites.context.session_adapter import _Asked, _figures
from deepwell_bench.suites.tuning.runs import TrainingRun


def asked(without: int, adapted: int, of: int = 16) -> _Asked:
    run = TrainingRun(Path("adapter"), {"tokens": 7_000, "steps": 84}, {}, 0.5, 1 << 30)
    right = tuple(tuple(number < hits for number in range(of)) for hits in (without, adapted))
    return _Asked(right[0], right[1], 30.0, run, 1_900_000)


def test_a_gain_of_every_session_excludes_nothing_gained() -> None:
    found = _figures([asked(0, hits) for hits in (9, 10, 7, 8)], 16_000)
    assert (found["recall_without"], found["recall"]) == (0.0, 53.12)
    assert 0 < found["gain_low"] < 53.12 < found["gain_high"]
    assert found["mcnemar_p"] < 0.001
    assert (found["seconds"], found["adapter_mb"], found["training_peak_mb"]) == (30.0, 1.9, 1024)


def test_a_gain_of_one_session_does_not() -> None:
    found = _figures([asked(2, hits) for hits in (2, 2, 1, 3)], 16_000)
    assert found["gain_low"] <= 0 <= found["gain_high"]
