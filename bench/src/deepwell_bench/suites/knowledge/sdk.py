"""Vector stores and `file_search` through the official SDK, against a server with a real model and embedder."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.served import served
from deepwell_bench.suites.knowledge.sdk_checks import METHODS, Checked, take_knowledge_tour

__all__ = ["MODEL", "bench_knowledge_sdk"]

MODEL = "qwen2.5-coder-0.5b"


def bench_knowledge_sdk(report: Report) -> dict[str, Any]:
    """Makes the checks of `sdk_checks`. One that fails does not end the others."""
    importlib.import_module("openai")  # before a server is started for nothing

    def command(port: int) -> list[str]:
        flags = ["--context", "4096", "--port", str(port)]
        return [sys.executable, "-m", "deepwell", "serve", MODEL, *flags]

    with served(command) as port:
        url = f"http://127.0.0.1:{port}"
        checks, calls = take_knowledge_tour(url, MODEL)
        checks.append(Checked("openai", "the_guide", _guide(url)))
    rows = [[one.check.replace("_", " "), one.client, one.problem or "yes"] for one in checks]
    report.table("Vector stores and file_search through the SDK", ["check", "client", "passed"], rows)
    return {
        "checks": len(checks),
        "passed": sum(not one.problem for one in checks),
        "failures": sum(bool(one.problem) for one in checks),
        "failed": [f"{one.client}: {one.check}" for one in checks if one.problem],
        "methods": sum(map(len, METHODS.values())),
        "calls": calls,
    }


def _guide(url: str) -> str:
    """Runs the program of the guide. Returns what is wrong with what it prints; empty if nothing."""
    text = (repository() / "docs" / "guides" / "vector-stores.md").read_text(encoding="utf-8")
    program, expected = (
        "".join(re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)) for kind in ("python", "text")
    )
    code = program.replace("http://127.0.0.1:8000", url)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        return done.stderr.strip()[-300:]
    return "" if done.stdout == expected else f"it prints {done.stdout!r}"
