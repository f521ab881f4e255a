"""Opening checkpoints: values and names of both formats, configurations, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as GGML
from hypothesis import given
from hypothesis import strategies as st
from tests.models.builders import (
    K_QUANTS,
    QUANTISABLE,
    TINY,
    gguf_name,
    interleave_halves,
    random_k_blocks,
    random_tensors,
    safetensors_bytes,
    to_bfloat16,
    write_model_directory,
    write_model_gguf,
)

from deepwell.errors import InvalidModelFile, ModelNotFound, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig, RopeScaling
from deepwell.models.formats.config_reader import (
    config_from_directory,
    config_from_gguf,
    llama3_frequency_factors,
)
from deepwell.models.formats.gguf import GGUFHeader, GGUFTensorInfo
from deepwell.models.store.layout import expected_tensors, hugging_face_name

QWEN2 = replace(TINY, architecture="qwen2", attention_bias=True, tie_word_embeddings=False)
QWEN3 = replace(TINY, architecture="qwen3", head_dim=32)  # heads wider than hidden_size / num_attention_heads
WIDE = replace(TINY, hidden_size=256, intermediate_size=256, num_attention_heads=4, head_dim=64)
U32, F32, STR = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING


@pytest.mark.parametrize(
    "config",
    [TINY, QWEN2, QWEN3, replace(TINY, attention_bias=True)],
    ids=["llama", "qwen2", "qwen3", "bias"],
)
def test_both_formats_hold_the_same_model(tmp_path: Path, config: ModelConfig) -> None:
    """GGUF llama files interleave the halves of q and k rows and biases; reading gives Hugging Face's order back."""
    tensors = random_tensors(config)
    for checkpoint in (
        open_checkpoint(write_model_gguf(tmp_path / "model.gguf", config, tensors)),
        open_checkpoint(write_model_directory(tmp_path / "model", config, tensors)),
    ):
        assert checkpoint.config == config
        assert checkpoint.names == tuple(name for name, _ in expected_tensors(config))
        assert checkpoint.source_bits == 32
        for name, values in tensors.items():
            stored = checkpoint.tensor(name)
            assert (stored.shape, stored.dtype) == (values.shape, "F32")
            assert np.array_equal(stored.float32(), values), name
            assert np.array_equal(stored.float32(slice(3, 11)), values[3:11]), name


@pytest.mark.parametrize("kind", [*QUANTISABLE, GGML.F16, GGML.BF16, *K_QUANTS], ids=lambda kind: kind.name)
def test_every_block_type_reads_as_ggml_defines_it(tmp_path: Path, kind: GGML) -> None:
    tensors = random_tensors(WIDE)
    path = write_model_gguf(tmp_path / "model.gguf", WIDE, tensors, kind_of=lambda _: kind)
    checkpoint = open_checkpoint(path)
    bits = {"Q8_0": 8, "Q6_K": 8, "F16": 16, "BF16": 16}.get(kind.name, 4)
    assert checkpoint.source_bits == bits
    for stem in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"):
        name = f"model.layers.1.{stem}.weight"
        values, heads = tensors[name], WIDE.num_attention_heads
        raw = random_k_blocks(values.shape, kind) if kind in K_QUANTS else gguf.quants.quantize(values, kind)
        expected = gguf.quants.dequantize(raw, kind)
        if stem == "self_attn.q_proj":  # a K-quant file was made of these very bytes, in the file's order
            expected = expected if kind not in K_QUANTS else deinterleave(expected, heads)
        stored = checkpoint.tensor(name)
        assert stored.dtype == kind.name
        assert np.array_equal(stored.float32(), expected), name
        assert np.array_equal(stored.float32(slice(5, None, 7)), expected[5::7]), name
        assert np.array_equal(gguf.quants.dequantize(stored.raw_rows(), kind), expected), name


def deinterleave(rows: np.ndarray, heads: int) -> np.ndarray:
    stored = interleave_halves(np.arange(len(rows)), heads)  # stored[i]: which original row lies at i
    result = np.empty_like(rows)
    result[stored] = rows
    return result


def test_only_permuted_rows_are_copied(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_model_gguf(tmp_path / "model.gguf"))
    up, q = (checkpoint.tensor(f"model.layers.0.{n}.weight") for n in ("mlp.up_proj", "self_attn.q_proj"))
    assert np.shares_memory(up.raw_rows(), up.data)
    assert not np.shares_memory(q.raw_rows(), q.data)


