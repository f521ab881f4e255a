"""Packing a checkpoint, and the packed file: used when sound, rebuilt when not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.engine import sequences

from deepwell.engine.layouts import Precision
from deepwell.engine.weights import quantize
from deepwell.engine.weights.load import load_weights, resolve_precision, weights_nbytes
from deepwell.engine.weights.packed import Weights
from deepwell.errors import InvalidModelFile
from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    source = tmp_path / "source"
    source.mkdir()
    return sequences.golden_checkpoint("qwen2", source)


def same(a: Weights, b: Weights) -> bool:
    return (
        a.fingerprint == b.fingerprint
        and a.report == b.report
        and a.matrices.keys() == b.matrices.keys()
        and all(np.array_equal(a.matrices[name].data, b.matrices[name].data) for name in a.matrices)
        and all(np.array_equal(a.vectors[name], b.vectors[name]) for name in a.vectors)
    )


def only_file(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def test_tensors_are_fused_as_the_backend_expects(checkpoint: Checkpoint) -> None:
    weights = load_weights(checkpoint, "fp32")

    def stored(name: str) -> np.ndarray:
        return checkpoint.tensor(f"model.layers.1.{name}").float32()

    def matrix(name: str) -> np.ndarray:
        packed = weights.matrices[name]
        return quantize.unpack(packed.data, packed.rows, packed.cols, packed.scheme)

    qkv = [f"self_attn.{part}_proj" for part in "qkv"]
    assert np.array_equal(matrix("1.qkv"), np.concatenate([stored(f"{name}.weight") for name in qkv]))
    assert np.array_equal(weights.vectors["1.qkv_bias"], np.concatenate([stored(f"{n}.bias") for n in qkv]))
    both = quantize.interleave_gate_up(stored("mlp.gate_proj.weight"), stored("mlp.up_proj.weight"))
    assert np.array_equal(matrix("1.gate_up"), both)
    down = matrix("1.down")  # widened from 88 columns to a multiple of 16
    assert np.array_equal(down[:, :88], stored("mlp.down_proj.weight")) and not down[:, 88:].any()
    assert "head" not in weights.matrices  # tied


def test_large_matrices_are_packed_in_chunks_without_a_seam(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_weights(checkpoint, "int4")
    monkeypatch.setattr("deepwell.engine.weights.load._CHUNK_WEIGHTS", 64 * 32)
    pieces = load_weights(checkpoint, "int4")
    assert all(np.array_equal(whole.matrices[n].data, pieces.matrices[n].data) for n in whole.matrices)
    for name, report in whole.report.items():
        assert pieces.report[name].sqnr_db == pytest.approx(report.sqnr_db)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_schemes_of_a_precision(checkpoint: Checkpoint, precision: Precision) -> None:
    weights = load_weights(checkpoint, precision)
    body = "int4" if precision == "int4-full" else precision
    assert weights.matrices["0.qkv"].scheme == body
    assert weights.matrices["embed"].scheme == ("int8" if precision == "int4" else body)
    assert weights.nbytes == weights_nbytes(checkpoint.config, precision)
    exact = precision in quantize.FLOATS  # the few bits of the golden weights fit all of them
    assert np.isfinite(weights.report["0.qkv"].sqnr_db) != exact


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_packed_file_gives_the_same_weights(
    checkpoint: Checkpoint, precision: Precision, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cold = load_weights(checkpoint, precision, tmp_path / "packed")
    written = only_file(tmp_path / "packed").stat()
    warm = load_weights(checkpoint, precision, tmp_path / "packed")
    assert same(cold, warm)
    assert same(load_weights(checkpoint, precision), warm)
    after = only_file(tmp_path / "packed").stat()
    assert (after.st_ino, after.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert not caplog.records


def test_loaded_arrays_are_aligned(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for _ in range(2):
        weights = load_weights(checkpoint, "int8", tmp_path / "packed")
        arrays = [*(m.data for m in weights.matrices.values()), *weights.vectors.values()]
        assert all(array.ctypes.data % 64 == 0 for array in arrays)


def flip(content: bytearray, at: int) -> bytearray:
    content[at] ^= 0x10
    return content


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: flip(content, 0), id="magic"),
        pytest.param(lambda content: flip(content, 30), id="header"),
        pytest.param(lambda content: flip(content, len(content) // 2), id="data"),
        pytest.param(lambda content: flip(content, len(content) - 1), id="last byte"),
        pytest.param(lambda content: content[:-64], id="truncated"),
        pytest.param(lambda content: content + bytes(64), id="too long"),
        pytest.param(lambda content: content[:10], id="cut in the prefix"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda content: content[:12] + b"\xff" * 4 + content[16:], id="checksum"),
        pytest.param(lambda content: content[:8] + b"\xff\xff\xff\x7f" + content[12:], id="huge header"),
    ],
)
def test_a_damaged_file_is_rebuilt(
    checkpoint: Checkpoint, tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "packed"
    sound = load_weights(checkpoint, "int8", directory)
    path = only_file(directory)
    content = path.read_bytes()
    path.write_bytes(damage(bytearray(content)))
    with caplog.at_level(logging.WARNING):
        assert same(load_weights(checkpoint, "int8", directory), sound)
    assert str(path) in caplog.text
    assert path.read_bytes() == content


def test_another_checkpoint_never_uses_the_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = load_weights(checkpoint, "int8", tmp_path / "packed")
    source = tmp_path / "source"
    weights = load_file(source / "model.safetensors")
    changed = weights["model.norm.weight"].copy()
    changed[0] += 1
    save_file(weights | {"model.norm.weight": changed}, source / "model.safetensors")
    after = load_weights(open_checkpoint(source), "int8", tmp_path / "packed")
    assert after.vectors["norm"][0] == before.vectors["norm"][0] + 1
    assert after.fingerprint != before.fingerprint


def test_another_configuration_never_uses_the_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = load_weights(checkpoint, "int8", tmp_path / "packed")
    path = tmp_path / "source" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    after = load_weights(open_checkpoint(path.parent), "int8", tmp_path / "packed")
    assert after.config.rms_norm_eps == 1e-3
    assert after.fingerprint != before.fingerprint


def test_a_directory_that_cannot_be_written_costs_a_warning(
    checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "blocked").write_text("a file where the directory should be")
    weights = load_weights(checkpoint, "int8", tmp_path / "blocked" / "packed")
    assert same(weights, load_weights(checkpoint, "int8"))
    assert "cannot keep the packed weights" in caplog.text


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8", "int4"])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.mlp.down_proj.weight"])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, checkpoint: Checkpoint, precision: Precision, name: str
) -> None:
    source = tmp_path / "source"
    weights = load_file(source / "model.safetensors")
    poisoned = weights[name].copy()
    poisoned.reshape(-1)[7] = np.nan
    save_file(weights | {name: poisoned}, source / "model.safetensors")
    with pytest.raises(InvalidModelFile, match="not finite"):
        load_weights(open_checkpoint(source), precision, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_progress_ends_at_the_total(checkpoint: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    weights = load_weights(checkpoint, "int8", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (weights.nbytes, weights.nbytes)
    assert seen == sorted(seen)


def test_auto_precision_of_floats_is_int8(checkpoint: Checkpoint) -> None:
    precision, reason = resolve_precision("auto", checkpoint)
    assert precision == "int8" and "16-bit" in reason
    assert resolve_precision("int4-full", checkpoint)[0] == "int4-full"


@pytest.mark.model
def test_smollm2_runs_its_four_bits_unchanged(smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    precision, reason = resolve_precision("auto", checkpoint)
    assert precision == "int4" and "4-bit" in reason
    weights = load_weights(checkpoint, precision)
    assert {name for name, report in weights.report.items() if report.max_error > 0} == {"embed"}
    packed = weights.matrices["7.down"]
    values = quantize.unpack(packed.data, packed.rows, packed.cols, packed.scheme)
    assert np.array_equal(values, checkpoint.tensor("model.layers.7.mlp.down_proj.weight").float32())
    fp32 = weights_nbytes(checkpoint.config, "fp32")
    assert weights_nbytes(checkpoint.config, "int8") <= 0.27 * fp32
    assert weights.nbytes <= 0.19 * fp32
    assert weights_nbytes(checkpoint.config, "int4-full") <= 0.16 * fp32
