"""The cost of a served model at rest: time to ready, memory, idle CPU; and the weight of the base install."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Literal

from deepwell.cli.bench.machine import cpu_seconds, process_tree
from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.layouts import Precision
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.weights.load import resolve_precision, weights_nbytes
from deepwell.errors import DeepwellError
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.settings import Settings
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.ports import free_port
from deepwell_bench.harness.served import rss_bytes
from deepwell_bench.workloads.text import cranfield_text

__all__ = ["bench_footprint"]

PROMPT_CHARACTERS = 4000  # of one request, some 900 tokens
SPARE_BLOCKS = 4  # the last, partly filled blocks of sequences never enter the prefix cache


class _Server:
    """A real `deepwell serve` process on a free port."""

    def __init__(self, model: Path, precision: Precision) -> None:
        self.port = free_port()
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
        """Sends GET, or POST with a JSON body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return answer.read()

    def ask(self, text: str) -> None:
        """Asks for one completion and reads it to its end."""
        model = json.loads(self.get("/v1/models"))["data"][0]["id"]
        self.get("/v1/completions", {"model": model, "prompt": text, "max_tokens": 32})

    def rss_bytes(self) -> int:
        """Returns the sum over all its processes."""
        return rss_bytes(process_tree(self.process.pid))

    def cpu_seconds(self) -> float:
        """Returns the sum over all its processes."""
        return cpu_seconds(process_tree(self.process.pid))

    def gauge(self, name: str) -> int:
        """Reads a gauge of /metrics, of the one model."""
        lines = self.get("/metrics").decode().splitlines()
        line = next(line for line in lines if line.startswith((f"deepwell_{name} ", f"deepwell_{name}{{")))
        return int(float(line.rpartition(" ")[2]))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)


def _fill_cache(server: _Server) -> None:
    """Asks until every block of the KV pool has been written: memory that nobody has touched is not resident.

    Raises:
        DeepwellError: the text was over before.
    """
    text = cranfield_text()
    full = server.gauge("kv_blocks") - SPARE_BLOCKS
    for start in range(0, len(text), PROMPT_CHARACTERS):
        if server.gauge("kv_blocks_cached") >= full:
            return
        server.ask(text[start : start + PROMPT_CHARACTERS])
    raise DeepwellError("the fixed text does not fill the KV pool", fix="use a smaller --kv-tokens")


def _folder_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def measure_install() -> dict[str, Any]:
    """Installs the base package into a fresh environment; counts what that adds to pip alone."""
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
    report: Report,
    model: Path,
    *,
    precision: Precision | Literal["auto"] = "auto",
    starts: int = 5,
    idle_seconds: float = 20.0,
) -> dict[str, Any]:
    """Measures warm starts of a real server process, its memory with a full KV pool, its CPU while nobody asks."""
    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    precision, _ = resolve_precision(precision, checkpoint)
    token_bytes = kv_token_bytes(config, Settings.load().kv_dtype)
    _Server(model, precision).stop()  # packs the weights and warms the page cache
    seconds: list[float] = []
    for _ in range(starts - 1):
        server = _Server(model, precision)
        seconds.append(server.start_seconds)
        server.stop()
    server = _Server(model, precision)
    try:
        seconds.append(server.start_seconds)
        _fill_cache(server)
        kv_bytes = server.gauge("kv_blocks") * BLOCK_TOKENS * token_bytes
        rss = server.rss_bytes()
        time.sleep(1.0)
        before = server.cpu_seconds()
        time.sleep(idle_seconds)
        idle = (server.cpu_seconds() - before) / idle_seconds
    finally:
        server.stop()
    weights = weights_nbytes(config, precision)
    value: dict[str, Any] = {
        "precision": precision,
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