def test_head_and_embedding_may_have_different_types(tmp_path: Path) -> None:
    config = replace(TINY, tie_word_embeddings=False)
    kinds = {"model.embed_tokens.weight": GGML.Q8_0, "lm_head.weight": GGML.Q4_0}
    path = write_model_gguf(tmp_path / "model.gguf", config, kind_of=lambda name: kinds.get(name, GGML.F16))
    checkpoint = open_checkpoint(path)
    assert not checkpoint.config.tie_word_embeddings
    assert {name: checkpoint.tensor(name).dtype for name in kinds} == {
        name: kind.name for name, kind in kinds.items()
    }
    assert checkpoint.source_bits == 16


def test_tied_model_has_no_head(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]  # some writers store it all the same
    checkpoint = open_checkpoint(write_model_directory(tmp_path, TINY, tensors))
    assert checkpoint.config.tie_word_embeddings
    assert "lm_head.weight" not in checkpoint.names


def test_sharded_directory(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    checkpoint = open_checkpoint(write_model_directory(tmp_path, TINY, tensors, shards=3))
    assert all(np.array_equal(checkpoint.tensor(name).float32(), tensors[name]) for name in checkpoint.names)
    assert len(checkpoint.paths) == 3


def write_dtype_directory(path: Path, dtype: str, encode: Any, **changes: Any) -> dict[str, np.ndarray]:
    """A model whose matrices are stored as `dtype`; returns their bytes."""
    tensors = random_tensors(TINY)
    write_model_directory(path, TINY, tensors, **changes)
    stored = {name: encode(values) for name, values in tensors.items()}
    data = safetensors_bytes({n: (dtype, tensors[n].shape, raw.tobytes()) for n, raw in stored.items()})
    (path / "model.safetensors").write_bytes(data)
    return stored


def test_half_precision_safetensors(tmp_path: Path) -> None:
    halves = write_dtype_directory(tmp_path / "f16", "F16", lambda values: values.astype(np.float16))
    checkpoint = open_checkpoint(tmp_path / "f16")
    assert checkpoint.source_bits == 16
    assert all(
        np.array_equal(checkpoint.tensor(n).float32(), half.astype(np.float32)) for n, half in halves.items()
    )
    brains = write_dtype_directory(tmp_path / "bf16", "BF16", to_bfloat16)
    checkpoint = open_checkpoint(tmp_path / "bf16")
    for name, brain in brains.items():
        assert np.array_equal(
            checkpoint.tensor(name).float32().view(np.uint32), brain.astype(np.uint32) << 16
        )


def e4m3(code: int) -> float:
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 40]}}


def write_fp8(path: Path, *, scales: bool = True, scale_rows: int = 0, **changes: Any) -> dict[str, Any]:
    """q_proj of layer 0 as F8_E4M3 with a scale for each 32 x 40 block (64 x 64: 2 x 2 blocks, the last ones cut)."""
    rng = np.random.default_rng(1)
    tensors = random_tensors(TINY)
    write_model_directory(path, TINY, tensors, **(FP8 | changes))
    name = "model.layers.0.self_attn.q_proj.weight"
    codes = rng.integers(0, 256, (64, 64), np.uint8)
    codes[(codes & 127) == 127] = 1
    scale = rng.uniform(0.5, 2.0, (2 + scale_rows, 2)).astype(np.float32)
    parts = {n: ("F32", values.shape, values.tobytes()) for n, values in tensors.items()}
    parts[name] = ("F8_E4M3", codes.shape, codes.tobytes())
    if scales:
        parts[name + "_scale_inv"] = ("F32", scale.shape, scale.tobytes())
    (path / "model.safetensors").write_bytes(safetensors_bytes(parts))
    return {"name": name, "codes": codes, "scale": scale}


