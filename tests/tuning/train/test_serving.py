"""Training computes the same as serving: logits of adapters, merged weights, and records that name their base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from tests.engine import sequences
from transformers import AutoModelForCausalLM

from deepwell.dialogue.text import Codec
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.weights.adapters import linears_of, read_adapter
from deepwell.errors import InvalidModelFile, InvalidRequest, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.train import bases, lora
from deepwell.tuning.train.artefact import base_hashes, write_record
from deepwell.tuning.train.config import LoraConfig
from deepwell.tuning.train.merge import merge_adapter
from deepwell.tuning.train.served import ServedModel

pytestmark = pytest.mark.parity

TOKENS = list(range(3, 40))
# The native fp32 kernels and torch sum in other orders.
MAX_ERROR = 1e-3


def trained(checkpoint: Any, targets: list[str], seed: int = 1) -> Any:
    """A model with an adapter of which no matrix is zero."""
    base = bases.Base("tiny", Path("tiny"), checkpoint, None)  # type: ignore[arg-type]
    model = lora.add_lora(
        bases.load_model(base), checkpoint.config, LoraConfig(r=4, dropout=0, targets=targets), seed
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)[None]).logits[0].numpy()


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama-llama3", ["q_proj", "v_proj"]),
        ("qwen2", ["dense"]),
        ("qwen3", ["q_proj", "v_proj"]),
        ("qwen3-moe", ["q_proj", "experts"]),
        ("deepseek-v2", ["q_proj", "v_proj"]),
        ("deepseek-v2-lite", ["q_proj", "v_proj", "o_proj"]),
        ("deepseek-v3", ["attention", "experts"]),
        ("deepseek-v4", ["q_proj", "v_proj", "experts"]),
    ],
)
def test_an_adapter_serves_with_the_logits_of_training(name: str, targets: list[str], tmp_path: Path) -> None:
    checkpoint = sequences.golden_checkpoint(name, tmp_path)
    model = trained(checkpoint, targets)
    lora.save_adapter(model, tmp_path / "adapter", "tiny")
    served = ServedModel(checkpoint, len(TOKENS))
    found = served.logits(TOKENS, served.adapter(tmp_path / "adapter"))
    wanted = logits(model)
    assert np.abs(found - wanted).max() < MAX_ERROR
    assert np.abs(served.logits(TOKENS) - wanted).max() > 0.05  # the adapter matters


def test_kv_b_proj_is_served_merged_alone(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint("deepseek-v2", tmp_path / "base")
    model = trained(checkpoint, ["kv_b_proj"])
    lora.save_adapter(model, tmp_path / "adapter", "tiny")
    with pytest.raises(UnsupportedModel, match="absorbed"):
        ServedModel(checkpoint, 8).adapter(tmp_path / "adapter")
    assert lora.map_targets(checkpoint.config, ["kv_b_proj"]).unserved == ("kv_b_proj",)


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """An adapter of the tiny model with its record."""
    checkpoint = open_checkpoint(tiny)
    folder = tmp_path / "adapter"
    lora.save_adapter(trained(checkpoint, ["q_proj", "v_proj"]), folder, "tiny")
    write_record(folder, {"base": "tiny", **base_hashes(checkpoint, Codec.load(tiny))})
    return folder


def test_merged_weights_give_the_logits_of_the_adapter(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    merged = merge_adapter(tiny, adapter, tmp_path / "merged")
    assert merged.matrices == 4 and merged.difference is not None and merged.difference <= 1e-4
    plain = AutoModelForCausalLM.from_pretrained(merged.folder).eval()
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), adapter).eval())
    assert np.abs(logits(plain) - wanted).max() < 1e-4
    record = json.loads((merged.folder / "deepwell.json").read_text())
    assert record["method"] == "merged" and record["adapter"]["base"] == "tiny"


def test_an_adapter_of_other_weights_or_another_template_is_refused(
    tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    for file, change in (
        ("model.safetensors", lambda path: save_file({k: v * 2 for k, v in load_file(path).items()}, path)),
        (
            "tokenizer_config.json",
            lambda path: path.write_text(path.read_text().replace("assistant", "robot")),
        ),
    ):
        other = tmp_path / file
        shutil.copytree(tiny, other)
        change(other / file)
        with pytest.raises(InvalidModelFile, match=r"other weights|another chat template"):
            merge_adapter(other, adapter, tmp_path / "merged")


def test_a_pickle_is_never_read(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UnsupportedModel, match="pickle"):
        merge_adapter(tiny, adapter, tmp_path / "merged")


def test_a_merge_writes_into_nothing_that_is_there(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    with pytest.raises(InvalidRequest, match="not empty"):
        merge_adapter(tiny, adapter, tmp_path / "merged")
    assert [one.name for one in (tmp_path / "merged").iterdir()] == ["mine.txt"]


def test_every_expert_has_matrices_of_its_own_in_the_artefact(tmp_path: Path) -> None:
    checkpoint = sequences.golden_checkpoint("qwen3-moe", tmp_path)
    lora.save_adapter(trained(checkpoint, ["experts"]), tmp_path / "adapter", "tiny")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert sum(".experts." in name for name in names) == checkpoint.config.num_experts * 3 * 2
    assert (
        read_adapter(tmp_path / "adapter", linears_of(tensor_plan(checkpoint.config), checkpoint)).rank == 4
    )
