"""The kernel tables of ARM, cross-compiled and run under an emulator: their C++ tests, and a real model's greedy tokens.

Emulated throughout: it shows that the tables compute what they should, and are chosen by what the processor can do. It shows
nothing of speed.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.architectures import build_model
from deepwell.engine.backends import native
from deepwell.engine.backends.backend import Model
from deepwell.engine.backends.rope import rope_tables
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import KVDtype, Precision, Scheme
from deepwell.engine.weights.load import load_weights
from deepwell.engine.weights.packed import PackedMatrix, Weights
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError

__all__ = ["CPUS", "Program", "Smoke", "bench_arm", "require_tools", "write_model"]

COMPILER: Final = "aarch64-linux-gnu-g++"
EMULATOR: Final = "qemu-aarch64"
_PACKAGES: Final = {
    "cmake": "cmake",
    "ninja": "ninja-build",
    COMPILER: "g++-aarch64-linux-gnu",
    EMULATOR: "qemu-user",
}

CPUS: Final = {"max": "neon_i8mm", "cortex-a76": "neon_dotprod", "cortex-a72": "generic"}
"""Processors that are emulated, by what they can do: SMMLA, SDOT alone, neither. Each with the table that it must choose.

A table is tested on the least of them, where an instruction of a better one is illegal.
"""

_PROMPTS: Final = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "Water boils at a lower temperature on a mountain because",
)
# Pages of each precision. With float16 nothing is rounded on the way, so tables part at true ties alone. One prompt and few
# tokens, for emulated multiply-adds of floats take many times as long as those of integers.
_PRECISIONS: Final[dict[Precision, KVDtype]] = {"int8": "bf16", "int4": "bf16", "fp16": "fp32"}
_FLOAT_TOKENS: Final = 8
# In the order of `Scheme` and `KvType` in csrc/common.h; -1 stands for an array of floats.
_SCHEMES: Final[tuple[Scheme, ...]] = ("fp32", "int8", "int4", "bf16", "fp16")
_PAGES: Final[tuple[KVDtype, ...]] = ("fp32", "bf16", "int8")
_ALIGNMENT: Final = 64


def require_tools() -> None:
    """Checks that the cross-compiler and the emulator are installed.

    Raises:
        PeerError: something is missing; names the packages of Debian and Ubuntu that bring it.
    """
    if missing := [tool for tool in _PACKAGES if not shutil.which(tool)]:
        packages = " ".join(_PACKAGES[tool] for tool in missing)
        raise PeerError(f"{', '.join(missing)} not found", fix=f"apt-get install -y {packages}")


@dataclass(frozen=True, slots=True)
class Program:
    """The tests of the kernels as a static program for AArch64."""

    path: Path

    def tables(self, cpu: str) -> list[str]:
        """Returns the kernel tables that an emulated processor can run, best first."""
        return self._run(cpu).split()

    def checks(self, cpu: str, table: str) -> tuple[int, list[str]]:
        """Tests a table; returns the number of checks and the lines that failed."""
        lines = self._run(cpu, table, fails=True).splitlines()
        last = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {"checks": 0, "failed": 1}
        failed = lines[:-1] if last["checks"] else lines[-5:] or ["no output"]
        return last["checks"], failed if last["failed"] else []

    def greedy(self, cpu: str, table: str, model: Path, prompt: Sequence[int], count: int) -> list[int]:
        """Returns the tokens that a model of `write_model` chooses."""
        return json.loads(self._run(cpu, table, str(model), str(count), *map(str, prompt)))["tokens"]

    def _run(self, cpu: str, *arguments: str, fails: bool = False) -> str:
        return _output([EMULATOR, "-cpu", cpu, str(self.path), *arguments], fails=fails)


def bench_arm(report: Report, model: Path, *, threads: int, tokens: int) -> dict[str, Any]:
    """Cross-compiles the tables of ARM, tests them, and compares a model's greedy tokens with those of this machine.

    Args:
        model: file of a Llama or Qwen2 model.
        threads: compilers that run side by side.
        tokens: number of tokens of each answer.

    Raises:
        PeerError: the cross-compiler or the emulator is missing, or the program does not build.
    """
    require_tools()
    start = time.monotonic()
    emulator, compiler = (_output([tool, "--version"]).splitlines()[0] for tool in (EMULATOR, COMPILER))
    report.note(f"{compiler}; {emulator}. Everything below is emulated: it says nothing of speed.")
    rows: list[list[Any]] = []
    checks, failed, different, compared = 0, 0, 0, 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="deepwell-arm-") as folder:
        report.note("cross-compiling the kernel tables, some minutes")
        program = _build(Path(folder), threads)
        build_seconds = time.monotonic() - start
        for cpu, table in CPUS.items():
            if (found := program.tables(cpu))[0] != table:
                wrong.append(f"{cpu}: {found[0]}")
            count, failures = program.checks(cpu, table)
            for line in failures:
                report.note(line)
            rows.append([table, cpu, count, len(failures)])
            checks, failed = checks + count, failed + len(failures)
        report.table("Tests of the kernels", ["table", "emulated processor", "checks", "failed"], rows)
        rows = []
        for smoke in _smokes(model, Path(folder), tokens):
            for cpu, table in CPUS.items():
                expected = smoke.expected(table)
                chosen = program.greedy(cpu, table, smoke.model, smoke.prompt, len(expected))
                differ = sum(a != b for a, b in zip(chosen, expected, strict=True))
                rows.append([smoke.name, table, len(expected), differ])
                compared, different = compared + len(expected), different + differ
        report.table("Greedy tokens", ["prompt", "table", "tokens", "different"], rows)
    return {
        "failed": failed,
        "different_tokens": different,
        "wrong_table": wrong,
        "minutes": rounded((time.monotonic() - start) / 60, 3),
        "emulated": emulator,
        "checks": checks,
        "tokens": compared,
        "tables": list(CPUS.values()),
        "host_table": native.isa(),
        "build_seconds": rounded(build_seconds, 3),
    }


def _build(folder: Path, threads: int) -> Program:
    _output(
        [
            *(
                "cmake",
                "-G",
                "Ninja",
                "-S",
                str(repository()),
                "-B",
                str(folder),
                "-DDEEPWELL_KERNEL_TESTS=ON",
            ),
            *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"),
            *(f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DCMAKE_EXE_LINKER_FLAGS=-static"),
        ]
    )
    _output(["cmake", "--build", str(folder), "-j", str(threads)])
    return Program(folder / "kernel_tests")


@dataclass(frozen=True, slots=True)
class Smoke:
    """A prompt, and the tokens by which each kernel table of this machine continues it, best table first."""

    name: str
    model: Path
    prompt: list[int]
    tokens: dict[str, list[int]]

    def expected(self, table: str) -> list[int]:
        """Returns the tokens that a table of ARM must choose.

        The generic table has the same bits on every machine. Others round their sums otherwise, so they are held to the tokens
        on which the tables of this machine agree: behind a near tie on which those part, none is right.
        """
        if table == "generic":
            return self.tokens[table]
        best, *others = self.tokens.values()
        agreed = takewhile(lambda place: len(set(place)) == 1, zip(best, *others, strict=True))
        return [place[0] for place in agreed]


def _smokes(path: Path, folder: Path, count: int) -> Iterator[Smoke]:
    """Yields every precision and prompt, with its model written into `folder`."""
    checkpoint = open_checkpoint(path)
    tokenizer = Tokenizer.load(path)
    prompts = [tokenizer.encode(text) for text in _PROMPTS]
    positions = max(map(len, prompts)) + count
    file = folder / "model"
    for precision, pages in _PRECISIONS.items():
        weights = load_weights(checkpoint, precision)
        write_model(file, weights, positions, pages)
        floats = precision == "fp16"
        for number, prompt in enumerate(prompts[:1] if floats else prompts, 1):
            tokens = _greedy(weights, prompt, min(count, _FLOAT_TOKENS) if floats else count, pages)
            yield Smoke(f"{number}, {precision} with {pages} pages", file, prompt, tokens)


def _greedy(weights: Weights, prompt: Sequence[int], count: int, pages: KVDtype) -> dict[str, list[int]]:
    """Returns the tokens that the kernel tables of this machine choose."""
    model = build_model(native, weights, weights.config, len(prompt) + count)
    before, chosen = native.isa(), dict[str, list[int]]()
    try:
        for table in native.available_isas():
            if "emulated" not in table:
                native.set_isa(table)
                chosen[table] = _continued(model, weights.config, prompt, count, pages)
    finally:
        native.set_isa(before)
    return chosen


def _continued(
    model: Model, config: ModelConfig, prompt: Sequence[int], count: int, pages: KVDtype
) -> list[int]:
    blocks = -(-(len(prompt) + count) // BLOCK_TOKENS)
    cache = native.kv_cache(
        config.attention_layers, blocks, config.num_key_value_heads, config.head_dim, pages
    )
    table = np.arange(blocks, dtype=np.int32)[None]
    best = np.empty(1, np.int32)
    chosen: list[int] = []
    step, first = list(prompt), 0
    while len(chosen) < count:
        rows = len(step)
        batch = Batch(
            np.asarray(step, np.int32),
            np.arange(first, first + rows, dtype=np.int32),
            np.array([0, rows], np.int32),
            table,
            np.array([rows - 1], np.int32),
        )
        model.forward(batch, cache, argmax=best)
        step, first = [int(best[0])], first + rows
        chosen += step
    return chosen


def write_model(path: Path, weights: Weights, positions: int, pages: KVDtype) -> None:
    """Writes a model for sequences of up to `positions` tokens, as csrc/tests/greedy.cpp reads it.

    Raises:
        PeerError: the model is no plain Llama or Qwen2.
    """
    config = weights.config
    layers = config.num_hidden_layers
    if (
        config.is_latent
        or config.is_encoder
        or config.attention_layers != layers
        or "0.gate_up" not in weights.matrices
    ):
        raise PeerError(f"{config.architecture} is no plain Llama", fix="take smollm2 or qwen2.5-coder-0.5b")
    cos, sin = rope_tables(config, positions)
    arrays: list[PackedMatrix | NDArray[np.float32] | None] = [cos, sin]
    arrays += [weights.matrices["embed"], weights.matrices.get("head"), weights.vectors["norm"]]
    for i in range(layers):
        arrays += [weights.vectors[f"{i}.attention_norm"], weights.matrices[f"{i}.qkv"]]
        arrays += [weights.vectors.get(f"{i}.{name}") for name in ("qkv_bias", "q_norm", "k_norm")]
        arrays += [weights.matrices[f"{i}.o"], weights.vectors[f"{i}.mlp_norm"]]
        arrays += [weights.matrices[f"{i}.gate_up"], weights.matrices[f"{i}.down"]]
    shape = (
        config.hidden_size,
        layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    with path.open("wb") as file:
        sizes = (*shape, config.vocab_size, positions, _PAGES.index(pages))
        file.write(struct.pack("<8s8if", b"DWMODEL1", *sizes, config.rms_norm_eps))
        for array in arrays:
            if array is None:
                file.write(struct.pack("<4i", -1, 0, 0, 0))
                continue
            if isinstance(array, PackedMatrix):
                head, data = (_SCHEMES.index(array.scheme), array.rows, array.cols, 0), array.data
            else:
                head, data = (-1, 1, math.prod(array.shape), 0), array
            file.write(struct.pack("<4i", *head))
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            file.write(data.tobytes())


def _output(command: Sequence[str], *, fails: bool = False) -> str:
    """Runs a command; `fails`: it may end with another status than 0."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode and not fails:
        raise PeerError(f"`{' '.join(command)}` fails: {(done.stdout + done.stderr).strip()[-800:]}")
    return done.stdout if done.returncode >= 0 else f"{done.stdout}ended by signal {-done.returncode}"
