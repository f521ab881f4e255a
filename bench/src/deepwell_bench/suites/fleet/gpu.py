"""vLLM on a machine with a GPU, behind `deepwell serve`: tokens a second of 1, 8 and 32 streams beside the expected range."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.errors import MissingDependency
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import served_process

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["GUIDE", "STREAMS", "Load", "Setup", "Stream", "bench_gpu", "check_setup", "figures", "table"]

GUIDE: Final = (120, 380)  # tokens a second that one stream is expected to have
STREAMS: Final = (1, 8, 32)
_ROUNDS: Final = 3
_START_S: Final = 1200  # loading a large model and compiling for it takes minutes
_IMPORT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Setup:
    """Machine, model and options of a run.

    Attributes:
        gpus: GPUs that this machine shows.
        python: the interpreter of the environment that has vLLM; None: none was found.
        model: the folder of a model as safetensors; None: none was named.
        precision: `auto`, `bf16`, `fp16` or `fp32`.
        batch_size: sequences that vLLM works on at once.
        context: tokens of prompt and answer.
        tokens: length of each answer.
    """

    gpus: int
    python: Path | None
    model: Path | None
    precision: str = "auto"
    batch_size: int = 32
    context: int = 4096
    tokens: int = 256


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer: seconds from the request to its first token and to its end, and its number of tokens."""

    first_s: float
    total_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Load:
    """One round of so many streams at once, and the seconds from the first request to the end of the last answer."""

    streams: tuple[Stream, ...]
    wall_s: float


def check_setup(setup: Setup) -> tuple[Path, Path]:
    """Returns vLLM's interpreter and the model, if this machine has all that the benchmark needs.

    Raises:
        MissingDependency: there is no NVIDIA GPU, no vLLM that can be imported, or no model.
    """
    if not setup.gpus:
        raise MissingDependency(
            "this benchmark needs a machine with an NVIDIA GPU, and this one shows none (/dev/nvidia0)",
            fix="run it on a machine with a GPU, its driver, vLLM, and a model on disk; see docs/guides/remote-engines.md",
        )
    if setup.python is None or not _imports_vllm(setup.python):
        where = setup.python or "this Python, PATH"
        raise MissingDependency(
            f"this benchmark needs vLLM, which cannot be imported by {where}",
            fix="name the interpreter of its environment: --vllm-python /opt/vllm/bin/python, or DEEPWELL_VLLM_PYTHON",
        )
    if setup.model is None or not (setup.model / "config.json").is_file():
        what = f"{setup.model} has no config.json" if setup.model else "none was named"
        raise MissingDependency(
            f"this benchmark needs a model as a folder of safetensors: {what}",
            fix="name one that is on disk, DeepSeek-class: --model FOLDER, or DEEPWELL_BENCH_GPU_MODEL; nothing is fetched",
        )
    return setup.python, setup.model


def _imports_vllm(python: Path) -> bool:
    program = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, timeout=_IMPORT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def bench_gpu(report: Report, setup: Setup) -> dict[str, Any]:
    """Starts vLLM on one GPU by `deepwell serve --gpus 1`, and streams 1, 8 and 32 answers at once.

    Raises:
        MissingDependency: this machine lacks the GPU, vLLM or the model.
        PeerError: the server does not start, or an answer has no tokens.
    """
    python, folder = check_setup(setup)
    from openai import OpenAI

    def command(port: int) -> list[str]:
        serve = [sys.executable, "-m", "deepwell", "serve", str(folder), "--port", str(port), "--json"]
        how = ["--engine", "vllm", "--gpus", "1", "--precision", setup.precision]
        return [*serve, *how, "--context", str(setup.context), "--batch-size", str(setup.batch_size)]

    env = {"DEEPWELL_VLLM_PYTHON": str(python), "DEEPWELL_REQUEST_TIMEOUT_S": "600"}
    env["DEEPWELL_MAX_WAIT_S"] = "0"
    log = bench_cache() / "vllm-gpu.log"
    report.note(f"starting vLLM for {folder.name}; its log: {log}")
    loads: dict[int, list[Load]] = {}
    with served_process(command, env=env, log=log, start_s=_START_S) as (port, _):
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=600, max_retries=0)
        model = client.models.list().data[0].id
        for count in STREAMS:
            _round(client, model, count, setup.tokens, "warm")
            report.note(f"{count} streams of {setup.tokens} tokens, {_ROUNDS} rounds")
            loads[count] = [
                _round(client, model, count, setup.tokens, str(number)) for number in range(_ROUNDS)
            ]
    value = figures(loads, setup.tokens)
    report.table("One GPU machine", *table(value))
    about = {"gpu": _gpu_name(), "vllm": _version(python), "model": folder.name}
    return about | {"precision": setup.precision, "batch_size": setup.batch_size} | value


