"""Adapters written from another one's weights for benchmarks of the gates: what they change, and what they must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell import LLM
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.weights.adapters import linears_of
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell_bench.suites.align.candidates import scaled, widened
from deepwell_bench.workloads.random_adapter import write_random_adapter


def test_a_wider_adapter_computes_the_same_and_a_scaled_one_does_not(
    tiny: LLM, tiny_model: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_model)
    linears = linears_of(tensor_plan(checkpoint.config), checkpoint)
    some = {name: one for name, one in linears.items() if name.endswith(("q_proj", "v_proj"))}
    assert 0 < len(some) < len(linears)
    narrow = write_random_adapter(tmp_path / "narrow", some, rank=4, seed=3, alpha=16)
    folders = {
        "narrow": narrow,
        "wide": widened(narrow, tmp_path / "wide", linears, 32),
        "far": scaled(narrow, tmp_path / "far", 8),
    }
    pair = [(tiny.encode("hello world"), tiny.encode(" 1 2 3 hello"))]
    found: dict[str, list[float]] = {}
    for name, folder in folders.items():
        tiny.load_adapter(name, folder)
        try:
            found[name] = list(tiny.score(pair, adapter=name)[0].logprobs)
        finally:
            tiny.unload_adapter(name)
    assert found["wide"] == pytest.approx(found["narrow"], abs=1e-5)
    assert found["far"] != pytest.approx(found["narrow"], abs=1e-2)
