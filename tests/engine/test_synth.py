"""Packed models of random weights, and packed files that are mapped: they run, and damage is found."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine import sequences
from tests.needs import NATIVE, require

from deepwell.engine.backends import native
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.engine.weights import load as weights
from deepwell.engine.weights.load import load_weights, resolve_precision, verify_packed, weights_nbytes
from deepwell.engine.weights.synth import SHAPES, shape_config, synthesize
from deepwell.errors import InvalidModelFile, InvalidRequest
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.text.tokenizer import Tokenizer

DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "eos_token_id": 256,
}


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    synthesize(tmp_path / "model", DENSE, "int8")
    return tmp_path / "model"


def packed_file(directory: Path) -> Path:
    (path,) = directory.glob("*.dwpack")
    return path


def test_it_opens_and_runs(synthetic: Path) -> None:
    engine = open_engine(
        synthetic,
        EngineOptions(kv_tokens=256, backend="native" if native.is_available() else "reference"),
        quiet=True,
    )
    try:
        prompt = Tokenizer.load(synthetic).encode("Grüße an alle")
        params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
        tokens = [
            token
            for delta in engine.generate_sync(GenerateRequest("one", prompt, params))
            for token in delta.tokens
        ]
        assert len(prompt) == len("Grüße an alle".encode())
        assert len(tokens) == 8 and max(tokens) < 300
        assert engine.capabilities().precision == "int8"
    finally:
        engine.close()


def test_weights_keep_the_size_of_what_passes(synthetic: Path) -> None:
    """Random layers neither blow up nor die out, or routing and quantisation would meet what no real model has."""
    checkpoint = open_checkpoint(synthetic)
    loaded = load_weights(checkpoint, "int8")
    for packed in loaded.matrices.values():
        from deepwell.engine.weights.quantize import unpack

        values = unpack(packed.data, packed.rows, packed.cols, "int8")
        assert np.std(values) == pytest.approx(packed.cols**-0.5, rel=0.1)
    assert all((vector == 1).all() for vector in loaded.vectors.values())


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    for name, seed in zip(names, (0, 0, 1), strict=True):
        synthesize(tmp_path / name, DENSE, "int4", seed=seed)
    first, again, other = (packed_file(tmp_path / name).read_bytes() for name in names)
    assert first == again != other


def test_only_the_precision_that_is_there(synthetic: Path) -> None:
    checkpoint = open_checkpoint(synthetic)
    assert resolve_precision("auto", checkpoint)[0] == resolve_precision("int8", checkpoint)[0] == "int8"
    with pytest.raises(InvalidRequest, match="packed as int8"):
        resolve_precision("int4", checkpoint)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="fp32"):
        synthesize(tmp_path / "a", DENSE, "fp32")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InvalidRequest, match="not empty"):
        synthesize(tmp_path / "full", DENSE)
    with pytest.raises(InvalidRequest, match="no shape"):
        shape_config("deepseek-v9")
    with pytest.raises(InvalidRequest, match="0 layers"):
        shape_config("mixture-1b", 0)
    huge = {**DENSE, "vocab_size": 1 << 24, "hidden_size": 1 << 17}
    with pytest.raises(InvalidRequest, match="the disk has"):
        synthesize(tmp_path / "huge", huge)
    assert not (tmp_path / "huge").exists()


@pytest.mark.parametrize("predictable", [None, 0.0], ids=["noise", "predictable"])
def test_a_prediction_layer_is_written_and_drafts(predictable: float | None, tmp_path: Path) -> None:
    require(NATIVE)
    config = shape_config("deepseek-v3-8layers", 2, prediction=True) | TINY_V3
    synthesize(tmp_path / "model", config, "int8", predictable=predictable)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert checkpoint.config.prediction_layer == 2
    engine = open_engine(checkpoint, EngineOptions(kv_tokens=256, backend="native"), quiet=True)
    try:
        params = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)
        list(engine.generate_sync(GenerateRequest("one", list(range(20)), params)))
        stats = engine.stats()
    finally:
        engine.close()
    if predictable is None:
        assert stats.predicted_tokens < 10
    else:
        assert stats.accepted_predictions == stats.predicted_tokens > 15


def test_only_deepseek_shapes_have_a_prediction_layer() -> None:
    with pytest.raises(InvalidRequest, match="no prediction layer"):
        shape_config("qwen3-moe-30b-a3b", prediction=True)


@pytest.mark.parametrize("map_bytes", [1 << 40, 0], ids=["read", "mapped"])
def test_read_or_mapped_the_weights_are_the_same(synthetic: Path, map_bytes: int) -> None:
    loaded = load_weights(open_checkpoint(synthetic), "int8", map_bytes=map_bytes)
    data = packed_file(synthetic).read_bytes()
    assert loaded.nbytes == weights_nbytes(loaded.config, "int8")
    assert data[-loaded.nbytes :] == b"".join(
        [*(m.data.tobytes() for m in loaded.matrices.values()), data[-_vector_bytes(loaded) :]]
    )


def _vector_bytes(loaded: weights.Weights) -> int:
    return loaded.nbytes - sum(packed.data.nbytes for packed in loaded.matrices.values())


def test_a_mapped_cache_file_gives_the_logits_of_a_read_one(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    checkpoint = sequences.golden_checkpoint("qwen3", tmp_path / "source")
    packed = load_weights(checkpoint, "int8", tmp_path / "cache")
    mapped = load_weights(checkpoint, "int8", tmp_path / "cache", map_bytes=0)
    assert mapped.fingerprint == packed.fingerprint and mapped.report == packed.report
    assert all(np.array_equal(mapped.matrices[name].data, m.data) for name, m in packed.matrices.items())
    with pytest.raises(ValueError, match="read-only"):
        next(iter(mapped.matrices.values())).data[0] = 1


def test_damage_is_found(synthetic: Path) -> None:
    """By the start where the file is read, by `verify_packed` where it is mapped."""
    path = packed_file(synthetic)
    assert verify_packed(path) == []
    data = bytearray(path.read_bytes())
    data[-300_000 % len(data)] ^= 1
    path.write_bytes(data)
    assert len(verify_packed(path)) == 1
    with pytest.raises(InvalidModelFile, match="have changed"):
        load_weights(open_checkpoint(synthetic), "int8")


@pytest.mark.parametrize("map_bytes", [1 << 40, 0], ids=["read", "mapped"])
def test_a_file_that_ends_early_is_refused_mapped_or_not(synthetic: Path, map_bytes: int) -> None:
    path = packed_file(synthetic)
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(InvalidModelFile, match="size is wrong"):
        load_weights(open_checkpoint(synthetic), "int8", map_bytes=map_bytes)
    with pytest.raises(InvalidModelFile, match="size is wrong"):
        verify_packed(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b'{"fingerprint": "x", "nbytes": 64, "tensors": []}',
        b'{"fingerprint": "x", "nbytes": 64, "tensors": {"a": 1}}',
        b'{"fingerprint": "x", "nbytes": 64, "tensors": {"a": {"offset": -64, "nbytes": 64, "checksum": 0}}}',
        b'{"fingerprint": "x", "nbytes": 64, "tensors": {"a": {"offset": 0, "nbytes": 128, "checksum": 0}}}',
        b'{"fingerprint": "x", "nbytes": "many", "tensors": {"a": {"offset": 0, "nbytes": 64, "checksum": 0}}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_hostile_headers_are_refused(synthetic: Path, header: bytes) -> None:
    path = packed_file(synthetic)
    header += b" " * (-(len(header) + 16) % 4096)
    path.write_bytes(
        struct.pack("<8sII", b"DWPACK\r\n", len(header), zlib.crc32(header)) + header + bytes(64)
    )
    with pytest.raises(InvalidModelFile):
        verify_packed(path)
    with pytest.raises(InvalidModelFile):
        load_weights(open_checkpoint(synthetic), "int8", map_bytes=0)


def test_a_table_that_swaps_tensors_is_refused(synthetic: Path) -> None:
    """Of a mapped file the table is trusted only where it is exactly that of the model."""
    path = packed_file(synthetic)
    data = path.read_bytes()
    _, length, _ = struct.unpack_from("<8sII", data)
    fields = json.loads(data[16 : 16 + length])
    tensors = fields["tensors"]
    tensors["0.qkv"]["offset"], tensors["1.qkv"]["offset"] = (
        tensors["1.qkv"]["offset"],
        tensors["0.qkv"]["offset"],
    )
    header = json.dumps(fields).encode()
    header += b" " * (length - len(header))
    path.write_bytes(
        struct.pack("<8sII", b"DWPACK\r\n", length, zlib.crc32(header)) + header + data[16 + length :]
    )
    with pytest.raises(InvalidModelFile, match="table does not match"):
        load_weights(open_checkpoint(synthetic), "int8", map_bytes=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_a_configuration_that_is_read(shape: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shape_config(shape)))
    from deepwell.models.formats.config_reader import config_from_directory

    config = config_from_directory(tmp_path)
    expected = {
        "deepseek-v2-lite": 15.7,
        "deepseek-v3-8layers": 60.8,
        "qwen3-moe-30b-a3b": 30.5,
        "mixture-1b": 1.5,
        "deepseek-v4-flash": 284.3,
        "deepseek-v4-1b": 0.95,
        "dense-1b": 1.5,
    }
    # int8 takes 33 bytes for 32 weights
    assert weights_nbytes(config, "int8") / 1.03125e9 == pytest.approx(expected[shape], rel=0.05)


TINY_V3: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "n_group": 2,
    "topk_group": 1,
}
MIXTURE: dict[str, Any] = {
    **{key: value for key, value in DENSE.items() if key not in ("architectures", "model_type")},
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_mixture_counts_what_its_experts_compute(backend: Any, tmp_path: Path) -> None:
    if backend == "native":
        require(NATIVE)
    synthesize(tmp_path / "model", MIXTURE)
    engine = open_engine(
        tmp_path / "model", EngineOptions(kv_tokens=256, backend=backend, speculation="off"), quiet=True
    )
    try:
        assert engine.stats().expert_imbalance == 0.0
        params = SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True)
        list(engine.generate_sync(GenerateRequest("one", list(range(20)), params)))
        stats = engine.stats()
        # 20 rows of prompt and 4 of what was generated, two experts each; of the prompt only the last row leaves the
        # last layer's attention.
        assert [sum(loads) for loads in stats.expert_loads] == [
            2 * 24,
            2 * (24 if backend == "reference" else 5),
        ]
        assert 1.0 <= stats.expert_imbalance <= 4.0
        assert (
            4 * 2 * 2 + 2 * 2 <= stats.expert_reads <= 4 * 2 * 2 + 2 * 4
        )  # two a decode step, up to four of the prompt
    finally:
        engine.close()
