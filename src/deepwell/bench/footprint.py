"""What a served model costs at rest: time to ready, memory, idle CPU; and what the base install weighs."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from deepwell.bench.assets import repository
from deepwell.bench.report import Report, rounded
from deepwell.bench.roofs import work_of
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.weights import Precision, weights_nbytes
from deepwell.errors import DeepwellError
from deepwell.models.checkpoint import open_checkpoint
from deepwell.settings import Settings

__all__ = ["bench_footprint"]

TICKS = os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Server:
    """A real `deepwell serve` process on a free port."""

    def __init__(self, model: Path, precision: Precision) -> None:
        self.port = _free_port()
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "deepwell", "serve", str(model)),
                *("--port", str(self.port), "--precision", precision),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not self._is_ready():
            if self.process.poll() is not None:
                assert self.process.stderr is not None
                raise DeepwellError(f"deepwell serve ended: {self.process.stderr.read()[-500:]}")
            if time.perf_counter() - start > 120:
                self.process.kill()
                raise DeepwellError("deepwell serve was not ready after two minutes")
            time.sleep(0.01)
        self.start_seconds = time.perf_counter() - start

    def _is_ready(self) -> bool:
        try:
            self.get("/readyz")
        except OSError:  # not listening yet, or 503
            return False
        return True

    def get(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """GET, or POST with a JSON body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return answer.read()

    def ask(self, text: str) -> None:
        """One chat completion, read to its end."""
        model = json.loads(self.get("/v1/models"))["data"][0]["id"]
        message = {"role": "user", "content": text}
        self.get("/v1/chat/completions", {"model": model, "messages": [message], "max_tokens": 32})

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def kv_blocks(self) -> int:
        """Blocks of the KV cache, from /metrics."""
        name = "deepwell_kv_blocks "
        lines = self.get("/metrics").decode().splitlines()
        return int(float(next(line for line in lines if line.startswith(name)).removeprefix(name)))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)


def _folder_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def measure_install() -> dict[str, Any]:
    """Install the base package into a fresh environment; count what that adds to pip alone."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        python = str(home / "bin" / "python")

        def distributions() -> int:
            listed = subprocess.run(
                [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
                check=True,
                capture_output=True,
                text=True,
            )
            return len(json.loads(listed.stdout))

        before, empty = distributions(), _folder_bytes(home)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", str(repository())],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return {
            "install_mb": rounded((_folder_bytes(home) - empty) / 1e6),
            "distributions": distributions() - before,
        }


def bench_footprint(
    report: Report, model: Path, *, precision: Precision = "int8", starts: int = 5, idle_seconds: float = 20.0
) -> dict[str, Any]:
    """Warm starts of a real server process, its memory after some answers, its CPU while nobody asks."""
    config = open_checkpoint(model).config
    work = work_of(config, precision, kv_dtype=Settings.load().kv_dtype)
    _Server(model, precision).stop()  # packs the weights and warms the page cache
    seconds: list[float] = []
    for _ in range(starts - 1):
        server = _Server(model, precision)
        seconds.append(server.start_seconds)
        server.stop()
    server = _Server(model, precision)
    try:
        seconds.append(server.start_seconds)
        for number in range(4):
            server.ask(f"Tell me {number + 1} facts about the boundary layer.")
        kv_bytes = server.kv_blocks() * BLOCK_TOKENS * work.kv_bytes_per_token
        rss = server.rss_bytes()
        time.sleep(1.0)
        before = server.cpu_seconds()
        time.sleep(idle_seconds)
        idle = (server.cpu_seconds() - before) / idle_seconds
    finally:
        server.stop()
    weights = weights_nbytes(config, precision)
    value: dict[str, Any] = {
        "start_seconds": rounded(statistics.median(seconds), 3),
        "rss_mb": rounded(rss / 1e6),
        "weights_mb": rounded(weights / 1e6),
        "kv_pool_mb": rounded(kv_bytes / 1e6),
        "rss_over_weights_and_kv_mb": rounded((rss - weights - kv_bytes) / 1e6),
        "idle_cpu_percent": rounded(100 * idle, 3),
        **measure_install(),
    }
    report.table("Start and size", ["figure", "value"], [[key, figure] for key, figure in value.items()])
    return value
