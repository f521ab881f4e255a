"""vLLM behind Deepwell: conformance with a running server, and one client program against both engines."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.environments import PeerError, environment_python
from deepwell_bench.harness.junit import run_pytest
from deepwell_bench.harness.served import served_process
from deepwell_bench.peers.engines import ENGINES, model_for, variables_of
from deepwell_bench.workloads.client_tour import QUESTIONS, greedy_answers, take_client_tour

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["bench_vllm"]

_CONTEXT = 1024
_TOKENS = 24  # of each answer that is compared
_START_S = 900  # vLLM imports for a minute on two busy cores
_RANK = 8


@dataclass(frozen=True, slots=True)
class _Side:
    """A running server, and what its ready line said."""

    client: OpenAI
    model: str
    facts: dict[str, Any]
    start_s: float


def bench_vllm(report: Report, donor: Path) -> dict[str, Any]:
    """Starts vLLM by `deepwell serve --engine vllm`, runs the conformance suite and the client tour, and compares answers.

    Raises:
        PeerError: the environment cannot be built, or a server does not start.
    """
    engine = ENGINES["vllm"]
    python = environment_python(engine.environment, report.console)
    folder = model_for(engine.variants["fp32, eager"], donor, report.console, threads=2)
    key = secrets.token_urlsafe(24)
    with _serving(folder, python, key=key) as vllm:
        began = time.monotonic()
        suite = run_pytest(
            ["tests/engine/remote/test_vllm.py", "-n", "0"],
            {
                "DEEPWELL_BENCH_VLLM_URL": vllm.facts["engine"],
                "DEEPWELL_BENCH_VLLM_KEY": key,
                "DEEPWELL_BENCH_VLLM_MODEL": str(folder),
            },
        )
        suite_s = time.monotonic() - began
        there = take_client_tour(vllm.client, vllm.model)
        answers_there = greedy_answers(vllm.client, vllm.model, _TOKENS)
        cached = _cached_tokens(vllm)
    with _serving(folder, None) as own:
        here = take_client_tour(own.client, own.model)
        answers_here = greedy_answers(own.client, own.model, _TOKENS)
    counts = suite.counts()
    if counts["failed"] or not counts["passed"]:
        report.console.print(suite.last_lines(40), markup=False)
    adapters = _adapters(folder, python)
    report.table(
        "The same client program",
        ["check", "Deepwell's engine", "vLLM behind Deepwell"],
        [[name, here[name] or "passed", there[name] or "passed"] for name in here],
    )
    same = [_same(a, b) for a, b in zip(answers_here, answers_there, strict=True)]
    rows = zip(QUESTIONS, answers_here, answers_there, same, strict=True)
    report.table(
        "Greedy answers",
        ["question", "Deepwell's engine (fp32)", "vLLM (fp32)", "same tokens"],
        [[text, "".join(a)[:60], "".join(b)[:60], f"{n} of {len(a)}"] for text, a, b, n in rows],
    )
    lacks = list(vllm.facts.get("lacks", ()))
    works = {"prefix cache": cached > 0, "score": "score" not in lacks, "embed": "embed" not in lacks}
    works |= {"adapters": not adapters}
    report.table(
        "Parts of the protocol",
        ["part", "vLLM"],
        [[name, "works" if ok else "is refused"] for name, ok in works.items()],
    )
    return {
        "vllm": engine.environment.installs[-1].arguments[0],
        "conformance_passed": counts["passed"],
        "conformance_failed": counts["failed"] + counts["skipped"] + (not counts["passed"]),
        "conformance_seconds": round(suite_s),
        "checks": len(here),
        "failures_own": sum(map(bool, here.values())),
        "failures_vllm": sum(map(bool, there.values())),
        "same_tokens": round(sum(same) / sum(map(len, answers_here)), 3),
        "lacks": lacks,
        "works": [name for name, ok in works.items() if ok],
        "adapters": adapters or "works",
        "cached_tokens": cached,
        "start_seconds": round(vllm.start_s),
    }


@contextlib.contextmanager
def _serving(
    folder: Path, python: Path | None, *, key: str = "", options: Sequence[str] = ()
) -> Generator[_Side]:
    """Serves a model by vLLM, whose environment has this interpreter, or by Deepwell's own engine."""
    from openai import OpenAI

    def command(port: int) -> list[str]:
        serve = [sys.executable, "-m", "deepwell", "serve", str(folder), "--port", str(port), "--json"]
        how = ["--engine", "vllm"] if python else []
        return [*serve, "--precision", "fp32", "--context", str(_CONTEXT), *how, *options]

    env = {"DEEPWELL_REQUEST_TIMEOUT_S": "600", "DEEPWELL_MAX_WAIT_S": "0"}
    if python:
        # One thread: two that wait for each other at every layer stand still where something else runs.
        env |= variables_of(ENGINES["vllm"], python, 1)
        for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL", "LD_PRELOAD"):
            env.pop(name, None)
        env["DEEPWELL_VLLM_PYTHON"] = str(python)
        env["DEEPWELL_VLLM_OPTIONS"] = "--enforce-eager --block-size 32"
    if key:
        env["DEEPWELL_ENGINE_KEY"] = key
    began = time.monotonic()
    log = bench_cache() / ("vllm-behind.log" if python else "vllm-beside.log")
    with served_process(command, env=env, log=log, start_s=_START_S) as (port, _):
        start_s = time.monotonic() - began
        lines = log.read_text(errors="replace").splitlines()
        ready = next((one for one in lines if one.startswith('{"event": "ready"')), "")
        if not ready:
            raise PeerError("the server printed no ready line")
        facts = json.loads(ready)
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=600, max_retries=0)
        yield _Side(client, facts["model"], facts, start_s)