def test_fp8_weights_are_scaled_block_by_block(tmp_path: Path) -> None:
    made = write_fp8(tmp_path)
    tensor = open_checkpoint(tmp_path).tensor(made["name"])
    scale, codes = made["scale"], made["codes"].tolist()
    expected = [[e4m3(c) * scale[i // 32, j // 40] for j, c in enumerate(row)] for i, row in enumerate(codes)]
    assert np.allclose(tensor.float32(), expected, rtol=1e-6)
    assert np.array_equal(tensor.float32(slice(30, 35)), tensor.float32()[30:35])


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"scales": False}, UnsupportedModel, "without block scales"),
        ({"scale_rows": 1}, InvalidModelFile, r"expected F32 or F8_E8M0 \(2, 2\)"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModel, "quantised by 'gptq'"),
        ({"quantization_config": {"quant_method": "fp8"}}, UnsupportedModel, "block sizes"),
        ({"quantization_config": [1]}, UnsupportedModel, "quantised by"),
    ],
)
def test_other_fp8_formats_are_refused(tmp_path: Path, arguments: dict, error: type, reason: str) -> None:
    write_fp8(tmp_path, **arguments)
    with pytest.raises(error, match=reason):
        open_checkpoint(tmp_path)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not exist"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(InvalidModelFile, match="neither safetensors"):
        open_checkpoint(tmp_path)
    write_model_gguf(tmp_path / "one.gguf")
    assert open_checkpoint(tmp_path).format == "gguf"
    write_model_gguf(tmp_path / "two.gguf")
    with pytest.raises(InvalidModelFile, match=r"2 \.gguf files"):
        open_checkpoint(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedModel, match=r"weights\.bin is not a \.gguf"):
        open_checkpoint(tmp_path / "weights.bin")


