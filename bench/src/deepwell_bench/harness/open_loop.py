"""An open loop of streamed requests: its client, compiled on first use, and the figures of the engine behind the server."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from deepwell_bench.harness.assets import WORKERS, bench_cache
from deepwell_bench.harness.environments import PeerError

__all__ = ["FIRST_MS", "TOKENS", "TOKEN_MS", "compiled_client", "load_client", "run_load"]

FIRST_MS, TOKEN_MS, TOKENS = 50.0, 20.0, 32  # of the engine that keeps exact time


def run_load(
    client: Path, port: int, rate: float, seconds: float, body: Path, key: str = ""
) -> tuple[list[float], int]:
    """Returns the times to the first token in milliseconds, and how many requests failed."""
    figures = [str(port), str(rate), str(seconds), str(body)]
    done = subprocess.run(
        [str(client), *figures, "/v1/chat/completions", '"content":" ', *([key] if key else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PeerError(f"the load failed: {done.stderr.strip()[-300:]}")
    *times, last = done.stdout.split("\n")[:-1]
    return [float(one) for one in times], int(last.split()[1])


def load_client() -> Path:
    """Returns the open-loop client."""
    return compiled_client(WORKERS / "open_loop.c")


def compiled_client(source: Path) -> Path:
    """Returns a load client in C, compiled once.

    Raises:
        PeerError: there is no compiler, or it refuses.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise PeerError("the load client is written in C, and there is no compiler", fix="install gcc")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = bench_cache() / f"{source.stem}-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(source)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PeerError(f"the load client does not compile: {done.stderr[-500:]}")
    return program
