"""Layers that differ: read, written, planned, and computed as the same model padded with zeros."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine import sequences
from tests.engine.backends import backend
from tests.models.builders import TINY, Tensors, random_tensors

from deepwell.engine.architectures import build_model
from deepwell.engine.architectures.targets import lora_targets
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.weights.load import load_weights
from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from deepwell.models.formats.config import Block, ModelConfig
from deepwell.models.formats.config_blocks import json_blocks
from deepwell.models.formats.config_fields import Fields
from deepwell.models.store.export import export_safetensors

BLOCKS = (Block(True, 32), Block(False, 96), Block(True, 0), Block(False, 40))
MIXED = replace(TINY, num_hidden_layers=4, blocks=BLOCKS)


def stored(config: ModelConfig, tensors: Tensors) -> Checkpoint:
    found = {
        name: StoredTensor(
            name, one.shape, "F32", one.view(np.uint8).reshape(len(one) if one.ndim > 1 else 1, -1)
        )
        for name, one in tensors.items()
    }
    return Checkpoint(config, "gguf", found, {}, None, ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export_safetensors(stored(MIXED, random_tensors(MIXED)), tmp_path / "mixed")
    return tmp_path / "mixed"


def padded(tensors: Tensors) -> Tensors:
    """Returns weights of one shape for all layers that compute the same."""
    whole = random_tensors(replace(MIXED, blocks=()), seed=1)
    for number, block in enumerate(BLOCKS):
        layer = f"model.layers.{number}."
        if not block.attention:
            whole[f"{layer}self_attn.o_proj.weight"][:] = 0
        whole[f"{layer}mlp.down_proj.weight"][:, block.intermediate_size :] = 0
    for name, values in tensors.items():
        whole[name][tuple(slice(0, one) for one in values.shape)] = values
    return whole


def test_the_folder_holds_the_same_configuration(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config == MIXED
    assert "model.layers.1.self_attn.q_proj.weight" not in checkpoint.names
    assert "model.layers.2.mlp.up_proj.weight" not in checkpoint.names
    assert MIXED.attention_layers == 2
    assert kv_token_bytes(MIXED, "bf16") * 2 == kv_token_bytes(replace(MIXED, blocks=()), "bf16")
    assert not lora_targets(MIXED)  # an adapter counts blocks by their attention
    written = json.loads((folder / "config.json").read_text())
    # No program takes it for a Llama of one shape, whose missing weights it would invent.
    assert (written["model_type"], written["architectures"]) == ("nemotron-nas", ["DeciLMForCausalLM"])


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_logits_are_those_of_the_padded_model(engine: str, folder: Path) -> None:
    run = backend(engine)
    tokens = [3, 17, 40, 5, 5, 31, 2, 9] * 3
    found: list[np.ndarray] = []
    tensors = random_tensors(MIXED)
    for checkpoint in (
        open_checkpoint(folder),
        stored(replace(MIXED, blocks=()), padded(tensors)),
    ):
        model = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, max_positions=64)
        cache = sequences.new_cache(run, checkpoint.config, len(tokens))
        found.append(sequences.logits(model, cache, tokens, 5))
    assert np.abs(found[1]).max() > 0.1
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_a_width_may_stand_as_a_factor(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for block in config["block_configs"]:
        block["ffn"].pop("intermediate_size")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidModelFile, match="shape"):
        open_checkpoint(folder)  # the form rounds to 256, which these weights are not
    config["block_configs"][0]["ffn"]["ffn_mult"] = 3 * 300 / 2 / 64
    assert json_blocks(Fields(config, "config.json"))["blocks"][0] == Block(True, 512)


def _broken(config: dict[str, Any], case: str) -> dict[str, Any]:
    block = config["block_configs"][0]
    if case == "count":
        config["block_configs"].pop()
    elif case == "older":
        config.pop("block_configs")
    elif case == "window":
        block["attention"]["window_length"] = 512
    elif case == "kind":
        config["block_configs"][0] = 7
    elif case == "part":
        block.pop("ffn")
    elif case == "matrix":
        block["attention"]["replace_with_linear"] = True
    elif case == "heads":
        block["attention"]["n_heads_in_group"] = 4
    elif case == "group":
        block["attention"]["n_heads_in_group"] = 3
    elif case == "width":
        block["ffn"]["intermediate_size"] = 1 << 30
    elif case == "factor":
        block["ffn"] = {"ffn_mult": -1.0}
    elif case == "product":
        block["ffn"], config["hidden_size"] = {"ffn_mult": 2.0}, 10**400
    return config


@pytest.mark.parametrize(
    "case",
    ["older", "window", "count", "kind", "part", "matrix", "heads", "group", "width", "factor", "product"],
)
def test_what_cannot_be_run_is_refused(folder: Path, case: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(_broken(json.loads(path.read_text()), case)))
    with pytest.raises((InvalidModelFile, UnsupportedModel)):
        open_checkpoint(folder)
