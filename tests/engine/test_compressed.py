"""DeepSeek-V4's attention: bits that do not depend on company, chunks or slots, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tests.engine import sequences
from tests.engine.backends import backend

from deepwell.engine.architectures import build_model
from deepwell.engine.architectures.deepseek_v4 import cache_pages, horizon
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.plan import kv_token_bytes, plan
from deepwell.engine.prompts import checked_prompt
from deepwell.engine.protocol import Capabilities
from deepwell.engine.weights.load import load_weights, resolve_precision
from deepwell.engine.weights.synth import shape_config, synthesize
from deepwell.engine.window import Window
from deepwell.errors import InvalidModelFile, InvalidRequest, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config_reader import config_from_directory
from deepwell.models.store.layout_compressed import released_name

NAME = "deepseek-v4"
PROMPTS = ([3, 1, 4] * 20, [5] * 37, [9, 2, 6, 5, 3, 5] * 9)


def loaded(engine: str, directory: Path, precision: Any = "fp32") -> tuple[Any, Any, Any]:
    run = backend(engine)
    checkpoint = sequences.golden_checkpoint(NAME, directory)
    model = build_model(run, load_weights(checkpoint, precision), checkpoint.config, max_positions=128)
    return run, model, checkpoint.config


def together(model: Any, cache: Any, prompts: Any) -> list[NDArray[np.float32]]:
    """Logits of every row of prompts that one step computes."""
    blocks = max(-(-len(prompt) // BLOCK_TOKENS) for prompt in prompts)
    starts = np.cumsum([0, *map(len, prompts)], dtype=np.int32)
    out = np.empty((starts[-1], model.vocab_size), np.float32)
    batch = Batch(
        np.concatenate([np.asarray(prompt, np.int32) for prompt in prompts]),
        np.concatenate([np.arange(len(prompt), dtype=np.int32) for prompt in prompts]),
        starts,
        np.arange(len(prompts) * blocks, dtype=np.int32).reshape(len(prompts), blocks),
        np.arange(starts[-1], dtype=np.int32),
    )
    model.forward(batch, cache, logits=out)
    return np.split(out, starts[1:-1])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_row_has_the_same_bits_in_any_company_and_chunks(
    precision: str, dtype: Any, tmp_path: Path
) -> None:
    run, model, config = loaded("native", tmp_path, precision)
    cache = run.compressed_cache(cache_pages(config), 16, dtype)
    for prompt, found in zip(PROMPTS, together(model, cache, PROMPTS), strict=True):
        for chunk in (None, 1, 5, 16):
            alone = sequences.new_cache(run, config, len(prompt), dtype)
            assert np.array_equal(sequences.logits(model, alone, prompt, chunk), found), chunk


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_native_and_reference_agree(precision: str, tmp_path: Path) -> None:
    found = {}
    for engine in ("reference", "native"):
        run, model, config = loaded(engine, tmp_path, precision)
        cache = sequences.new_cache(run, config, len(PROMPTS[0]), "bf16")
        found[engine] = sequences.logits(model, cache, PROMPTS[0], 11)
    scale = np.abs(found["reference"]).max()
    assert np.median(np.abs(found["native"] - found["reference"])) < 2e-3 * scale


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_single_tokens_lie_where_the_slots_say(engine: str, tmp_path: Path) -> None:
    run, model, config = loaded(engine, tmp_path)
    prompt, pages = PROMPTS[0], cache_pages(config)
    expected = sequences.logits(model, sequences.new_cache(run, config, len(prompt)), prompt, 16)
    slots = np.full(5, -1, np.int32)
    cache = run.compressed_cache(pages, 5, "fp32", slots, 4)
    table = sequences.table_for(len(prompt))
    out = np.empty_like(expected)
    free = [2, 0, 3, 1]
    for first in range(0, len(prompt), BLOCK_TOKENS):
        part = prompt[first : first + BLOCK_TOKENS]
        for index in range(max(0, first - horizon(config)) // BLOCK_TOKENS):
            if slots[table[0, index]] >= 0:  # behind the horizon: others may have it
                free.append(int(slots[table[0, index]]))
                slots[table[0, index]] = -1
        slots[table[0, first // BLOCK_TOKENS]] = free.pop(0)
        rows = out[first : first + len(part)]
        model.forward(sequences.step(part, first, table, range(len(part))), cache, logits=rows)
    assert np.array_equal(out, expected)
    slots[:] = -1
    with pytest.raises(ValueError, match="gone"):
        model.forward(sequences.step([1], len(prompt), table, [0]), cache, logits=out[:1])


def changed(directory: Path, **changes: Any) -> Path:
    sequences.golden_checkpoint(NAME, directory)
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["sliding_attention"]},
        {"layer_types": ["full_attention"] * 4},
        {"layer_types": "sliding_attention"},
        {"mlp_layer_types": ["dense"] * 4},
        {"o_groups": 3},
        {"o_groups": 0},
        {"hc_mult": 0},
        {"hc_mult": 1 << 20},
        {"hc_sinkhorn_iters": -1},
        {"sliding_window": 0},
        {"index_topk": 0},
        {"head_dim": 1 << 20},
        {"partial_rotary_factor": 4.0, "qk_rope_head_dim": 4096},
        {"num_experts_per_tok": 9},
        {"swiglu_limit": -1.0},
        {"num_hidden_layers": 1 << 30},
        {"q_lora_rank": 0},
        {"head_dim": 10**400},
        {"index_topk": 10**400},
        {"partial_rotary_factor": 1e299},
        {"num_attention_heads": 2048},
        {"o_lora_rank": 1 << 20},
        {"rope_parameters": {"rope_type": "yarn", "factor": 0.0, "original_max_position_embeddings": 16}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": -16}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "beta_slow": 0.0}},
        {"rope_parameters": {"main": {}, "compress": {"rope_theta": 1.0}}},
    ],
)
def test_configurations_out_of_bounds_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile):
        config_from_directory(changed(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"compress_rates": {"compressed_sparse_attention": 5, "heavily_compressed_attention": 16}},
        {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 24}},
        {"scoring_func": "softmax"},
        {"norm_topk_prob": False},
        {"hidden_act": "gelu"},
    ],
)
def test_configurations_that_nobody_runs_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel):
        config_from_directory(changed(tmp_path, **changes))


@pytest.mark.parametrize("changed", [-1.0, 8.0, 0.5, float("nan"), 1e30, None])
def test_a_token_has_experts_that_exist_and_differ(changed: float | None, tmp_path: Path) -> None:
    """The kernels count on both: a repeated expert would read another row's input."""
    checkpoint = sequences.golden_checkpoint(NAME, tmp_path)
    weights = load_weights(checkpoint, "fp32")
    vector = weights.vectors["0.token_experts"].copy()
    vector[7] = vector[6] if changed is None else changed
    weights.vectors["0.token_experts"] = vector  # pyright: ignore[reportIndexIssue]
    for engine in ("reference", "native"):
        with pytest.raises(InvalidModelFile, match="tid2eid"):
            build_model(backend(engine), weights, checkpoint.config, max_positions=128)


