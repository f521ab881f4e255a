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
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from deepwell.bench.environments import PeerError

__all__ = ["paced_command", "serve_command", "served"]

START_SECONDS = 120


def serve_command(model: Path) -> Callable[[int], list[str]]:
    """`deepwell serve` of a model."""
    return lambda port: [sys.executable, "-m", "deepwell", "serve", str(model), "--port", str(port)]


def paced_command(
    model: Path, *, first_ms: float, token_ms: float, tokens: int, bare: bool = False
) -> Callable[[int], list[str]]:
    """The paced engine behind the real server, with the tokenizer and template of a model; `bare`: behind a socket alone."""
    figures = [str(first_ms), str(token_ms), str(tokens), *(["bare"] if bare else [])]
    return lambda port: [sys.executable, "-m", "deepwell.bench.paced", str(model), str(port), *figures]


@contextlib.contextmanager
def served(command: Callable[[int], Sequence[str]]) -> Generator[int]:
    """The port of a server that answers; its data are gone afterwards.

    Raises:
        PeerError: it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "DEEPWELL_DATA_DIR": folder},
            )
        try:
            start = time.monotonic()
            while not _answers(port):
                if process.poll() is not None or time.monotonic() - start > START_SECONDS:
                    raise PeerError(f"the server did not start:\n{log.read_text(errors='replace')[-500:]}")
                time.sleep(0.05)
            yield port
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
