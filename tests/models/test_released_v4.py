"""DeepSeek-V4's own files: fp8 and fp4 weights with scales that are powers of two, and what is refused of them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine import sequences
from tests.engine.backends import backend
from tests.models.builders import TINY, random_tensors, safetensors_bytes, write_model_directory
from tests.models.released_v4 import CONFIG, Written, e2m1, released_v4

from deepwell.engine.architectures import build_model
from deepwell.engine.weights.load import load_weights, resolve_precision
from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import StoredTensor, open_checkpoint
from deepwell.models.formats.dequantize import dequantize
from deepwell.models.store.export import export_safetensors

TOKENS = np.random.default_rng(8).integers(0, 320, 152).tolist()  # past an entry of 128 tokens
EXPERT, ATTENTION = "layers.1.ffn.experts.2.w2", "layers.1.attn.wq_b"
KINDS: dict[str, dict[str, Any]] = {
    "released": {},
    "base": {"base": True},
    "float scales": {"base": True, "scale": "F32"},
}


def logits(directory: Path, engine: str, precision: Any) -> Any:
    run, checkpoint = backend(engine), open_checkpoint(directory)
    model = build_model(run, load_weights(checkpoint, precision), checkpoint.config, max_positions=256)
    cache = sequences.new_cache(run, checkpoint.config, len(TOKENS))
    return sequences.logits(model, cache, TOKENS, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_that_were_stored(kind: str, tmp_path: Path) -> None:
    made = released_v4(tmp_path, **KINDS[kind])
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.names) == set(made.values)
    for name, values in made.values.items():
        tensor = checkpoint.tensor(name)
        assert tensor.shape == values.shape
        assert np.array_equal(tensor.float32(), values), name
        if values.ndim == 2:
            some = np.array([len(values) - 1, 0, 1])
            assert np.array_equal(tensor.float32(some), values[some])
            assert np.array_equal(tensor.float32(slice(5, 23)), values[5:23])


def test_the_formats_are_those_of_deepseek(tmp_path: Path) -> None:
    made = released_v4(tmp_path)
    assert [made.parts[f"{name}.weight"][:2] for name in (EXPERT, ATTENTION)] == [
        ("I8", (160, 48)),
        ("F8_E4M3", (256, 64)),
    ]
    assert [made.parts[f"{name}.scale"][:2] for name in (EXPERT, ATTENTION)] == [
        ("F8_E8M0", (160, 3)),
        ("F8_E8M0", (2, 1)),
    ]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_same_numbers_in_float32(kind: str, precision: str, tmp_path: Path) -> None:
    made = released_v4(tmp_path / "released", **KINDS[kind])
    made.save_plain(tmp_path / "plain")
    found = {}
    for engine in ("reference", "native"):
        found[engine] = logits(tmp_path / "released", engine, precision)
        assert np.array_equal(found[engine], logits(tmp_path / "plain", engine, precision))
    assert np.abs(found["reference"]).max() > 0.5
    limit = 1e-3 if precision == "fp32" else 2e-3 * np.abs(found["reference"]).max()
    assert np.median(np.abs(found["native"] - found["reference"])) < limit


def test_experts_decide_about_the_precision(tmp_path: Path) -> None:
    released_v4(tmp_path / "released")
    released_v4(tmp_path / "base", base=True)
    assert open_checkpoint(tmp_path / "released").source_bits == 4
    assert resolve_precision("auto", open_checkpoint(tmp_path / "released"))[0] == "int4"
    assert resolve_precision("auto", open_checkpoint(tmp_path / "base"))[0] == "int8"


def test_scales_stay_in_the_file(tmp_path: Path) -> None:
    """In float32, those of V4-Pro would take 200 GB."""
    released_v4(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    scales = checkpoint.tensor(f"{EXPERT}.weight").scales
    assert scales is not None and scales.data.dtype == np.uint8 and not scales.data.flags.owndata
    stored = sum(len(data) for _, _, data in released_v4(tmp_path).parts.values())
    assert checkpoint.nbytes == stored


def test_only_the_rows_that_are_asked_for_are_converted() -> None:
    rows, cols = 4096, 2048
    scales = StoredTensor("scale", (rows, cols // 32), "F8_E8M0", np.full((rows, cols // 32), 127, np.uint8))
    packed = np.full((rows, cols // 2), 0x42, np.uint8)
    tensor = StoredTensor("w", (rows, cols), "F4_E2M1", packed, scales=scales, scale_block=(1, 32))
    tracemalloc.start()
    try:
        values = tensor.float32(slice(100, 164))
        assert tracemalloc.get_traced_memory()[1] < 2.5 * values.nbytes
    finally:
        tracemalloc.stop()
    assert values.shape == (64, cols) and set(values[0, :4].tolist()) == {1.0, 2.0}


def test_an_export_holds_the_numbers_and_says_nothing_of_formats(tmp_path: Path) -> None:
    made = released_v4(tmp_path / "released")
    done: list[int] = []
    export_safetensors(
        open_checkpoint(tmp_path / "released"),
        tmp_path / "out",
        max_shard_bytes=500_000,
        progress=done.append,
    )
    written = open_checkpoint(tmp_path / "out")
    assert written.source_bits == 32 and set(written.names) == set(made.values)
    for name, values in made.values.items():
        assert np.array_equal(written.tensor(name).float32(), values)
    assert written.tensor("layers.0.ffn.gate.tid2eid").dtype == "I64"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    kept = {key: value for key, value in CONFIG.items() if key not in ("expert_dtype", "quantization_config")}
    assert config == kept | {"torch_dtype": "float32"}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == written.nbytes == sum(done)


def test_every_code_of_fp4_and_of_its_scales() -> None:
    codes = np.arange(256, dtype=np.uint8)
    pairs = dequantize(codes.reshape(16, 16), "F4_E2M1").reshape(256, 2)
    assert pairs.tolist() == [[e2m1(code & 15), e2m1(code >> 4)] for code in range(256)]
    powers = dequantize(codes[None], "F8_E8M0")[0]
    assert powers[:255].tolist() == [2.0 ** (code - 127) for code in range(255)] and np.isnan(powers[255])


# Refusals.


def drop(name: str) -> Callable[[Written], None]:
    return lambda made: made.parts.pop(name) and None


def put(name: str, dtype: str, shape: tuple[int, ...], nbytes: int = 1) -> Callable[[Written], None]:
    def change(made: Written) -> None:
        made.parts[name] = (dtype, shape, bytes(int(np.prod(shape)) * nbytes))

    return change


def configure(**changes: Any) -> Callable[[Written], None]:
    return lambda made: made.config.update(changes)


def blocks(*size: Any) -> Callable[[Written], None]:
    return configure(quantization_config=CONFIG["quantization_config"] | {"weight_block_size": list(size)})


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (drop(f"{EXPERT}.scale"), InvalidModelFile, "fp4 without its scales"),
        (drop(f"{ATTENTION}.scale"), UnsupportedModel, "without block scales"),
        (drop(f"{EXPERT}.weight"), InvalidModelFile, "scales of a missing weight"),
        (put(f"{EXPERT}.scale", "F8_E8M0", (160, 2)), InvalidModelFile, r"expected F8_E8M0 \(160, 3\)"),
        (put(f"{EXPERT}.scale", "F8_E8M0", (480,)), InvalidModelFile, r"expected F8_E8M0 \(160, 3\)"),
        (put(f"{EXPERT}.scale", "F32", (160, 3), 4), InvalidModelFile, r"expected F8_E8M0 \(160, 3\)"),
        (put(f"{EXPERT}.scale", "U8", (160, 3)), InvalidModelFile, r"expected F8_E8M0 \(160, 3\)"),
        (put(f"{ATTENTION}.scale", "F8_E8M0", (1, 1)), InvalidModelFile, r"expected .* \(2, 1\)"),
        (put(f"{ATTENTION}.scale", "U8", (2, 1)), InvalidModelFile, r"expected F32 or F8_E8M0 \(2, 1\)"),
        (put(f"{EXPERT}.weight", "I8", (160, 47)), InvalidModelFile, "scales"),
        (put(f"{EXPERT}.weight", "I8", (160, 64)), InvalidModelFile, "scales"),
        (put(f"{EXPERT}.weight", "I8", (160, 0)), InvalidModelFile, "empty"),
        (put(f"{EXPERT}.weight", "I8", (7680,)), UnsupportedModel, "F4_E2M1"),
        (put(f"{EXPERT}.weight", "U8", (160, 48)), InvalidModelFile, "is U8 and has scales"),
        (put(f"{EXPERT}.weight", "BF16", (160, 96), 2), InvalidModelFile, "is BF16 and has scales"),
        (put(f"{EXPERT}.weight", "F8_E8M0", (160, 96)), InvalidModelFile, "is F8_E8M0 and has scales"),
        (put(f"{ATTENTION}.weight", "I8", (256, 32)), UnsupportedModel, "the type I8"),
        (put("layers.1.ffn.shared_experts.w1.weight", "I8", (96, 80)), UnsupportedModel, "the type I8"),
        (put("layers.1.attn.compressor.scale", "F8_E8M0", (1, 1)), InvalidModelFile, "of a missing weight"),
        (put("layers.1.attn_norm.scale", "F32", (1, 1), 4), InvalidModelFile, "is F32 and has scales"),
        (put(f"{EXPERT}.weight_scale_inv", "F8_E8M0", (160, 3)), InvalidModelFile, "scales twice"),
        (put("head.weight", "F8_E8M0", (320, 160)), UnsupportedModel, "F8_E8M0"),
        (configure(expert_dtype="fp8"), UnsupportedModel, "the type I8"),
        (configure(expert_dtype=["fp4"]), UnsupportedModel, "the type I8"),
        (configure(quantization_config=None), UnsupportedModel, "without block scales"),
        (configure(quantization_config={"quant_method": "modelslim"}), UnsupportedModel, "modelslim"),
        (blocks(64, 64), InvalidModelFile, "expected"),
        (blocks(True, True), UnsupportedModel, "block sizes"),
        (blocks(128, 10**400), UnsupportedModel, "block sizes"),
    ],
)
def test_unsound_files_are_refused(
    change: Callable[[Written], None], error: type, reason: str, tmp_path: Path
) -> None:
    made = released_v4(tmp_path)
    change(made)
    made.save(tmp_path)
    with pytest.raises(error, match=reason):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("code", [255, 254])
@pytest.mark.parametrize("name", [EXPERT, ATTENTION])
def test_scales_that_are_no_number_or_overflow_are_refused(
    name: str, code: int, precision: Any, tmp_path: Path
) -> None:
    made = released_v4(tmp_path)
    dtype, shape, data = made.parts[f"{name}.scale"]
    made.parts[f"{name}.scale"] = (dtype, shape, bytes([code]) + data[1:])
    checkpoint = open_checkpoint(made.save(tmp_path))
    with pytest.raises(InvalidModelFile, match=f"{name}.weight"):
        load_weights(checkpoint, precision)


def test_other_models_have_no_such_scales(tmp_path: Path) -> None:
    quantization = CONFIG["quantization_config"] | {"weight_block_size": [32, 32]}
    tensors = random_tensors(TINY)
    write_model_directory(tmp_path, TINY, tensors, quantization_config=quantization)
    name = "model.layers.0.self_attn.q_proj"
    parts = {n: ("F32", values.shape, values.tobytes()) for n, values in tensors.items()}
    parts[f"{name}.weight"] = ("F8_E4M3", (64, 64), bytes(4096))
    parts[f"{name}.scale"] = ("F8_E8M0", (2, 2), bytes(4))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(parts))
    with pytest.raises(UnsupportedModel, match="without block scales"):
        open_checkpoint(tmp_path)
    parts[f"{name}.weight_scale_inv"] = parts.pop(f"{name}.scale")
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(parts))
    assert open_checkpoint(tmp_path).tensor(f"{name}.weight").scales is not None


def test_configurations_of_other_versions_name_the_experts_within_quantization(tmp_path: Path) -> None:
    made = released_v4(tmp_path)
    experts = made.config.pop("expert_dtype")
    made.config["quantization_config"] = made.config["quantization_config"] | {"expert_dtype": experts}
    assert open_checkpoint(made.save(tmp_path)).source_bits == 4
    made.config["quantization_config"]["expert_dtype"] = "int8"
    with pytest.raises(UnsupportedModel, match="I8"):
        open_checkpoint(made.save(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "deepseek_v4"
