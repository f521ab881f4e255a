"""Other projects' clients against our server: chat, streams, tools and structured output."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from deepwell.bench.harness.assets import WORKERS, bench_cache
from deepwell.bench.harness.environments import Environment, Install, PeerError, environment_python
from deepwell.bench.harness.report import Report
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.server.build import build_context
from deepwell.server.http.listen import bind, url_of
from deepwell.server.run import Server

__all__ = ["CLIENTS", "bench_clients"]

_WORKER = WORKERS / "clients_worker.py"
_SECONDS = 480

CLIENTS = Environment(
    name="clients",
    variable="DEEPWELL_CLIENTS_PYTHON",
    installs=(
        Install(("langchain-openai>=1.1,<2", "pydantic-ai-slim[openai]>=2.30,<3", "instructor>=1.17,<2")),
    ),
    check="import langchain_openai, pydantic_ai, instructor",
    download_mb=60,
    disk_mb=260,
    minutes=1,
)


def bench_clients(report: Report, model: Path, *, threads: int) -> dict[str, Any]:
    """Runs the checks of `clients_worker.py` against a server with the real model.

    Raises:
        PeerError: the environment cannot be built, or the checks do not end.
    """
    python = environment_python(CLIENTS, report.console)
    with _server(model, threads) as url:
        try:
            done = subprocess.run(
                [str(python), str(_WORKER), f"{url}/v1", "smollm2"],
                stdout=subprocess.PIPE,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"the checks did not end within {_SECONDS} s", fix="run them again") from error
    results = [json.loads(line) for line in done.stdout.decode().splitlines() if line.startswith("{")]
    if done.returncode:
        raise PeerError(f"the checks ended with status {done.returncode}", fix="see their output above")
    report.table(
        f"Clients against {model.stem}",
        ["check", "client", "passed"],
        [
            [r["check"].replace("_", " "), r["client"], "yes" if r["passed"] else r["problem"]]
            for r in results
        ],
    )
    passed = Counter(result["client"] for result in results if result["passed"])
    return {
        "checks": len(results),
        "failed": [f"{r['client']}: {r['check']}" for r in results if not r["passed"]],
        "failures": sum(not result["passed"] for result in results),
        **dict(passed),
    }


@contextlib.contextmanager
def _server(model: Path, threads: int) -> Generator[str]:
    """Serves on a port of its own."""
    engine = open_engine(
        model,
        EngineOptions(precision="int4", threads=threads, kv_tokens=8192, cache_dir=bench_cache()),
        quiet=True,
    )
    context = build_context([ServedModel("smollm2", engine, Codec.load(model))])
    ready = threading.Event()
    listener = bind("127.0.0.1", 0)
    server = Server(context, grace_seconds=0, on_ready=ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    url = url_of(listener)
    thread.start()
    try:
        if not ready.wait(timeout=60):
            raise PeerError("the server did not start", fix="run it with `deepwell serve`")
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        engine.close()
