"""Servers with the paced engine that a fault meets: each on its own port, started again over the same data."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final

import httpx

from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.suites.fleet.faults.work import client
from deepwell_bench.suites.fleet.running import ALIAS

__all__ = ["LEASE_S", "WAY", "Server", "running"]

LEASE_S: Final = 2.0
WAY: Final = ("40", "60", "8")
"""Time to the first token, between tokens, in ms, and tokens."""
_START_S: Final = 120.0
_PAUSE_S: Final = 0.05


class Server:
    """One server.

    Args:
        data: its `data_dir`.
        env: further variables.
    """

    def __init__(self, name: str, model: Path, data: Path, log: Path, env: Mapping[str, str]) -> None:
        self.name, self.port = name, free_port()
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        worker = ("-m", "deepwell_bench.workers.fleet.replica", str(model), str(self.port), *WAY)
        self._command = (sys.executable, *worker)
        self._env = {
            **os.environ,
            "DEEPWELL_DATA_DIR": str(data),
            "DEEPWELL_STATE_DIR": f"{log}.state",
            "DEEPWELL_RELEASE": f"{ALIAS}=v1",
            "DEEPWELL_JOB_LEASE_S": str(LEASE_S),
            **env,
        }

    @property
    def url(self) -> str:
        """Base of its URLs."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, and waits until it is ready.

        Raises:
            PeerError: it does not become so.
        """
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self._env,
            )
        self.until(ready=True)

    def until(self, *, ready: bool, seconds: float = _START_S) -> None:
        """Waits until `/readyz` says that it is ready, or that it is not.

        Raises:
            PeerError: it does not say so.
        """
        end = time.monotonic() + seconds
        with client(self.url) as http:
            while self._status(http) != (httpx.codes.OK if ready else httpx.codes.SERVICE_UNAVAILABLE):
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > end:
                    told = self.log.read_text(errors="replace")[-800:]
                    raise PeerError(f"{self.name} is not {'' if ready else 'un'}ready:\n{told}")
                time.sleep(_PAUSE_S)

    @staticmethod
    def _status(http: httpx.Client) -> int:
        try:
            return http.get("/readyz").status_code
        except httpx.TransportError:
            return 0

    def end(self, number: int = signal.SIGTERM) -> None:
        """Sends it a signal and waits for its end."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextlib.contextmanager
def running(*servers: Server) -> Generator[None]:
    """Runs servers for as long as the block lasts."""
    try:
        for one in servers:
            one.start()
        yield
    finally:
        for one in servers:
            one.end()
