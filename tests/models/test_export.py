"""Export: what is written holds the same model, in pieces, completely or not at all."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as GGML
from safetensors import safe_open
from safetensors.numpy import load_file
from tests.models.builders import TINY, random_tensors, write_model_directory, write_model_gguf
from tests.models.tokenizer_files import TEMPLATE, write_gguf

from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig, RopeScaling
from deepwell.models.store.export import export_safetensors
from deepwell.models.text.tokenizer import Tokenizer

QWEN2 = replace(TINY, architecture="qwen2", attention_bias=True, tie_word_embeddings=False)


def test_quantised_gguf_becomes_what_the_reference_reader_reads(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_model_gguf(tmp_path / "model.gguf", kind_of=lambda _: GGML.Q4_1))
    export_safetensors(checkpoint, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == set(checkpoint.names)
    assert all(np.array_equal(written[name], checkpoint.tensor(name).float32()) for name in written)
    with safe_open(tmp_path / "out" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses files without it


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        QWEN2,
        replace(TINY, architecture="qwen3", head_dim=32),
        replace(TINY, attention_bias=True, eos_token_ids=(2, 7), pad_token_id=None),
        replace(TINY, rope_scaling=RopeScaling("linear", 2.0)),
        replace(TINY, rope_scaling=RopeScaling("llama3", 8.0, 64, 1.0, 4.0)),
        replace(
            TINY,
            max_position_embeddings=512,
            rope_scaling=RopeScaling("yarn", 4.0, 128, attention_factor=1.5),
        ),
    ],
    ids=["llama", "qwen2", "qwen3", "bias", "linear", "llama3", "yarn"],
)
def test_configuration_survives(tmp_path: Path, config: ModelConfig) -> None:
    scaling = config.rope_scaling
    rope = None
    if scaling is not None:
        rope = {
            "rope_type": scaling.kind,
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_max_position_embeddings or None,
            "attention_factor": scaling.attention_factor,
        }
        rope = {key: value for key, value in rope.items() if value is not None}
    changes = {"rope_scaling": rope, "eos_token_id": list(config.eos_token_ids)}
    checkpoint = open_checkpoint(write_model_directory(tmp_path / "source", config, **changes))
    assert checkpoint.config == config
    export_safetensors(checkpoint, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").config == config


def test_llama_with_biases_gets_the_output_bias_that_transformers_expects(tmp_path: Path) -> None:
    config = replace(TINY, attention_bias=True)
    export_safetensors(open_checkpoint(write_model_gguf(tmp_path / "model.gguf", config)), tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    for layer in range(config.num_hidden_layers):
        assert written[f"model.layers.{layer}.self_attn.o_proj.bias"].tolist() == [0.0] * 64
    assert open_checkpoint(tmp_path / "out").config == config


def test_bfloat16_rounds_to_nearest_even(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    special = [np.nan, np.inf, -np.inf, 3.4e38, -0.0, 1e-40, 1.00390625, 1.01171875]  # the last two are ties
    tensors["model.norm.weight"][: len(special)] = special
    checkpoint = open_checkpoint(write_model_directory(tmp_path / "source", TINY, tensors))
    export_safetensors(checkpoint, tmp_path / "out", "bfloat16")
    written = open_checkpoint(tmp_path / "out")
    assert written.source_bits == 16
    for name, values in tensors.items():
        expected = gguf.quants.dequantize(gguf.quants.quantize(values, GGML.BF16), GGML.BF16)
        assert np.array_equal(written.tensor(name).float32(), expected, equal_nan=True), name


def test_float16_overflow_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    tensors["model.norm.weight"][3] = 70_000.0
    checkpoint = open_checkpoint(write_model_directory(tmp_path / "source", TINY, tensors))
    with pytest.raises(
        UnsupportedModel, match=r"model\.norm\.weight .* beyond the range of float16.*bfloat16"
    ):
        export_safetensors(checkpoint, tmp_path / "out", "float16")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    tensors["model.norm.weight"][3] = 1.0
    checkpoint = open_checkpoint(write_model_directory(tmp_path / "source", TINY, tensors))
    export_safetensors(checkpoint, tmp_path / "out", "float16")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(np.array_equal(written[name], values.astype(np.float16)) for name, values in tensors.items())


def test_large_models_are_split_with_an_index(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    checkpoint = open_checkpoint(write_model_gguf(tmp_path / "model.gguf", TINY, tensors))
    done: list[int] = []
    export_safetensors(checkpoint, tmp_path / "out", max_shard_bytes=60_000, progress=done.append)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [shard.name for shard in shards] == [
        f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))
    ]
    assert len(shards) > 2
    parts = [load_file(shard) for shard in shards]
    assert all(sum(values.nbytes for values in part.values()) <= 60_000 for part in parts)
    total = sum(values.nbytes for values in tensors.values())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == total == sum(done)
    assert index["weight_map"] == {n: s.name for s, part in zip(shards, parts, strict=True) for n in part}
    written = open_checkpoint(tmp_path / "out")
    assert all(np.array_equal(written.tensor(name).float32(), values) for name, values in tensors.items())


def test_tensors_are_streamed(tmp_path: Path) -> None:
    """An embedding of 40 MB in float32 passes through without ever being whole in memory."""
    config = replace(TINY, vocab_size=160_000)
    path = write_model_gguf(tmp_path / "model.gguf", config, kind_of=lambda _: GGML.F16)
    checkpoint = open_checkpoint(path)
    tracemalloc.start()
    try:
        export_safetensors(checkpoint, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_model_gguf(tmp_path / "model.gguf"))
    out = tmp_path / "out"
    out.mkdir()
    export_safetensors(checkpoint, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(InvalidRequest, match="is not empty"):
        export_safetensors(checkpoint, out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(InvalidRequest, match=r"unknown dtype 'int8'.*float32, bfloat16, float16"):
        export_safetensors(checkpoint, tmp_path / "other", "int8")  # type: ignore[arg-type]


def test_tokenizer_and_template_are_exported(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_gguf(tmp_path / "tokenizer.gguf"))
    checkpoint = open_checkpoint(write_model_gguf(tmp_path / "model.gguf"))
    export_safetensors(checkpoint, tmp_path / "out", tokenizer=tokenizer)
    reloaded = Tokenizer.load(tmp_path / "out")
    text = "hello 你好 <|im_end|> 12\n"
    assert reloaded.encode(text) == tokenizer.encode(text)
    assert reloaded.chat_template == tokenizer.chat_template == TEMPLATE
    assert (reloaded.bos_token, reloaded.eos_token, reloaded.pad_token) == (
        tokenizer.bos_token,
        tokenizer.eos_token,
        tokenizer.pad_token,
    )
