"""Ray Serve before the server: the first token through it and without it, and replicas that follow the load."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.suites.fleet.ray.nodes import surroundings, two_nodes

__all__ = ["bench_fleet_ray_serve"]

_ROUNDS = 40
_WARM = 4
_CLIENTS = 24
_START_S = 120
_GROW_S = 90


def bench_fleet_ray_serve(report: Report) -> dict[str, Any]:
    """Measures the first token through Ray Serve against the server alone, and the replicas under load, on two nodes.

    Raises:
        MissingDependency: Ray is not installed.
        PeerError: a server does not start.
    """
    with (
        tempfile.TemporaryDirectory(prefix="deepwell-ray-") as name,
        two_nodes(Path(name), niceness=0) as nodes,
    ):
        return _measured(report, nodes.environment, Path(name))


def _measured(report: Report, environment: Mapping[str, str | None], folder: Path) -> dict[str, Any]:
    """Returns the time to the first token in turns, through Ray Serve and without it, and the replicas under load.

    Raises:
        PeerError: a server does not start.
    """
    arguments = ["ray", "serve", "smollm2", "--max-replicas", "2", "--target-requests", "4", "--upscale", "1"]
    direct = ["serve", "smollm2", "--threads", "1"]
    with (
        _running(arguments, environment, folder) as far,
        _running(direct, {"DEEPWELL_DATA_DIR": str(folder / "alone")}, folder) as near,
    ):
        clients = {"ray": far, "direct": near}
        first: dict[str, list[float]] = {name: [] for name in clients}
        failed = 0
        for number in range(_ROUNDS):
            for name, url in clients.items():
                took = _first_ms(url, f"Count to {number}.")
                failed += took is None
                if number >= _WARM and took is not None:
                    first[name].append(took)
        replicas, more = _under_load(far, environment)
    if not all(first.values()):
        raise PeerError("no request was answered", fix=f"ask {far} for an answer by hand")
    over = median(first["ray"]) - median(first["direct"])
    rows = [[name, f"{median(times):.1f}"] for name, times in first.items()]
    report.table(f"First token, p50 of {_ROUNDS - _WARM} requests in turns", ["by", "ms"], rows)
    return {
        "serve_first_ms": rounded(median(first["ray"])),
        "serve_first_over_ms": rounded(over),
        "serve_failed": failed + more,
        "serve_replicas": replicas,
    }


def _first_ms(url: str, question: str) -> float | None:
    """Returns the time to the first piece of text of a streamed answer; None: there was none."""
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 8,
        "stream": True,
    }
    begin = time.perf_counter()
    found = None
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False) as answer:
        for line in answer.iter_lines():
            if found is None and line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    found = 1e3 * (time.perf_counter() - begin)
    return found


def _under_load(url: str, environment: Mapping[str, str | None]) -> tuple[int, int]:
    """Asks without a pause until a second replica runs; returns the replicas and the failed requests."""
    ended = threading.Event()

    def ask(client: int) -> int:
        failed, number = 0, 0
        while not ended.is_set():
            failed += _first_ms(url, f"Client {client} asks question {number}.") is None
            number += 1
        return failed

    with ThreadPoolExecutor(_CLIENTS) as pool:
        asking = [pool.submit(ask, client) for client in range(_CLIENTS)]
        until = time.monotonic() + _GROW_S
        replicas = 0
        while replicas < 2 and time.monotonic() < until:
            replicas = _replicas(environment)
        ended.set()
        return replicas, sum(one.result() for one in asking)


def _replicas(environment: Mapping[str, str | None]) -> int:
    command = [sys.executable, "-m", "deepwell", "ray", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings(environment))
    if done.returncode:
        raise PeerError(f"deepwell ray status failed: {done.stderr[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])["replicas"].get("RUNNING", 0)


@contextmanager
def _running(arguments: list[str], environment: Mapping[str, str | None], folder: Path) -> Iterator[str]:
    """Runs a server until the end of the block, and yields its address."""
    port = free_port()
    log = folder / f"{arguments[0]}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "deepwell", *arguments, "--port", str(port), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env=surroundings(environment),
        )
    timer = threading.Timer(_START_S, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{") and json.loads(line).get("event") == "ready":
                break
        else:
            raise PeerError(
                f"deepwell {arguments[0]} did not start: {log.read_text(errors='replace')[-500:]}"
            )
        timer.cancel()
        yield f"http://127.0.0.1:{port}"
    finally:
        timer.cancel()
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
