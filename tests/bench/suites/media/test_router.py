"""The suite of the router takes the held-out file alone that was written before training, and counts what is right."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report
from deepwell.errors import InvalidRequest
from deepwell.media.router.labelled import Labelled
from deepwell_bench.suites.media import router as suite

HELD_OUT = [
    Labelled("Draw a cat", ("image",), "en"),
    Labelled("画一只猫", ("chat",), "zh"),
    Labelled("Draw a cat and read its name aloud: Tom.", ("image", "speech"), "en"),
]


def encode(text: str) -> NDArray[np.float32]:
    return np.zeros(384, np.float32)


def written(path: Path, requests: list[Labelled]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in requests))
    return path


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "held_out.jsonl", HELD_OUT)
    with pytest.raises(InvalidRequest):
        suite.bench_media_router(Report(as_json=True), path, path, encode)


def test_right_answers_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "held_out.jsonl", HELD_OUT)
    train = written(tmp_path / "train.jsonl", HELD_OUT[:1])
    monkeypatch.setattr(suite, "HELD_OUT_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    found = suite.bench_media_router(Report(as_json=True), path, train, encode)
    assert (found["held_out"], found["shared_with_training"]) == (3, 1)
    assert found["decided_by_rules"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["rules_right"] == 0.5
    assert found["ms"] > 0
