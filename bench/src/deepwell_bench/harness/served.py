"""A server process of our own for a benchmark: started on a free port, waited for, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

from deepwell_bench.harness.environments import PeerError

__all__ = [
    "paced_command",
    "pss_bytes",
    "rss_bytes",
    "serve_command",
    "served",
    "served_process",
]

START_SECONDS = 120


def serve_command(model: Path) -> Callable[[int], list[str]]:
    """Returns the command of `deepwell serve` for a model, by port."""
    return lambda port: [sys.executable, "-m", "deepwell", "serve", str(model), "--port", str(port)]


def paced_command(
    model: Path, *, first_ms: float, token_ms: float, tokens: int, how: str = "served"
) -> Callable[[int], list[str]]:
    """Returns the command of the paced engine behind the real server, with the tokenizer and template of a model.

    Args:
        how: "served" with nothing around it; "bare": behind a socket alone; "full": with keys in the database, limits and
            the settings of the environment.
    """
    figures = [str(first_ms), str(token_ms), str(tokens), how]
    return lambda port: [
        sys.executable,
        "-m",
        "deepwell_bench.workers.paced",
        str(model),
        str(port),
        *figures,
    ]


@contextlib.contextmanager
def served(
    command: Callable[[int], Sequence[str]], *, env: Mapping[str, str] | None = None
) -> Generator[int]:
    """Yields the port of a server that answers, with further variables in its environment; its data are gone afterwards.

    Raises:
        PeerError: it does not start.
    """
    with served_process(command, env=env) as (port, _):
        yield port


@contextlib.contextmanager
def served_process(
    command: Callable[[int], Sequence[str]],
    *,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    start_s: float = START_SECONDS,
) -> Generator[tuple[int, int]]:
    """Does as `served`, with the process's id beside the port.

    Args:
        log: a file for what it prints.
        start_s: time that it may take to answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        log = log or Path(folder) / "log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "DEEPWELL_DATA_DIR": folder,
                    "DEEPWELL_STATE_DIR": str(Path(folder) / "state"),
                    **(env or {}),
                },
            )
        try:
            start = time.monotonic()
            while not _answers(port):
                if process.poll() is not None or time.monotonic() - start > start_s:
                    raise PeerError(f"the server did not start:\n{log.read_text(errors='replace')[-500:]}")
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def rss_bytes(pids: Sequence[int]) -> int:
    """Returns the resident memory of processes; what they share counts for each."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pss_bytes(pids: Sequence[int]) -> int:
    """Returns the memory of processes; each has its share of what several map, so that the sum is what all take."""
    kilobytes = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024
