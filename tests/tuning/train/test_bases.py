"""Models loaded for training compute the logits of the golden files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine import sequences

from deepwell.tuning.train import bases
from deepwell.tuning.train.batches import Batch
from deepwell.tuning.train.forward.loss import loss

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
    "deepseek-v4",
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


def test_examples_of_one_row_do_not_meet_in_entries(tmp_path: Path) -> None:
    """V4's entries stand for several tokens, so packed examples are computed one by one: as each alone, with gradients."""
    checkpoint = sequences.golden_checkpoint("deepseek-v4", tmp_path)
    model = bases.load_model(bases.Base("tiny", tmp_path, checkpoint, None))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(0, 150, (count,), generator=generator) for count in (21, 18)]

    def batch(examples: list[torch.Tensor], padding: int = 0) -> Batch:
        places = [torch.arange(len(one)) for one in examples]
        segments = [torch.full_like(one, number) for number, one in enumerate(examples)]
        behind = torch.zeros(padding, dtype=torch.int64)
        ids, positions = torch.cat([*examples, behind]), torch.cat([*places, behind])
        numbers = torch.cat([*segments, behind - 1])
        return Batch(ids[None], positions[None], numbers[None], ((positions > 0) & (numbers >= 0))[None])

    together, count = loss(model, batch(parts, padding=5))
    alone = [loss(model, batch([one])) for one in parts]
    assert count == sum(number for _, number in alone) == 37
    assert abs(float(together) - sum(float(one) for one, _ in alone)) < 1e-3
    model.requires_grad_(True)
    loss(model, batch(parts))[0].backward()
    assert model.model.layers[1].self_attn.compressor.kv_proj.weight.grad.abs().max() > 0
