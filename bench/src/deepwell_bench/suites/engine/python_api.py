"""The Python API: batches beside the bare engine, the import in fresh interpreters, and the tests of examples and ends."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours, Run
from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.layouts import Precision
from deepwell.llm import LLM
from deepwell_bench.harness.comparison import compare
from deepwell_bench.harness.junit import run_pytest
from deepwell_bench.workloads.text import prompts

__all__ = ["bench_python_api"]

_INTERPRETERS = 21
_TESTS = {"examples": "tests/llm/test_guide.py", "ends": "tests/llm/test_life.py"}
_TIMED = "import time; start = time.perf_counter(); import deepwell; print(time.perf_counter() - start)"


def bench_python_api(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    sequences: int = 64,
    rounds: int = 5,
    prompt_tokens: int = 128,
    tokens: int = 64,
) -> dict[str, Any]:
    """Measures `LLM.generate` over texts against the engine's side of `bench batch` over the same prompts in tokens.

    Both are timed from the call to its return: prefill and decoding, for `LLM` also tokenising and text.
    """
    value: dict[str, Any] = {"sequences": sequences, "precision": precision}
    value |= _speed(report, model, precision, threads, sequences, rounds, prompt_tokens, tokens)
    value |= _imports()
    for name, path in _TESTS.items():
        done = run_pytest([path], {"CI": "true"})
        counts = done.counts()
        if done.status:
            report.note(done.last_lines(40))
        value[name] = counts["passed"]
        value[f"{name}_not_passed"] = counts["failed"] + counts["skipped"]
    report.note(
        f"import {value['import_ms']} ms in an interpreter of {value['interpreter_ms']} ms; "
        f"{value['examples']} tests of examples and {value['ends']} of ends passed"
    )
    return value


def _speed(
    report: Report,
    model: Path,
    precision: Precision,
    threads: int,
    sequences: int,
    rounds: int,
    prompt_tokens: int,
    tokens: int,
) -> dict[str, Any]:
    kv_tokens = (sequences + 2) * (prompt_tokens + tokens + 16)
    ours = Ours(model, precision, threads=threads, kv_tokens=kv_tokens)
    options: dict[str, Any] = {"precision": precision, "threads": threads, "kv_tokens": kv_tokens}
    with LLM(model, speculation="off", **options) as llm:
        arguments: dict[str, Any] = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}

        def texts(number: int) -> list[str]:
            # Each side has prompts of its own rounds, so that no prefix is cached.
            return [llm.detokenize(ids) for ids in prompts(model, prompt_tokens, number, sequences)]

        def engine(number: int) -> Run:
            ids = [llm.tokenize(text) for text in texts(number)]
            start = time.perf_counter()
            run = ours.generate(ids, tokens)
            return Run(time.perf_counter() - start, sequences * tokens, run.outputs)

        def generate(number: int) -> Run:
            given = texts(number)
            start = time.perf_counter()
            answers = llm.generate(given, **arguments)
            seconds = time.perf_counter() - start
            return Run(seconds, sequences * tokens, tuple(answer.tokens for answer in answers))

        same = engine(rounds + 1).outputs == generate(rounds + 1).outputs
        sides = {"engine": engine, "LLM.generate": generate}
        result = compare(sides, rounds)
    ours.close()
    report.table(
        f"{sequences} prompts of {prompt_tokens} tokens, {tokens} generated each",
        ["side", "tokens/s", "spread"],
        [(name, rounded(result.median(name)), _spread(result.spread(name))) for name in sides],
    )
    return {
        "same_tokens": same,
        "tokens_per_s": rounded(result.median("LLM.generate")),
        "engine_tokens_per_s": rounded(result.median("engine")),
        "ratio": rounded(result.ratio("LLM.generate", "engine"), 3),
    }


def _imports() -> dict[str, Any]:
    """Returns the median milliseconds of the import, and those of a whole interpreter that does nothing else."""
    imports: list[float] = []
    wholes: list[float] = []
    for _ in range(_INTERPRETERS):
        said = subprocess.run([sys.executable, "-c", _TIMED], capture_output=True, text=True, check=True)
        imports.append(float(said.stdout))
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import deepwell"], check=True)
        wholes.append(time.perf_counter() - start)
    return {
        "import_ms": rounded(1000 * statistics.median(imports), 3),
        "interpreter_ms": rounded(1000 * statistics.median(wholes), 3),
    }


def _spread(ends: tuple[float, float]) -> str:
    return f"{ends[0]:,.0f} to {ends[1]:,.0f}"