def test_identity_follows_the_content(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    first = open_checkpoint(write_model_gguf(tmp_path / "a.gguf", TINY, tensors))
    same = open_checkpoint(write_model_gguf(tmp_path / "b.gguf", TINY, tensors))
    other = open_checkpoint(write_model_gguf(tmp_path / "c.gguf", TINY, random_tensors(TINY, seed=1)))
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert first.sha256 == hashlib.sha256((tmp_path / "a.gguf").read_bytes()).hexdigest() != other.sha256


# Refusals.


def test_missing_misshapen_and_unknown_tensors_are_refused(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = random_tensors(TINY)
    del tensors[name]
    for write in (write_model_gguf, write_model_directory):
        with pytest.raises(InvalidModelFile, match=f"{name}' is missing"):
            open_checkpoint(write(tmp_path / f"{write.__name__}-missing.gguf", TINY, tensors))
    tensors[name] = np.zeros((TINY.intermediate_size + 1, TINY.hidden_size), np.float32)
    with pytest.raises(
        InvalidModelFile, match=r"has the shape \(97, 64\), the configuration says \(96, 64\)"
    ):
        open_checkpoint(write_model_directory(tmp_path / "misshapen", TINY, tensors))
    tensors = random_tensors(TINY) | {"model.layers.0.self_attn.q_norm.weight": np.ones(16, np.float32)}
    with pytest.raises(UnsupportedModel, match="q_norm"):
        open_checkpoint(write_model_directory(tmp_path / "unknown", TINY, tensors))
    extra = {"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}
    with pytest.raises(UnsupportedModel, match="q_norm"):
        open_checkpoint(write_model_gguf(tmp_path / "unknown.gguf", extra_tensors=extra))


def test_a_qwen3_without_its_head_norms_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors(QWEN3)
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    with pytest.raises(InvalidModelFile, match=r"k_norm\.weight' is missing"):
        open_checkpoint(write_model_gguf(tmp_path / "model.gguf", QWEN3, tensors))


def test_the_head_dimension_of_a_qwen3_defaults_to_128(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path / "model", replace(QWEN3, head_dim=128))
    config = json.loads((directory / "config.json").read_text())
    del config["head_dim"]
    (directory / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(directory).config.head_dim == 128


def test_groups_beyond_the_kernels_are_refused(tmp_path: Path) -> None:
    wide = replace(TINY, num_attention_heads=97, num_key_value_heads=1, head_dim=2)
    for write in (write_model_gguf, write_model_directory):
        with pytest.raises(
            UnsupportedModel, match=r"97 query heads share a key and value head: .* at most 96"
        ):
            open_checkpoint(write(tmp_path / f"{write.__name__}.gguf", wide))


def test_output_bias_is_dropped_only_where_it_is_zero(tmp_path: Path) -> None:
    config = replace(TINY, attention_bias=True)
    tensors = random_tensors(config)
    for layer in range(config.num_hidden_layers):
        tensors[f"model.layers.{layer}.self_attn.o_proj.bias"] = np.zeros(64, np.float32)
    for write in (write_model_gguf, write_model_directory):
        path = tmp_path / f"{write.__name__}.gguf"
        checkpoint = open_checkpoint(write(path, config, tensors))
        assert not any("o_proj.bias" in name for name in checkpoint.names)
    tensors["model.layers.1.self_attn.o_proj.bias"][7] = 1.0
    with pytest.raises(UnsupportedModel, match=r"layers\.1\.self_attn\.o_proj\.bias"):
        open_checkpoint(write_model_directory(tmp_path / "nonzero", config, tensors))


def test_names_that_are_no_layer_numbers_are_unknown() -> None:
    assert hugging_face_name("blk.11.ffn_down.weight") == "model.layers.11.mlp.down_proj.weight"
    assert all(hugging_face_name(gguf_name(name)) == name for name, _ in expected_tensors(QWEN2))
    for name in (
        "blk.01.ffn_down.weight",
        "blk.x.ffn_down.weight",
        "ffn_down.weight",
        "blk.0.token_embd.weight",
        "",
    ):
        assert hugging_face_name(name) is None


def test_unsupported_tensor_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_dtype_directory(path, "F64", lambda values: values.astype(np.float64))
    with pytest.raises(UnsupportedModel, match="type F64"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value", "kind", "error", "reason"),
    [
        (
            "general.architecture",
            "gemma3",
            STR,
            UnsupportedModel,
            "architecture 'gemma3' is not supported.*Qwen2",
        ),
        ("llama.block_count", 0, U32, InvalidModelFile, "num_hidden_layers is 0"),
        ("llama.block_count", 3, U32, InvalidModelFile, r"layers\.2\..* missing"),
        ("llama.block_count", 2**32 - 1, U32, InvalidModelFile, "num_hidden_layers is 4294967295"),
        ("llama.attention.head_count", 0, U32, InvalidModelFile, "num_attention_heads is 0"),
        ("llama.attention.head_count", 5, U32, InvalidModelFile, "5 attention heads cannot share 2"),
        ("llama.attention.head_count_kv", 0, U32, InvalidModelFile, "num_key_value_heads is 0"),
        ("llama.attention.key_length", 15, U32, InvalidModelFile, "head_dim is 15"),
        ("llama.attention.value_length", 8, U32, UnsupportedModel, "value_length is 8"),
        ("llama.rope.dimension_count", 8, U32, UnsupportedModel, "dimension_count is 8"),
        ("llama.embedding_length", 32, U32, InvalidModelFile, "has the shape"),
        ("llama.context_length", 2**31, U32, InvalidModelFile, "max_position_embeddings is 2147483648"),
        ("llama.context_length", "long", STR, InvalidModelFile, "not an integer"),
        ("llama.rope.freq_base", float("nan"), F32, InvalidModelFile, "not a finite number"),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, F32, InvalidModelFile, "rms_norm_eps is -1"),
        ("llama.expert_count", 8, U32, UnsupportedModel, "mixture of experts"),
        ("llama.rope.scaling.type", "longrope", STR, UnsupportedModel, "longrope.*yarn are supported"),
        ("tokenizer.ggml.eos_token_id", 48, U32, InvalidModelFile, "token 48 lies outside"),
        ("split.count", 4, U32, UnsupportedModel, "several parts.*llama-gguf-split"),
        (
            "llama.attention.head_count",
            [4, 2],
            gguf.GGUFValueType.ARRAY,
            UnsupportedModel,
            "differs from layer to layer",
        ),
    ],
)
def test_absurd_or_unsupported_gguf_metadata(
    tmp_path: Path, key: str, value: Any, kind: Any, error: type, reason: str
) -> None:
    path = write_model_gguf(tmp_path / "model.gguf", extra={key: (value, kind)})
    with pytest.raises(error, match=reason):
        open_checkpoint(path)


LONGROPE = {"rope_type": "longrope", "short_factor": [1.5] * 8, "long_factor": [1.5] * 8}


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"architectures": ["MistralForCausalLM"]}, UnsupportedModel, "MistralForCausalLM.*LlamaForCausalLM"),
        ({"architectures": []}, UnsupportedModel, "architecture None is not supported"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "activation is 'gelu'"),
        ({"mlp_bias": True}, UnsupportedModel, "biases"),
        ({"use_sliding_window": True}, UnsupportedModel, "sliding window"),
        ({"partial_rotary_factor": 0.5}, UnsupportedModel, "part of each head"),
        ({"num_hidden_layers": 0}, InvalidModelFile, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**9}, InvalidModelFile, "num_hidden_layers is 1000000000"),
        ({"num_attention_heads": 3}, InvalidModelFile, "3 attention heads cannot share 2"),
        ({"vocab_size": None}, InvalidModelFile, "vocab_size is missing"),
        ({"hidden_size": "64"}, InvalidModelFile, "hidden_size is '64'"),
        ({"tie_word_embeddings": "no"}, InvalidModelFile, "not a boolean"),
        ({"rms_norm_eps": 10**400}, InvalidModelFile, "not a finite number"),
        ({"eos_token_id": [2, 99]}, InvalidModelFile, "token 99 lies outside"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, UnsupportedModel, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.0}}, InvalidModelFile, "factor is 0.0"),
        ({"rope_scaling": [2]}, InvalidModelFile, "not an object"),
        ({"rope_scaling": LONGROPE | {"long_factor": [2.0] * 8}}, UnsupportedModel, "depend on the length"),
        ({"rope_scaling": LONGROPE | {"short_factor": [1.0] * 7}}, InvalidModelFile, "not 8 factors"),
        ({"rope_scaling": LONGROPE | {"short_factor": [0.0] * 8}}, InvalidModelFile, "not 8 factors"),
        ({"rope_scaling": LONGROPE | {"short_factor": "1"}}, InvalidModelFile, "not 8 factors"),
        ({"rope_scaling": LONGROPE | {"short_factor": [1e-300] * 8}}, InvalidModelFile, "not 8 factors"),
        ({"rope_scaling": LONGROPE | {"attention_factor": 0}}, InvalidModelFile, "attention_factor is 0.0"),
        ({"rope_scaling": LONGROPE | {"attention_factor": 1e38}}, InvalidModelFile, "attention_factor is 1e"),
    ],
)
def test_absurd_or_unsupported_config_json(tmp_path: Path, changes: dict, error: type, reason: str) -> None:
    write_model_directory(tmp_path, TINY, **changes)
    with pytest.raises(error, match=reason):
        open_checkpoint(tmp_path)


