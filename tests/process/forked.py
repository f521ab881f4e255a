"""Work for a `ForkServer`, in several states of health: `python -m tests.process.forked FD LIMITS`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from deepwell.process.forks import serve_forks


def work(body: bytes) -> int:
    name, _, argument = body.partition(b" ")
    if name == b"spin":
        while True:
            pass
    if name == b"hang":
        threading.Event().wait()
    if name == b"fill":
        kept = bytearray(1 << 31)
        kept.clear()
    if name == b"crash":
        os.abort()
    if name == b"wrong":
        raise ValueError(body)
    if name == b"meet":  # tells the test that it runs, and waits until the test lets it go on
        path = argument.decode()
        Path(f"{path}.out").write_text(str(os.getpid()))
        Path(f"{path}.in").read_text()
    return len(body)


if __name__ == "__main__":
    serve_forks(int(sys.argv[1]), sys.argv[2], work)