def test_a_tensor_that_is_stored_twice_is_refused(tmp_path: Path) -> None:
    sequences.golden_checkpoint(NAME, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.attn.norm.weight"] = tensors["layers.0.attn.kv_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InvalidModelFile, match="twice"):
        open_checkpoint(tmp_path)


def test_a_precision_is_chosen_by_the_weights_of_the_layers(tmp_path: Path) -> None:
    assert resolve_precision("auto", sequences.golden_checkpoint(NAME, tmp_path))[0] == "int8"


def test_names_of_transformers_files_are_known() -> None:
    assert released_name("model.layers.3.attn.norm.weight") == "layers.3.attn.kv_norm.weight"
    assert released_name("model.layers.3.attn_norm.weight") == "layers.3.attn_norm.weight"
    assert released_name("layers.3.attn.compressor.norm.weight") == "layers.3.attn.compressor.norm.weight"
    assert released_name("model.hc_head.hc_fn") == "hc_head_fn"
    assert released_name("lm_head.weight") == "head.weight"


def test_the_cache_of_a_long_text_is_mostly_entries(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shape_config("deepseek-v4-flash")))
    flash = config_from_directory(tmp_path)
    # 20 layers with entries of 4 tokens for attention and the indexer, 23 with entries of 128.
    assert kv_token_bytes(flash, "bf16") == 20 * (512 + 128) * 2 // 4 + 23 * 512 * 2 // 16
    with pytest.raises(InvalidRequest, match="int8"):
        plan(flash, "int8", kv_dtype="int8")


def test_a_window_that_slides_is_refused() -> None:
    capabilities = Capabilities(
        model="m",
        architecture="deepseek_v4",
        precision="int8",
        backend="native",
        isa="generic",
        threads=1,
        vocab_size=100,
        hidden_size=8,
        max_model_len=64,
        kv_cache_tokens=64,
        weights_bytes=0,
        kv_cache_bytes=0,
        lacks=("window",),
    )
    with pytest.raises(InvalidRequest, match="window"):
        checked_prompt([1, 2, 3], 4, Window(16, 32), capabilities)


def test_a_synthetic_model_opens(tmp_path: Path) -> None:
    small = shape_config("deepseek-v4-flash", 2) | {
        "vocab_size": 300,
        "hidden_size": 64,
        "moe_intermediate_size": 32,
        "num_attention_heads": 8,
        "head_dim": 32,
        "qk_rope_head_dim": 16,
        "q_lora_rank": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "o_groups": 2,
        "o_lora_rank": 16,
        "index_n_heads": 4,
        "index_head_dim": 32,
        "max_position_embeddings": 256,
        "rope_scaling": None,
    }
    directory = tmp_path / "model"
    synthesize(directory, small, "int8")
    checkpoint = open_checkpoint(directory)
    model = build_model(backend("native"), load_weights(checkpoint, "int8"), checkpoint.config, 64)
    cache = sequences.new_cache(backend("native"), checkpoint.config, 40)
    found = sequences.logits(model, cache, list(range(40)), 9)
    assert np.isfinite(found).all() and np.abs(found).max() > 0.1
