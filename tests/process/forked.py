"""Work for a `ForkServer`, in several states of health: `python -m tests.process.forked FD LIMITS`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

from deepwell.process.forks import serve_forks

PR_SET_NAME = 15


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
    if name == b"meet":  # shows the test that it runs, and waits until the test lets it go on
        ctypes.CDLL(None).prctl(PR_SET_NAME, argument, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
    return len(body)


if __name__ == "__main__":
    serve_forks(int(sys.argv[1]), sys.argv[2], work)
