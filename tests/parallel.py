"""What workers of one run share a machine by: a processor each, and ports that nobody else takes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from random import sample

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PROCESSORS = os.sched_getaffinity(0)  # read before `keep_to_one_processor`
_FIRST_PORT, _PORTS, _RANGES = 16_000, 2_000, 8  # below what Linux hands out by itself


# Each port is handed out once before any comes again: two servers that are yet to start must not get the same one.
_ports = cycle(_FIRST_PORT + _PORTS * (WORKER % _RANGES) + one for one in sample(range(_PORTS), _PORTS))


def keep_to_one_processor() -> None:
    """Give a worker of pytest-xdist a processor, with whatever it starts: engines open with one thread there.

    Engines with a thread for every processor, in several workers, wait for each other at every barrier of the kernels.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.sched_setaffinity(0, {sorted(_PROCESSORS)[WORKER % len(_PROCESSORS)]})


@contextmanager
def every_processor() -> Iterator[None]:
    """Let threads that start within the block run beside each other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _PROCESSORS)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port of the loopback interface for a server that is yet to start, or that a test starts again and again.

    Whoever asks the kernel for any port gets another one, and so does every other worker.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
