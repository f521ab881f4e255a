"""The overhead of a deployment on the time to the first token: haproxy and the server, over the bare engine."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from deepwell.cli.bench.machine import cpu_seconds
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.fleet.deploy.declaration import Grade
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.open_loop import FIRST_MS, TOKEN_MS, TOKENS, load_client, run_load
from deepwell_bench.harness.served import paced_command, served
from deepwell_bench.suites.fleet.running import ALIAS, busy_seconds, running_fleet

__all__ = ["bench_latency"]

_GUIDE_MS = {"machine": 50.0, "containers": 80.0}


def bench_latency(
    report: Report, model: Path, *, grade: Grade = "machine", rate: float = 10.0, seconds: float = 60.0
) -> dict[str, Any]:
    """Measures the overhead of a deployment of two replicas at a low rate, beside the figure of the guide.

    The bare engine is loaded before and behind, each for half the time.

    Raises:
        PeerError: there is no C compiler, or no request was answered.
    """
    client = load_client()
    body = {
        "model": ALIAS,
        "messages": [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}],
        "max_tokens": TOKENS,
        "user": "lin",
        "stream": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body"
        file.write_text(json.dumps(body), encoding="utf-8")

        def bare() -> tuple[list[float], int]:
            command = paced_command(model, first_ms=FIRST_MS, token_ms=TOKEN_MS, tokens=TOKENS, how="bare")
            with served(command) as port:
                run_load(client, port, rate, 2, file)
                return run_load(client, port, rate, seconds / 2, file)

        before, failed_before = bare()
        with running_fleet(model, {"v1": (FIRST_MS, TOKEN_MS, TOKENS)}, grade=grade) as fleet:
            run_load(client, fleet.port, rate, 3, file, fleet.key)
            front = [fleet.front_pid]
            spent, busy = cpu_seconds(front), busy_seconds()
            times, failed = run_load(client, fleet.port, rate, seconds, file, fleet.key)
            front_cpu = (cpu_seconds(front) - spent) / seconds
            share = (busy_seconds() - busy) / seconds / (os.cpu_count() or 1)
        after, failed_after = bare()
    engine = before + after
    if not times or not engine:
        raise PeerError("no request was answered")
    value: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        ours, theirs = percentile(times, part), percentile(engine, part)
        value[f"overhead_{name}_ms"] = rounded(ours - theirs, 3)
        rows.append([name, rounded(ours, 2), rounded(theirs, 2), rounded(ours - theirs, 2), _GUIDE_MS[grade]])
    value |= {
        "requests": len(times),
        "failed": failed + failed_before + failed_after,
        "rate": rate,
        "busy": rounded(share, 3),
        "front_cpu": rounded(front_cpu, 4),
    }
    report.table(
        f"First token, {rate:g} requests a second for {seconds:g} s, engine of {FIRST_MS:g} ms",
        ["", f"grade {grade}, ms", "bare engine, ms", "overhead, ms", "the guide, ms"],
        rows,
    )
    return value
