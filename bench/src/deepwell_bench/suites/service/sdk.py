"""Every method of the served families through the official SDKs."""

from __future__ import annotations

import importlib
import json
import urllib.request
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.served import serve_command, served
from deepwell_bench.workloads.tour import take_tour

__all__ = ["bench_sdk"]

SDKS = ("openai", "anthropic")


def bench_sdk(report: Report, model: Path) -> dict[str, Any]:
    """Takes the tour of a server; an SDK that refuses an answer ends it with that SDK's error."""
    for name in SDKS:  # before a server is started for nothing
        importlib.import_module(name)
    with served(serve_command(model)) as port:
        done = take_tour(f"http://127.0.0.1:{port}", _served_name(port))
    rows = [[client, len(calls), len(set(calls))] for client, calls in done.items()]
    report.table(f"Official SDKs against {model.stem}", ["client", "calls", "methods and forms"], rows)
    return {"failures": 0, "calls": sum(map(len, done.values())), "clients": len(done)}


def _served_name(port: int) -> str:
    """Returns the server's name for its model."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as answer:
        return json.load(answer)["data"][0]["id"]
