"""The time that `deepwell serve` of a packed model takes until it is ready, and until its first token."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import DeepwellError

__all__ = ["bench_start"]

WORKER_STARTS = 3  # of the server with two HTTP processes, whose time has no bar
TIMEOUT_S = 120.0
QUESTION = "Why is the sky blue?"


@contextlib.contextmanager
def _environment() -> Generator[dict[str, str]]:
    """Yields the environment of the servers: an empty database of their own, and compiled modules as an installed package has.

    A checkout has no compiled modules where PYTHONDONTWRITEBYTECODE is set: pip compiles those of a wheel.
    """
    with tempfile.TemporaryDirectory(prefix="deepwell-start-") as folder:
        own = {"XDG_DATA_HOME": f"{folder}/data", "XDG_STATE_HOME": f"{folder}/state"}
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("DEEPWELL_")
        }
        yield inherited | own


def _first_token(url: str, model: str) -> None:
    """Asks a question and waits for the first piece of its answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=TIMEOUT_S)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 8,
        "temperature": 0,
        "stream": True,
    }
    with contextlib.closing(connection):
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        while line := answer.readline():
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:]).get("choices")
                if choices and choices[0]["delta"].get("content"):
                    return
    raise DeepwellError(f"the server answered {answer.status} and no token")


def _start(model: Path, environment: dict[str, str], *flags: str) -> tuple[float, float]:
    """Returns the seconds from the start of a server's process to the line that says it is ready, and to its first token."""
    command = [sys.executable, "-m", "deepwell", "serve", str(model), "--port", "0", "--json", *flags]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            ready_s = time.perf_counter() - start
            said = json.loads(line) if line else {}
            if said.get("event") != "ready":
                raise DeepwellError(f"deepwell serve was not ready: it said {line.decode()[:400]!r}")
            _first_token(said["url"], said["model"])
            return ready_s, time.perf_counter() - start
        finally:
            process.send_signal(signal.SIGINT)


def _run(environment: dict[str, str], *arguments: str) -> float:
    """Returns the seconds that a short command takes."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "deepwell", *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    return time.perf_counter() - start


def _median(seconds: Sequence[float]) -> float:
    return rounded(statistics.median(seconds), 3)


def bench_start(report: Report, model: Path, *, starts: int = 15) -> dict[str, Any]:
    """Measures starts of real server processes, from exec to the line that says `ready` and to the first token.

    A first start, which is not counted, packs the weights, makes the database, and fills the page cache.
    """
    with _environment() as environment:
        for _ in range(2):
            _start(model, environment)
        seconds = [_start(model, environment) for _ in range(starts)]
        workers = [_start(model, environment, "--workers", "2") for _ in range(WORKER_STARTS)]
        version = [_run(environment, "--version") for _ in range(starts)]
        text = [_run(environment, "--help") for _ in range(starts)]
    ready = [one for one, _ in seconds]
    value: dict[str, Any] = {
        "starts": starts,
        "ready_s": _median(ready),
        "fastest_s": rounded(min(ready), 3),
        "slowest_s": rounded(max(ready), 3),
        "first_token_s": _median([token for _, token in seconds]),
        "two_workers_ready_s": _median([one for one, _ in workers]),
        "two_workers_first_token_s": _median([token for _, token in workers]),
        "version_s": _median(version),
        "help_s": _median(text),
    }
    report.table("Start", ["figure", "value"], [[key, figure] for key, figure in value.items()])
    return value