# Configurations.

LLAMA3 = {
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, RopeScaling("linear", 2.0)),
        ({"rope_scaling": {"rope_type": "llama3"} | LLAMA3}, RopeScaling("llama3", 8.0, 64, 1.0, 4.0)),
        ({"rope_scaling": {"type": "yarn"} | YARN}, RopeScaling("yarn", 4.0, 128)),
        (
            {"rope_scaling": {"rope_type": "yarn", "beta_fast": 16, "attention_factor": 1.5} | YARN},
            RopeScaling("yarn", 4.0, 128, beta_fast=16.0, attention_factor=1.5),
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "attn_factor": 0.9} | YARN},
            RopeScaling("yarn", 4.0, 128, attention_factor=1.02477),
        ),
        (  # DeepSeek-R1-0528-Qwen3-8B
            {"rope_scaling": {"rope_type": "yarn", "attn_factor": 0.8782488562869419} | YARN},
            RopeScaling("yarn", 4.0, 128, attention_factor=1.0),
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 1.0} | YARN},
            RopeScaling("yarn", 4.0, 128, attention_factor=1.0),
        ),
        ({"rope_scaling": {"rope_type": "default"}}, None),
        (
            {"rope_scaling": LONGROPE | {"attention_factor": 1.0}},
            RopeScaling("longrope", 1.0, 128, attention_factor=1.0, factors=(1.5,) * 8),
        ),
        (
            {"rope_scaling": LONGROPE | {"factor": 4.0}},
            RopeScaling("longrope", 4.0, 128, attention_factor=math.sqrt(9 / 7), factors=(1.5,) * 8),
        ),
        (
            {"rope_theta": None, "rope_parameters": {"rope_type": "llama3", "rope_theta": 10_000.0} | LLAMA3},
            RopeScaling("llama3", 8.0, 64, 1.0, 4.0),
        ),
    ],
)
def test_rope_scaling_of_config_json(tmp_path: Path, changes: dict, expected: RopeScaling | None) -> None:
    config = open_checkpoint(write_model_directory(tmp_path, TINY, **changes)).config
    assert config.rope_scaling == expected
    assert config.rope_theta == 10_000.0
    assert config.max_position_embeddings == (512 if expected and expected.kind == "yarn" else 128)


