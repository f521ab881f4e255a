"""Models loaded for training compute the logits of the golden files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tests.engine import sequences

from deepwell.tuning.train import bases

pytestmark = pytest.mark.parity

GOLDEN = (
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "qwen2",
    "qwen3",
    "qwen3-moe",
    "deepseek-v2",
    "deepseek-v2-lite",
    "deepseek-v3",
)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_are_those_of_the_golden_file(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    checkpoint = sequences.golden_checkpoint(name, tmp_path)
    base = bases.Base(name, tmp_path, checkpoint, None)  # type: ignore[arg-type]
    model = bases.load_model(base)
    arrays = sequences.golden(name)
    with torch.no_grad():
        logits = model(torch.tensor(arrays["tokens"].tolist())[None]).logits[0].numpy()
    assert np.abs(logits - arrays["logits"]).max() < 1e-4


def test_a_model_of_a_path_needs_no_settings(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server keeps its secrets from its trainings; without its database's address, these settings cannot be loaded."""
    monkeypatch.setenv("DEEPWELL_KNOWLEDGE_VECTORS", "pgvector")
    monkeypatch.delenv("DEEPWELL_DATABASE_URL", raising=False)
    assert bases.open_base(str(tiny)).path == tiny
