"""Starts the processes of a run on this machine: `python -m deepwell.tuning.train.distributed.launch PROCESSES FOLDER`.

The worker's protocol stays what it is for one process, other than under `torchrun`, which merges outputs and exit statuses: the
output is that of the first process, SIGTERM and SIGINT reach all of them, and the status is the first one's. Where one process
dies, the others are stopped.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

__all__ = ["command", "main"]

_MODULE: Final = "deepwell.tuning.train.distributed.launch"
_POLL_S: Final = 0.2
_GRACE_S: Final = 20.0


def command(folder: str, processes: int) -> list[str]:
    """Returns the command of a run's worker: one process, or several behind a launcher."""
    if processes == 1:
        return [sys.executable, "-m", "deepwell.tuning.train.worker", folder]
    return [sys.executable, "-m", _MODULE, str(processes), folder]


def main(arguments: Sequence[str]) -> int:
    """Runs the processes to their end and returns the exit status."""
    processes, folder = int(arguments[0]), arguments[1]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
    }
    shared["LOCAL_WORLD_SIZE"] = str(processes)
    workers: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    for rank in range(processes):
        workers.append(  # noqa: PERF401  # a signal that comes meanwhile finds those that run
            subprocess.Popen(
                [sys.executable, "-m", "deepwell.tuning.train.worker", folder],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=None if rank == 0 else subprocess.DEVNULL,
            )
        )
    try:
        return _wait(workers)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    deadline: float | None = None
    while any(worker.poll() is None for worker in workers):
        if deadline is None and any(worker.poll() is not None for worker in workers):
            deadline = time.monotonic() + _GRACE_S  # the end of one is the end of all
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    statuses = [worker.poll() for worker in workers]
    first = statuses[0]
    if first:
        return first if first > 0 else 128 - first
    bad = next((status for status in statuses if status != 0), 0)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
