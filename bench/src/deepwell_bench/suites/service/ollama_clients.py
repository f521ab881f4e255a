"""Clients that speak only ollama's API, against a server with keys and three models."""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.assets import WORKERS
from deepwell_bench.harness.environments import Environment, Install, environment_python
from deepwell_bench.harness.served import served
from deepwell_bench.suites.service.clients import checked, python_blocks, ran

__all__ = ["OLLAMA", "bench_ollama_clients"]

OLLAMA = Environment(
    name="ollama",
    variable="DEEPWELL_OLLAMA_PYTHON",
    installs=(Install(("ollama>=0.6,<1",)),),
    check="import ollama",
    download_mb=5,
    disk_mb=40,
    minutes=0.5,
)
_WORKER = WORKERS / "clients" / "clients_ollama.py"
_MODELS = ("smollm2", "qwen2.5-coder-0.5b", "minilm")


def bench_ollama_clients(report: Report) -> dict[str, Any]:
    """Runs the checks of `clients_ollama.py`, and the Python blocks of the guide to these clients.

    Raises:
        PeerError: the environment cannot be built, or the checks do not end.
    """
    python = environment_python(OLLAMA, report.console)
    key = f"key-{secrets.token_hex(16)}"

    def command(port: int) -> list[str]:
        *generators, embedder = _MODELS
        flags = ["--embedding-model", embedder, "--context", "4096", "--port", str(port)]
        return [sys.executable, "-m", "deepwell", "serve", *generators, *flags]

    with served(command, env={"DEEPWELL_API_KEYS": key}) as port:
        url = f"http://127.0.0.1:{port}"
        results = checked([str(python), str(_WORKER), url, key, *_MODELS])
        results += [
            ran(python, f"ollama-clients{language}", number, block, url, {"OLLAMA_API_KEY": key})
            for language in ("", ".zh-CN")
            for number, block in enumerate(python_blocks(f"ollama-clients{language}.md"), 1)
        ]
    rows = [
        [one["check"].replace("_", " "), one["client"], "yes" if one["passed"] else one["problem"]]
        for one in results
    ]
    report.table("Clients of ollama's API", ["check", "client", "passed"], rows)
    passed = Counter(one["client"] for one in results if one["passed"])
    return {
        "checks": len(results),
        "failed": [f"{one['client']}: {one['check']}" for one in results if not one["passed"]],
        "failures": sum(not one["passed"] for one in results),
        **dict(passed),
    }
