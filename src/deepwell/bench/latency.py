"""What the server adds to the engine's own time to the first token, under an open loop of requests."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from deepwell.bench.assets import bench_cache
from deepwell.bench.environments import PeerError
from deepwell.bench.load import percentile
from deepwell.bench.report import Report, rounded
from deepwell.bench.served import paced_command, served

__all__ = ["bench_latency"]

SOURCE = Path(__file__).parent / "workers" / "open_loop.c"
FIRST_MS, TOKEN_MS, TOKENS = 50.0, 20.0, 32


def bench_latency(
    report: Report, model: Path, *, rate: float = 100.0, seconds: float = 60.0
) -> dict[str, Any]:
    """Time to the first token beyond the 50 ms that a paced engine takes, in milliseconds.

    Raises:
        PeerError: there is no C compiler, or the load failed.
    """
    client = _client()
    body = {
        "model": "paced",
        "messages": [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}],
        "max_tokens": TOKENS,
        "stream": True,
    }
    command = paced_command(model, first_ms=FIRST_MS, token_ms=TOKEN_MS, tokens=TOKENS)
    with served(command) as port, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body"
        file.write_text(json.dumps(body), encoding="utf-8")

        def run(duration: float) -> tuple[list[float], int]:
            done = subprocess.run(
                [
                    str(client),
                    str(port),
                    str(rate),
                    str(duration),
                    str(file),
                    "/v1/chat/completions",
                    '"content":" ',
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise PeerError(f"the load failed: {done.stderr.strip()[-300:]}")
            *times, last = done.stdout.split("\n")[:-1]
            return [float(one) for one in times], int(last.split()[1])

        run(2)  # connections made, code paths warm
        times, failed = run(seconds)
    if not times:
        raise PeerError("no request was answered")
    added = [one - FIRST_MS for one in times]
    value = {
        "added_p50_ms": rounded(percentile(added, 0.5), 3),
        "added_p99_ms": rounded(percentile(added, 0.99), 3),
        "added_max_ms": rounded(max(added), 3),
        "requests": len(times),
        "failed": failed,
        "rate": rate,
    }
    report.table(
        f"Added to the first token, {rate:g} requests a second for {seconds:g} s, {TOKENS} tokens each",
        ["p50 ms", "p99 ms", "max ms", "answered", "failed"],
        [[value["added_p50_ms"], value["added_p99_ms"], value["added_max_ms"], len(times), failed]],
    )
    return value


def _client() -> Path:
    """The C client, compiled once."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise PeerError("the load client is written in C, and there is no compiler", fix="install gcc")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    program = bench_cache() / f"open_loop-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(SOURCE)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PeerError(f"the load client does not compile: {done.stderr[-500:]}")
    return program