def _cached_tokens(side: _Side) -> int:
    """Returns how many tokens of a repeated prompt came from the prefix cache."""
    prompt = "The quick brown fox jumps over the lazy dog. " * 20
    usage: Any = None
    for _ in range(2):
        usage = side.client.completions.create(model=side.model, prompt=prompt, max_tokens=1).usage
    return int(usage.prompt_tokens_details.cached_tokens or 0)


def _adapters(folder: Path, python: Path) -> str:
    """Serves an adapter on both engines. Returns why they do not agree; empty: both answer alike, and other than the base."""
    with tempfile.TemporaryDirectory() as place:
        adapter = _write_adapter(folder, Path(place) / "noise")
        options = ["--adapter", f"noise={adapter}"]
        found: list[tuple[list[list[str]], list[list[str]]]] = []
        try:
            for interpreter in (None, python):
                with _serving(folder, interpreter, options=options) as side:
                    names = (side.model, "noise")
                    base, tuned = (greedy_answers(side.client, name, 8) for name in names)
                    found.append((base, tuned))
        except Exception as error:  # it is printed: the row's bars are about the rest
            return f"{type(error).__name__}: {error}"[:300]
    (own_base, own), (_, there) = found
    if own == own_base:
        return "the adapter changes nothing"
    same = sum(map(_same, own, there)) / sum(map(len, own))
    return "" if same >= 0.9 else f"{same:.0%} of the tokens are the same"


def _write_adapter(folder: Path, target: Path) -> Path:
    """Writes a LoRA adapter of noise for all query projections."""
    from safetensors.numpy import save_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    hidden = config["hidden_size"]
    rng = np.random.default_rng(5)
    tensors: dict[str, Any] = {}
    for layer in range(config["num_hidden_layers"]):
        place = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{place}.lora_A.weight"] = rng.normal(0, 0.05, (_RANK, hidden)).astype(np.float32)
        tensors[f"{place}.lora_B.weight"] = rng.normal(0, 0.05, (hidden, _RANK)).astype(np.float32)
    target.mkdir()
    save_file(tensors, target / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": _RANK, "lora_alpha": 2 * _RANK}
    about |= {"target_modules": ["q_proj"], "bias": "none", "base_model_name_or_path": str(folder)}
    (target / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    return target


def _same(a: Sequence[str], b: Sequence[str]) -> int:
    """Returns how many tokens two answers have in common before they part."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