def test_rope_parameters_of_transformers_5_carry_theta(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    write_model_directory(tmp_path, TINY, rope_theta=None, rope_parameters=rope)
    assert open_checkpoint(tmp_path).config.rope_theta == 500_000.0


GGUF_YARN = {
    "llama.rope.scaling.type": ("yarn", STR),
    "llama.rope.scaling.factor": (4.0, F32),
    "llama.rope.scaling.original_context_length": (32, U32),
}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"llama.rope.scaling.type": ("none", STR)}, None),
        (
            {"llama.rope.scaling.type": ("linear", STR), "llama.rope.scaling.factor": (2.0, F32)},
            RopeScaling("linear", 2.0),
        ),
        (GGUF_YARN, RopeScaling("yarn", 4.0, 32)),
        ({**GGUF_YARN, "llama.rope.scaling.attn_factor": (1.0, F32)}, RopeScaling("yarn", 4.0, 32)),
        (
            {**GGUF_YARN, "llama.rope.scaling.attn_factor": (0.9, F32)},
            RopeScaling("yarn", 4.0, 32, attention_factor=1.02477),
        ),
        (
            {**GGUF_YARN, "llama.rope.scaling.attn_factor": (0.8782488562869419, F32)},
            RopeScaling("yarn", 4.0, 32, attention_factor=1.0),
        ),
        ({**GGUF_YARN, "llama.rope.scaling.yarn_attn_factor": (1.0, F32)}, RopeScaling("yarn", 4.0, 32)),
        (
            {**GGUF_YARN, "llama.rope.scaling.yarn_attn_factor": (1.1386294361, F32)},
            RopeScaling("yarn", 4.0, 32),
        ),
        (
            {**GGUF_YARN, "llama.rope.scaling.yarn_attn_factor": (0.8782488562869419, F32)},
            RopeScaling("yarn", 4.0, 32, attention_factor=1.0),
        ),
        (  # latent attention alone has weights of the logarithm
            {**GGUF_YARN, "llama.rope.scaling.yarn_log_multiplier": (0.1, F32)},
            RopeScaling("yarn", 4.0, 32),
        ),
    ],
)
def test_rope_scaling_of_gguf(tmp_path: Path, extra: dict, expected: RopeScaling | None) -> None:
    assert (
        open_checkpoint(write_model_gguf(tmp_path / "model.gguf", extra=extra)).config.rope_scaling
        == expected
    )


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered_from_the_factors_in_a_gguf(tmp_path: Path, factor: float) -> None:
    """The factors as llama.cpp's converter computes them for Llama 3.1 and 3.2: head 64, theta 500000."""
    factors = []
    for i in range(32):
        wavelength = 2 * np.pi * 500_000.0 ** (2 * i / 64)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    config = replace(WIDE, rope_theta=500_000.0, max_position_embeddings=131_072)
    scaling = RopeScaling("llama3", factor, 8192, 1.0, 4.0)
    assert np.allclose(llama3_frequency_factors(scaling, 64, 500_000.0), factors, rtol=1e-6)
    tensor = {"rope_freqs.weight": np.array(factors, np.float32)}
    path = write_model_gguf(tmp_path / "model.gguf", config, extra_tensors=tensor)
    assert open_checkpoint(path).config == replace(config, rope_scaling=scaling)
    tensor["rope_freqs.weight"][5] = 3.0
    with pytest.raises(UnsupportedModel, match="does not follow Llama 3's formula"):
        open_checkpoint(write_model_gguf(tmp_path / "other.gguf", config, extra_tensors=tensor))


def test_end_tokens_come_from_every_source(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(TINY.vocab_size)]
    words[7], words[8], words[9] = "<|im_end|>", "<|endoftext|>", "<|eot_id|>"
    types = [1] * len(words)
    types[7] = types[8] = 3  # 9 is a normal token: its text proves nothing
    array = gguf.GGUFValueType.ARRAY
    extra = {
        "tokenizer.ggml.tokens": (words, array),
        "tokenizer.ggml.token_type": (types, array),
        "tokenizer.ggml.eot_token_id": (11, U32),
    }
    path = write_model_gguf(tmp_path / "model.gguf", extra=extra)
    assert open_checkpoint(path).config.eos_token_ids == (2, 11, 7, 8)

    directory = write_model_directory(tmp_path / "model", TINY, eos_token_id=5, pad_token_id=-1)
    assert open_checkpoint(directory).config.eos_token_ids == (5,)
    assert open_checkpoint(directory).config.pad_token_id is None
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 5], "pad_token_id": 3}))
    config = open_checkpoint(directory).config
    assert (config.eos_token_ids, config.pad_token_id) == ((7, 5), 3)


