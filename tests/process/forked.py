"""Work for a `ForkServer`, in several states of health: `python -m tests.process.forked FD LIMITS`."""

from __future__ import annotations

import os
import sys
import threading

from deepwell.process.forks import serve_forks


def work(body: bytes) -> None:
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
        with open(argument + b".out", "wb") as out:
            out.write(str(os.getpid()).encode())
        with open(argument + b".in", "rb") as into:
            into.read()


if __name__ == "__main__":
    serve_forks(int(sys.argv[1]), sys.argv[2], work)
