"""DeepSeek and Qwen3-MoE against transformers itself: other shapes and seeds than the golden files hold.

Needs the `[tune]` extra; `make parity` runs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.engine import sequences
from tests.engine.backends import backend
from tests.golden import deepseek, prediction, prediction_v4
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV4Config,
    DeepseekV4ForCausalLM,
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from deepwell.engine.architectures import build_model, build_prediction
from deepwell.engine.load import new_cache
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import open_checkpoint

pytestmark = pytest.mark.parity

MAX_ERROR = {"reference": 1e-4, "native": 1e-3}
TOKENS = 90

# Wider than the golden models: more layers, more heads than lanes, more experts than a panel has rows.
WIDER: dict[str, Any] = {
    "vocab_size": 333,
    "hidden_size": 108,
    "intermediate_size": 200,
    "moe_intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 18,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
}
LATENT: dict[str, Any] = WIDER | {
    "num_key_value_heads": 18,
    "q_lora_rank": 56,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "n_routed_experts": 36,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10_000.0}
V3: dict[str, Any] = LATENT | {
    "n_group": 6,
    "topk_group": 3,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
MODELS: dict[str, Any] = {
    "v2": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(
            **LATENT | {"n_shared_experts": 2},
            topk_method="group_limited_greedy",
            n_group=6,
            topk_group=3,
            routed_scaling_factor=16.0,
            rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        )
    ),
    "v2-lite": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(
            **LATENT | {"q_lora_rank": None, "n_shared_experts": 2},
            topk_method="greedy",
            routed_scaling_factor=1.0,
            rope_parameters=YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        )
    ),
    "v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(**V3, rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0})
    ),
    "v3-dense": lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**V3 | {"first_k_dense_replace": 3})),
    # With few heads an index score is often zero, and torch breaks ties in an order of its own.
    "v32": lambda: DeepseekV32ForCausalLM(
        DeepseekV32Config(**V3, index_topk=20, index_head_dim=32, index_n_heads=24)
    ),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **WIDER,
            num_key_value_heads=3,
            head_dim=24,
            num_experts=36,
            norm_topk_prob=False,
            decoder_sparse_step=2,
        )
    ),
    # Entries of all kinds, more heads than share a pass over keys, and a rank that fills no panel.
    "v4": lambda: DeepseekV4ForCausalLM(
        DeepseekV4Config(
            **{key: value for key, value in WIDER.items() if key != "intermediate_size"}
            | {"num_hidden_layers": 4, "num_attention_heads": 12},
            head_dim=36,
            qk_rope_head_dim=16,
            q_lora_rank=56,
            n_routed_experts=36,
            n_shared_experts=1,
            layer_types=[
                "heavily_compressed_attention",
                "compressed_sparse_attention",
                "sliding_attention",
                "compressed_sparse_attention",
            ],
            mlp_layer_types=["hash_moe", "hash_moe", "moe", "moe"],
            compress_rates={"compressed_sparse_attention": 8, "heavily_compressed_attention": 32},
            sliding_window=20,
            o_groups=3,
            o_lora_rank=24,
            index_n_heads=24,
            index_head_dim=32,
            index_topk=6,
            hc_mult=2,
        )
    ),
}


def noise(model: Any) -> None:
    """Weights of deviation 0.1, norms around one."""
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("tid2eid"):
                tensor.copy_(torch.stack([torch.randperm(36)[: tensor.shape[1]] for _ in range(len(tensor))]))
                continue
            values = torch.randn(tensor.shape) * 0.1
            tensor.copy_(1 + values if "norm" in key and key.endswith("weight") else values)


def saved_model(name: str, directory: Path) -> Any:
    """A random model in transformers, saved under the names of released checkpoints."""
    torch.manual_seed(sum(map(ord, name)))
    model = MODELS[name]().eval().to(torch.float32)
    noise(model)
    save(model, directory)
    return model


def save(model: Any, directory: Path) -> None:
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    (directory / "config.json").write_text(json.dumps(config, default=str))
    tensors = {key: tensor.contiguous() for key, tensor in deepseek.released(model).items()}
    save_file(tensors, directory / "model.safetensors")


def random_tokens(vocab_size: int) -> torch.Tensor:
    return torch.randint(0, vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("engine", ["reference", "native"])
@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str, engine: str, tmp_path: Path) -> None:
    """As a prompt in chunks, and again with most tokens as generated ones."""
    run = backend(engine)
    theirs = saved_model(name, tmp_path)
    tokens = random_tokens(WIDER["vocab_size"])
    with torch.no_grad():
        expected = theirs(tokens, use_cache=False).logits[0].numpy()
    checkpoint = open_checkpoint(tmp_path)
    ours = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, max_positions=128)
    assert np.abs(expected).max() > 0.5
    for prompt in (None, 33):
        cache = sequences.new_cache(run, checkpoint.config, TOKENS)
        computed = sequences.logits(ours, cache, tokens[0].tolist(), 31, prompt)
        assert np.abs(computed - expected).max() < MAX_ERROR[engine], prompt


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_predictions(engine: str, tmp_path: Path) -> None:
    run = backend(engine)
    torch.manual_seed(11)
    theirs = MODELS["v3"]().eval().to(torch.float32)
    theirs.model.layers.append(prediction.Prediction(theirs.config, theirs.config.num_hidden_layers))
    theirs.config.num_nextn_predict_layers = 1
    theirs.eval()
    noise(theirs)
    save(theirs, tmp_path)
    tokens = random_tokens(WIDER["vocab_size"])
    states = prediction.states_of(theirs, tokens)
    expected = prediction.predict(theirs, tokens[:, 1:], states[:, :-1])[0].numpy()

    checkpoint = open_checkpoint(tmp_path)
    ours = build_prediction(run, load_weights(checkpoint, "fp32"), checkpoint.config, 128)
    assert ours is not None
    computed = np.empty_like(expected)
    cache = new_cache(run, checkpoint.config, 8, "fp32", num_layers=1)
    step = sequences.step(tokens[0, 1:].tolist(), 0, sequences.table_for(96), range(TOKENS - 1), 40)
    ours.forward(step, cache, logits=computed, previous=states[0, :-1].contiguous().numpy())
    assert np.abs(expected).max() > 0.5
    assert np.abs(computed - expected).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_predictions_of_v4(engine: str, tmp_path: Path) -> None:
    """Two streams, a window that rows leave, and a second token from the layer's own streams."""
    run = backend(engine)
    torch.manual_seed(12)
    theirs = prediction_v4.with_prediction(MODELS["v4"]().eval().to(torch.float32))
    noise(theirs)
    config = theirs.config.to_dict() | {"architectures": ["DeepseekV4ForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    tensors = {key: tensor.contiguous() for key, tensor in prediction_v4.released(theirs).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    tokens = random_tokens(WIDER["vocab_size"])
    states = prediction_v4.states_of(theirs, tokens)
    expected, after = prediction_v4.predict(theirs, tokens[:, 1:], states[:, :-1])
    longer = torch.cat([tokens[:, 1:], torch.tensor([[7]])], dim=1)
    second, _ = prediction_v4.predict(theirs, longer, torch.cat([states[:, :-1], after[:, -1:]], dim=1))

    checkpoint = open_checkpoint(tmp_path)
    ours = build_prediction(run, load_weights(checkpoint, "fp32"), checkpoint.config, 128)
    assert ours is not None and checkpoint.config.prediction_layer == 4
    cache, table = new_cache(run, checkpoint.config, 8, "fp32", num_layers=1), sequences.table_for(96)
    computed, kept = np.empty(expected.shape, np.float32), np.empty((1, ours.state_size), np.float32)
    previous = states[0, :-1].flatten(1).contiguous().numpy()
    for part in (slice(0, 31), slice(31, TOKENS - 1)):
        rows = range(part.stop - part.start)
        step = sequences.step(tokens[0, 1:][part].tolist(), part.start, table, rows)
        ours.forward(step, cache, logits=computed[part], previous=previous[part])
    step = sequences.step(tokens[0, -1:].tolist(), TOKENS - 2, table, [0])
    ours.forward(step, cache, output_states=kept, previous=previous[-1:])
    last = np.empty((1, WIDER["vocab_size"]), np.float32)
    ours.forward(sequences.step([7], TOKENS - 1, table, [0]), cache, logits=last, previous=kept)
    assert expected.abs().max() > 0.5
    assert np.abs(computed - expected.numpy()).max() < MAX_ERROR[engine]
    assert np.abs(kept[0] - after[0, -1].flatten().numpy()).max() < MAX_ERROR[engine]
    assert np.abs(last[0] - second[-1].numpy()).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("name", deepseek.TINY)
def test_golden_files_are_what_this_transformers_computes(name: str) -> None:
    arrays = sequences.golden(name)
    model = deepseek.random_model(name)
    if name in deepseek.FP8:
        codes = deepseek.to_fp8(model)
        assert all(np.array_equal(arrays[key], value) for key, value in codes.items())
    for key, tensor in deepseek.released(model).items():
        if f"weight:{key}" in arrays:
            assert np.array_equal(tensor.numpy(), arrays[f"weight:{key}"].astype(np.float32)), key
    tokens = torch.from_numpy(arrays["tokens"].astype(np.int64))[None]
    with torch.no_grad():
        computed = model(tokens, use_cache=False).logits[0].numpy()
    assert np.abs(computed - arrays["logits"]).max() < 1e-5


@pytest.mark.parametrize("made", [prediction, prediction_v4])
def test_golden_predictions_are_what_this_transformers_computes(made: Any) -> None:
    arrays = sequences.golden(made.NAME)
    model = made.random_model()
    if made is prediction:
        deepseek.to_fp8(model)
    tokens = torch.from_numpy(arrays["tokens"].astype(np.int64))[None]
    states = made.states_of(model, tokens)
    assert np.abs(states[0].numpy().reshape(tokens.shape[1], -1) - arrays["states"]).max() < 1e-5
    computed, _ = made.predict(model, tokens[:, 1:], states[:, :-1])
    assert np.abs(computed.numpy() - arrays["logits"]).max() < 1e-5
