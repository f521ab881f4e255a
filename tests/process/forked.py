"""Work for a `ForkServer`, in several states of health: `python -m tests.process.forked FD LIMITS`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import stat
import sys
import threading

from deepwell.process.forks import serve_forks

PR_SET_NAME = 15


def is_pipe(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    return False


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
    if name == b"flood":  # the report of its own end, and more
        for descriptor in range(3, 256):
            with contextlib.suppress(OSError):
                socket.socket(fileno=os.dup(descriptor)).sendall(b"x" * 100_000)
    if name == b"kill":
        reached = 0
        for pid in (-1, os.getppid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
                reached += 1
        return reached
    if name == b"pipes":  # descriptors that are pipes
        return sum(map(is_pipe, range(3, 256)))
    if name == b"signal":
        os.kill(os.getpid(), signal.SIGRTMIN + 1)
    if name == b"meet":  # shows the test that it runs, and waits until the test lets it go on
        ctypes.CDLL(None).prctl(PR_SET_NAME, argument, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
    return len(body)


if __name__ == "__main__":
    serve_forks(int(sys.argv[1]), sys.argv[2], work)
