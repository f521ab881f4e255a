"""The time of a kept answer over HTTP, by `wrk` with keep-alive, and whether tenants ever meet in a cache."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served

__all__ = ["bench_exact_cache"]

KEY = "bench-key-of-32-characters-00001"
TOKENS = 100
_SCRIPT = """
wrk.method = "POST"
wrk.body = io.open("{body}"):read("*a")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FIGURES %.3f %.3f %d %d %d\\n", latency:percentile(50), latency:percentile(99),
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def bench_exact_cache(
    report: Report, model: Path, *, seconds: float = 5.0, rounds: int = 3
) -> dict[str, Any]:
    """Measures p50 and p99 of hits in milliseconds, at 1 and at 16 connections; medians of the rounds.

    The server is `deepwell serve` with a key, limits and its access log; the answer is about 100 tokens of real text. Every
    response that `wrk` counts must have been a hit, by the server's own count. `crossings` are failures of the two-tenant test
    over every route.

    Raises:
        PeerError: `wrk` is missing, or the server did not answer.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise PeerError("wrk is not installed", fix="apt install wrk")
    question = "Why is the sky blue? Explain it step by step."
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "DEEPWELL_API_KEYS": KEY,
            "DEEPWELL_REQUESTS_PER_MINUTE": "100000000",
            "DEEPWELL_TOKENS_PER_MINUTE": "100000000",
            "DEEPWELL_ACCESS_LOG": "json",
        }
        with served(serve_command(model), env=env) as port:
            name = json.loads(_get(port, "/v1/models"))["data"][0]["id"]
            body = json.dumps(
                {
                    "model": name,
                    "messages": [{"role": "user", "content": question}],
                    "temperature": 0,
                    "max_tokens": TOKENS,
                }
            )
            tokens = _warm(port, body)
            file, script = Path(folder) / "body.json", Path(folder) / "post.lua"
            file.write_text(body, encoding="utf-8")
            script.write_text(_SCRIPT.format(body=file, key=KEY), encoding="utf-8")
            _load(wrk, port, script, connections=1, seconds=1)
            runs: dict[int, list[tuple[float, float, float]]] = {1: [], 16: []}
            before, counted, failed = _hits(port), 0, 0
            for _ in range(rounds):
                for connections, found in runs.items():
                    p50, p99, requests, duration, errors = _load(
                        wrk, port, script, connections=connections, seconds=seconds
                    )
                    found.append((p50 / 1e3, p99 / 1e3, requests / (duration / 1e6)))
                    counted += int(requests)
                    failed += int(errors)
            hits = _hits(port) - before
    value: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for connections, found in runs.items():
        p50, p99, rate = (rounded(statistics.median(column), 3) for column in zip(*found, strict=True))
        suffix = "" if connections == 1 else f"_{connections}"
        value |= {f"hit_p50_ms{suffix}": p50, f"hit_p99_ms{suffix}": p99, f"hits_per_second{suffix}": rate}
        rows.append([connections, p50, p99, rate])
    report.table(
        f"Hits of {tokens} tokens over HTTP, wrk with keep-alive",
        ["connections", "p50 ms", "p99 ms", "a second"],
        rows,
    )
    # At the end of a run wrk leaves requests in flight that the server has counted: one a connection.
    misses = max(0, counted - hits)
    routes, crossings = _crossings(report)
    report.note(f"two tenants over {routes} tests of every route: {crossings} crossings")
    return value | {
        "tokens": tokens,
        "failed": failed,
        "not_hits": misses,
        "tenant_tests": routes,
        "crossings": crossings,
    }


def _request(port: int, path: str, body: str | None = None) -> Any:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    data = None if body is None else body.encode()
    return urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers), timeout=120
    )


def _get(port: int, path: str) -> str:
    with _request(port, path) as answer:
        return answer.read().decode()


def _warm(port: int, body: str) -> int:
    """Asks until the answer is replayed; returns the number of its tokens."""
    texts: list[str] = []
    tokens, state = 0, ""
    for _ in range(4):
        with _request(port, "/v1/chat/completions", body) as answer:
            state = answer.headers["x-deepwell-cache"]
            said = json.load(answer)
        texts.append(said["choices"][0]["message"]["content"])
        tokens = said["usage"]["completion_tokens"]
    if state != "hit" or len(set(texts)) != 1:
        raise PeerError(f"the same question was answered {len(set(texts))} ways, and the last was a {state}")
    return tokens


def _hits(port: int) -> int:
    pattern = r'^deepwell_response_cache_lookups_total\{[^}]*result="hit"[^}]*\} ([0-9.e+]+)$'
    return sum(int(float(value)) for value in re.findall(pattern, _get(port, "/metrics"), re.MULTILINE))


def _load(
    wrk: str, port: int, script: Path, *, connections: int, seconds: float
) -> tuple[float, float, float, float, float]:
    """Returns p50 and p99 in microseconds, responses, microseconds that it took, failures."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"FIGURES (\S+) (\S+) (\S+) (\S+) (\S+)", done.stdout)
    if found is None:
        raise PeerError(f"wrk failed: {(done.stderr or done.stdout)[-300:]}")
    p50, p99, requests, duration, errors = map(float, found.groups())
    return p50, p99, requests, duration, errors


def _crossings(report: Report) -> tuple[int, int]:
    """Counts tests of the two-tenant suite, and those that did not pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/server/test_tenants.py"]
    done = subprocess.run(
        command,
        cwd=repository(),
        env={**os.environ, "CI": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    counts = {
        word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)
    }
    total = sum(counts.values())
    if not total:
        raise PeerError(f"the two-tenant test did not run: {done.stdout[-500:]}{done.stderr[-300:]}")
    if done.returncode:
        report.note(done.stdout[-4000:])
    return total, total - counts.get("passed", 0)
