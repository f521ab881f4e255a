"""The server's addition to the engine's own time to the first token, under an open loop of requests."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.open_loop import FIRST_MS, TOKEN_MS, TOKENS, load_client, run_load
from deepwell_bench.harness.served import paced_command, served

__all__ = ["bench_latency"]

_FULL = {
    "DEEPWELL_REQUESTS_PER_MINUTE": "1000000",
    "DEEPWELL_TOKENS_PER_MINUTE": "1000000000",
    "DEEPWELL_ACCESS_LOG": "json",
}


def bench_latency(
    report: Report, model: Path, *, rate: float = 100.0, seconds: float = 60.0, full: bool = False
) -> dict[str, Any]:
    """Measures what the server adds to the time to the first token, in milliseconds, over the bare engine under the same load.

    The bare engine is loaded for a third of the time before the server and for a third behind it. Its own lateness, that of
    waking processes above all, is subtracted from the server's, quantile by quantile; `late_*` are the plain times beyond
    `FIRST_MS`.

    Args:
        full: the server asks for a key in its database, counts requests and tokens, and writes its access log.

    Raises:
        PeerError: there is no C compiler, or the load failed.
    """
    client = load_client()
    body = {
        "model": "paced",
        "messages": [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}],
        "max_tokens": TOKENS,
        "stream": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body"
        file.write_text(json.dumps(body), encoding="utf-8")

        key = Path(folder) / "key"
        env = {"DEEPWELL_BENCH_KEY": str(key), **(_FULL if full else {})}

        def load(duration: float, *, bare: bool) -> tuple[list[float], int]:
            how = "bare" if bare else "full" if full else "served"
            command = paced_command(model, first_ms=FIRST_MS, token_ms=TOKEN_MS, tokens=TOKENS, how=how)
            with served(command, env=env) as port:
                given = key.read_text(encoding="utf-8") if how == "full" else ""
                run_load(client, port, rate, 2, file, given)  # connections made, code paths warm
                return run_load(client, port, rate, duration, file, given)

        before, failed_before = load(seconds / 3, bare=True)
        times, failed = load(seconds, bare=False)
        after, failed_after = load(seconds / 3, bare=True)
    bare = before + after
    if not times or not bare:
        raise PeerError("no request was answered")
    value: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        ours, engine = percentile(times, share) - FIRST_MS, percentile(bare, share) - FIRST_MS
        value |= {
            f"added_{name}_ms": rounded(ours - engine, 3),
            f"late_{name}_ms": rounded(ours, 3),
            f"bare_late_{name}_ms": rounded(engine, 3),
        }
        rows.append([name, rounded(ours, 3), rounded(engine, 3), rounded(ours - engine, 3)])
    value |= {"requests": len(times), "failed": failed + failed_before + failed_after, "rate": rate}
    report.table(
        f"First token beyond {FIRST_MS:g} ms, {rate:g} requests a second for {seconds:g} s, {TOKENS} tokens each",
        ["", "server, ms", "bare engine, ms", "added, ms"],
        rows,
    )
    return value
