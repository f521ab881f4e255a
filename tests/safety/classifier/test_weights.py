"""The file of weights: it survives a round trip, and a hostile one is refused with its fix."""

from __future__ import annotations

import hashlib
import json
import struct
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepwell.errors import InvalidModelFile
from deepwell.safety.classifier.features import BUCKET_BITS
from deepwell.safety.classifier.weights import SHIPPED, Weights, read_weights, write_weights


def _weights() -> Weights:
    table = np.zeros((1 << BUCKET_BITS, 4), dtype=np.int8)
    table[5] = 3
    ones = np.ones(3, dtype=np.float32)
    return Weights(table, ones, ones, ones, ones, ones, np.array([80, 256], dtype=np.int32))


def test_weights_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(_weights(), path)
    first = path.read_bytes()
    write_weights(read_weights(path), path)
    assert path.read_bytes() == first


def test_shipped_weights_are_small() -> None:
    assert SHIPPED.stat().st_size <= 1_100_000


def test_the_card_is_that_of_the_shipped_weights() -> None:
    card = tomllib.loads((SHIPPED.parent / "card.toml").read_text(encoding="utf-8"))
    assert card["weights_sha256"] == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert all(one["licence"] for one in card["sources"])


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(_weights(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InvalidModelFile):
        read_weights(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"table": np.zeros((16, 4), dtype=np.int8)},
        {"table": np.zeros((1 << BUCKET_BITS, 4), dtype=np.uint8)},
        {"scales": np.zeros(3, dtype=np.float32)},
        {"scales": np.ones(4, dtype=np.float32)},
        {"biases": np.array([0, np.nan, 0], dtype=np.float32)},
        {"thresholds": np.array([0, 0, np.inf], dtype=np.float32)},
        {"windows": np.array([], dtype=np.int32)},
        {"windows": np.array([-1], dtype=np.int32)},
        {"windows": np.array([1 << 30], dtype=np.int32)},
        {"windows": np.full(9, 64, dtype=np.int32)},
        {"windows": np.array([64.0], dtype=np.float32)},
    ],
    ids=lambda changed: "-".join(f"{name}-{value.dtype}-{value.shape}" for name, value in changed.items()),
)
def test_tensors_of_another_kind_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(replace(_weights(), **changed), path)
    with pytest.raises(InvalidModelFile, match=r"guard train|safetensors"):
        read_weights(path)


def test_headers_that_promise_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for header in (
        struct.pack("<Q", 1 << 60),
        struct.pack("<Q", 1 << 40) + b"{}",
        _header({"table": {"dtype": "I8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}),
        _header({"table": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}) + b"1234",
    ):
        path.write_bytes(header)
        with pytest.raises(InvalidModelFile):
            read_weights(path)


def test_tensors_too_many_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"windows": np.ones(1, dtype=np.int32), "more": np.ones(1, dtype=np.int32)}, path)
    with pytest.raises(InvalidModelFile, match="it holds"):
        read_weights(path)


def _header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text