# Fuzzing: whatever the values, a configuration or one of two errors.

ANY_VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, 3, 16, 64, 2**32 - 1]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["linear", "yarn", "llama3", "llama", "silu"]),
    st.lists(st.integers(-2, 60) | st.text(max_size=3) | st.none(), max_size=4),
    st.dictionaries(
        st.sampled_from(["rope_type", "factor", "type"]), st.floats() | st.text(max_size=4), max_size=2
    ),
)
JSON_KEYS = [
    "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "bos_token_id", "eos_token_id",
    "pad_token_id",
]  # fmt: skip
ROPE = st.dictionaries(
    st.sampled_from(
        [
            "rope_type",
            "type",
            "factor",
            "original_max_position_embeddings",
            "low_freq_factor",
            "beta_fast",
            "mscale",
        ]
    ),
    ANY_VALUE,
)


@given(
    values=st.dictionaries(st.sampled_from(JSON_KEYS), ANY_VALUE, min_size=1, max_size=3),
    rope=st.none() | ROPE,
)
def test_any_config_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], rope: Any
) -> None:
    directory = tmp_path_factory.getbasetemp() / "config"
    write_model_directory(directory, TINY, **values, rope_scaling=rope)
    try:
        config = config_from_directory(directory)
    except (InvalidModelFile, UnsupportedModel):
        return
    assert config.num_attention_heads % config.num_key_value_heads == 0


GGUF_KEYS = [
    "general.architecture", "llama.context_length", "llama.embedding_length", "llama.block_count",
    "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.head_count_kv",
    "llama.attention.key_length", "llama.rope.freq_base", "llama.rope.scaling.type", "llama.rope.scaling.factor",
    "llama.rope.scaling.original_context_length", "llama.attention.layer_norm_rms_epsilon", "llama.expert_count",
    "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id", "tokenizer.ggml.padding_token_id",
]  # fmt: skip
SOUND_METADATA = {
    "general.architecture": "llama",
    "llama.context_length": 128,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
}
ARRAYS = st.lists(st.floats() | st.integers(-5, 60), max_size=5).map(np.array)


@given(values=st.dictionaries(st.sampled_from(GGUF_KEYS), ANY_VALUE | ARRAYS, min_size=1, max_size=4))
def test_any_gguf_metadata_is_read_or_refused(values: dict[str, Any]) -> None:
    embedding = GGUFTensorInfo("token_embd.weight", (48, 64), "F32", 0, 48 * 64 * 4)
    header = GGUFHeader(3, SOUND_METADATA | values, {embedding.name: embedding}, 0, 32, 0)
    try:
        config = config_from_gguf(header)
    except (InvalidModelFile, UnsupportedModel):
        return
    assert config.num_attention_heads % config.num_key_value_heads == 0


@given(
    edits=st.lists(st.tuples(st.integers(0, 2500), st.binary(min_size=1, max_size=8)), min_size=1, max_size=3)
)
def test_damaged_gguf_opens_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "sound.gguf"
    sound = path if path.exists() else write_model_gguf(path)
    data = bytearray(sound.read_bytes())
    for start, written in edits:
        data[start : start + len(written)] = written
    damaged = tmp_path_factory.getbasetemp() / "opened.gguf"
    damaged.write_bytes(data)
    try:
        checkpoint = open_checkpoint(damaged)
    except (InvalidModelFile, UnsupportedModel):
        return
    for name in checkpoint.names:
        checkpoint.tensor(name).float32()


@pytest.mark.model
def test_real_model(smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    assert checkpoint.source_bits == 4
    assert checkpoint.config == ModelConfig(
        architecture="llama",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_ids=(2, 0),
        pad_token_id=2,
    )
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    assert embedding.dtype == "Q8_0"
    assert 0.01 < float(embedding.float32(slice(0, 256)).std()) < 1.0
