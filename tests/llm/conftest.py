"""One open model for the tests of the Python API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepwell import LLM
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.weights.adapters import linears_of
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell_bench.workloads.random_adapter import write_random_adapter


@pytest.fixture(scope="session")
def llm(smollm2_path: Path) -> Iterator[LLM]:
    with LLM(smollm2_path, context=1024) as opened:
        yield opened


@pytest.fixture(scope="session")
def adapter(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA adapter of random weights."""
    checkpoint = open_checkpoint(smollm2_path)
    linears = linears_of(tensor_plan(checkpoint.config), checkpoint)
    folder = tmp_path_factory.mktemp("adapters") / "pirate"
    return write_random_adapter(folder, linears, rank=2, seed=1)