def figures(loads: Mapping[int, Sequence[Load]], tokens: int) -> dict[str, Any]:
    """Returns the figures of a run: medians of the rounds of each number of streams.

    Args:
        loads: the rounds, by number of streams.
        tokens: length that each answer was to have.
    """
    value: dict[str, Any] = {"guide": list(GUIDE), "tokens": tokens}
    for count, rounds in loads.items():
        every = [stream for load in rounds for stream in load.streams]
        whole = statistics.median(sum(one.tokens for one in load.streams) / load.wall_s for load in rounds)
        # A stream's speed is that of its tokens after the first.
        each = [(one.tokens - 1) / (one.total_s - one.first_s) for one in every]
        value[f"tokens_per_second_{count}"] = rounded(whole)
        value[f"stream_tokens_per_second_{count}"] = rounded(statistics.median(each))
        value[f"first_token_p50_ms_{count}"] = rounded(1000 * percentile([one.first_s for one in every], 0.5))
    answers = [one for rounds in loads.values() for load in rounds for one in load.streams]
    value["short_answers"] = sum(one.tokens != tokens for one in answers)
    return value


def table(value: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Returns the columns and rows of the printed table: one row for each number of streams."""
    low, high = value["guide"]
    columns = [
        "streams",
        "tokens/s, all",
        "tokens/s, one stream",
        "first token p50, ms",
        "expected, tokens/s",
    ]
    names = ("tokens_per_second", "stream_tokens_per_second", "first_token_p50_ms")
    rows = [[str(n), *(value[f"{name}_{n}"] for name in names), f"{low} to {high}"] for n in STREAMS]
    return columns, rows


def _round(client: OpenAI, model: str, count: int, tokens: int, name: str) -> Load:
    """Streams so many answers at once. No prompt begins like another, so that none comes from the prefix cache."""
    gate = threading.Barrier(count + 1)

    def ask(number: int) -> Stream:
        gate.wait()
        text = f"{name}-{count}-{number}: tell the history of the bridge with this number, in detail."
        return _stream(client, model, text, tokens)

    with ThreadPoolExecutor(count) as pool:
        waiting = [pool.submit(ask, number) for number in range(count)]
        gate.wait()
        began = time.perf_counter()
        streams = tuple(one.result() for one in waiting)
        return Load(streams, time.perf_counter() - began)


def _stream(client: OpenAI, model: str, text: str, tokens: int) -> Stream:
    began = time.perf_counter()
    first: float | None = None
    counted = 0
    for chunk in client.completions.create(
        model=model,
        prompt=text,
        max_tokens=tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    ):
        if first is None and chunk.choices and chunk.choices[0].text:
            first = time.perf_counter() - began
        if chunk.usage is not None:
            counted = chunk.usage.completion_tokens
    if first is None or counted < 2:
        raise PeerError(f"an answer has {counted} tokens, of {tokens}")
    return Stream(first, time.perf_counter() - began, counted)


def _gpu_name() -> str:
    names = [
        line.partition(":")[2].strip()
        for one in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in one.read_text(encoding="utf-8").splitlines()
        if line.startswith("Model:")
    ]
    return names[0] if names else "unknown"


def _version(python: Path) -> str:
    """Returns vLLM's version, from the record of its installation."""
    program = "import importlib.metadata, json; print(json.dumps(importlib.metadata.version('vllm')))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return str(json.loads(done.stdout)) if not done.returncode else "unknown"
