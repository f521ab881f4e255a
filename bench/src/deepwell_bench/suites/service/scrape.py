"""The time of `/metrics` while the server is busy, and the lateness of its event loop."""

from __future__ import annotations

import http.client
import json
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.errors import DeepwellError
from deepwell_bench.harness.open_loop import FIRST_MS, TOKEN_MS, TOKENS, load_client, run_load
from deepwell_bench.harness.served import paced_command, served

__all__ = ["bench_metrics", "histogram_quantile"]

_EVERY_S = 0.1
_LAG = "deepwell_event_loop_lag_seconds"


def bench_metrics(
    report: Report, model: Path, *, rate: float = 100.0, seconds: float = 60.0
) -> dict[str, Any]:
    """Scrapes ten times a second under an open loop of streams; in milliseconds.

    Raises:
        PeerError: there is no C compiler, or the load failed.
        DeepwellError: the page lacks what it should have.
    """
    client = load_client()
    body = {
        "model": "paced",
        "messages": [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}],
        "max_tokens": TOKENS,
        "stream": True,
    }
    times: list[float] = []
    page = b""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body"
        file.write_text(json.dumps(body), encoding="utf-8")
        with served(paced_command(model, first_ms=FIRST_MS, token_ms=TOKEN_MS, tokens=TOKENS)) as port:
            run_load(client, port, rate, 2, file)
            ended = threading.Event()
            result: list[tuple[list[float], int]] = []

            def load() -> None:
                try:
                    result.append(run_load(client, port, rate, seconds, file))
                finally:
                    ended.set()

            thread = threading.Thread(target=load)
            thread.start()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            due = time.perf_counter()
            while not ended.is_set():
                begin = time.perf_counter()
                connection.request("GET", "/metrics")
                page = connection.getresponse().read()
                times.append((time.perf_counter() - begin) * 1e3)
                due = max(due + _EVERY_S, begin)
                ended.wait(max(0.0, due - time.perf_counter()))
            thread.join()
            connection.close()
    if not result:
        raise DeepwellError("the load failed", fix="run `deepwell bench latency`, which shows its error")
    text = page.decode()
    lag_p99, lag_samples = histogram_quantile(text, _LAG, 0.99)
    value = {
        "p50_ms": rounded(percentile(times, 0.5), 3),
        "p99_ms": rounded(percentile(times, 0.99), 3),
        "max_ms": rounded(max(times), 3),
        "scrapes": len(times),
        "lag_p99_ms_at_most": rounded(lag_p99 * 1e3, 3),
        "lag_samples": lag_samples,
        "series": sum(not line.startswith("#") for line in text.splitlines()),
        "bytes": len(page),
        "requests": len(result[0][0]),
        "failed": result[0][1],
        "rate": rate,
    }
    report.table(
        f"/metrics, ten times a second, beside {rate:g} requests a second for {seconds:g} s, {TOKENS} tokens each",
        ["p50 ms", "p99 ms", "max ms", "scrapes", "series", "event loop late, p99 at most, ms"],
        [
            [
                value["p50_ms"],
                value["p99_ms"],
                value["max_ms"],
                len(times),
                value["series"],
                value["lag_p99_ms_at_most"],
            ]
        ],
    )
    return value


def histogram_quantile(text: str, name: str, share: float) -> tuple[float, int]:
    """Returns the bound of the bucket that holds a quantile, and how many observations there are; of a metric without labels.

    Raises:
        DeepwellError: the text has no such histogram.
    """
    buckets = re.findall(rf'^{name}_bucket{{le="([^"]+)"}} ([\d.e+]+)$', text, re.MULTILINE)
    if not buckets:
        raise DeepwellError(f"/metrics has no {name}", fix="update the server")
    total = float(buckets[-1][1])
    for bound, count in buckets:
        if float(count) >= share * total:
            return float(bound), int(total)
    raise AssertionError("the last bucket holds everything")
