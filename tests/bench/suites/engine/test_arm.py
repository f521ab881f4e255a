"""The row of ARM without its emulator: its tables, what it compares, and the file that the C++ program reads."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from tests.engine import sequences
from tests.engine.test_headers import TABLES

from deepwell.engine.weights.load import load_weights
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.engine.arm import CPUS, Program, Smoke, require_tools, write_model


def emulator(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Program:
    """A program whose emulator is a shell script."""
    script = folder / "qemu-aarch64"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return Program(folder / "kernel_tests")


def test_every_table_of_arm_is_emulated() -> None:
    assert set(CPUS.values()) == {table for table in TABLES if table.startswith("neon")} | {"generic"}


def test_missing_tools_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerError) as raised:
        require_tools()
    assert "g++-aarch64-linux-gnu qemu-user" in (raised.value.fix or "")


def test_tables_are_held_to_what_those_of_this_machine_agree_on() -> None:
    smoke = Smoke("", Path(), [1], {"avx2": [5, 6, 7, 8], "generic": [5, 6, 9, 8]})
    assert smoke.expected("generic") == [5, 6, 9, 8]
    assert smoke.expected("neon_i8mm") == [5, 6]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('echo \'{"table": "t", "checks": 7, "failed": 0}\'', (7, 0)),
        ('echo "FAIL t: int8"; echo \'{"table": "t", "checks": 7, "failed": 1}\'; exit 1', (7, 1)),
        ("kill -ILL $$", (0, 1)),  # an instruction that the processor lacks
        ("exit 0", (0, 1)),
    ],
)
def test_a_table_fails_by_a_check_or_by_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, expected: tuple[int, int]
) -> None:
    checks, failures = emulator(tmp_path, monkeypatch, body).checks("max", "t")
    assert (checks, len(failures)) == expected


def test_a_model_is_written_as_the_program_reads_it(tmp_path: Path) -> None:
    checkpoint = sequences.golden_checkpoint("qwen2", tmp_path)
    weights = load_weights(checkpoint, "int8")
    path = tmp_path / "model"
    write_model(path, weights, 50, "bf16")
    data = path.read_bytes()
    magic, *sizes, eps = struct.unpack_from("<8s8if", data)
    config = weights.config
    assert magic == b"DWMODEL1" and sizes[-2:] == [50, 1] and eps == np.float32(config.rms_norm_eps)
    arrays, at = [], struct.calcsize("<8s8if")
    while at < len(data):
        scheme, rows, cols, _ = struct.unpack_from("<4i", data, at)
        at += 16
        size = 0
        if rows:
            at += -at % 64
            panels = -(-rows // 32)
            size = rows * cols * 4 if scheme < 0 else panels * -(-cols // 64) * 2112
        arrays.append(data[at : at + size])
        at += size
    assert at == len(data) and len(arrays) == 5 + 9 * config.num_hidden_layers
    assert arrays[2] == weights.matrices["embed"].data.tobytes()
    assert arrays[3] == b""  # the head is the embedding
    assert arrays[7] == weights.vectors["0.qkv_bias"].tobytes()
    assert arrays[-1] == weights.matrices[f"{config.num_hidden_layers - 1}.down"].data.tobytes()
