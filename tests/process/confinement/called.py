"""A child that tells what it sees: `python -m tests.process.confinement.called FD`."""

from __future__ import annotations

import json
import os
import signal
import sys

from deepwell.process.calls import answer_calls

FRAME = b"\3\0\0\0lie"
REST = {b"twice": FRAME, b"half": FRAME[:3]}
TRICKLE = 1 << 23  # bytes that take seconds one by one


def answer(body: bytes, file: int = -1) -> bytes:
    if file >= 0:
        with open(file, "rb") as handed:
            return handed.read()
    if body == b"lie":  # about the length of the answer
        os.write(int(sys.argv[1]), b"\xff" * 8)
    if body == b"later":
        signal.signal(signal.SIGCONT, lambda *_: os.write(int(sys.argv[1]), FRAME))
    if body in REST:
        os.write(int(sys.argv[1]), FRAME + REST[body])
    if body == b"trickle":
        os.write(int(sys.argv[1]), TRICKLE.to_bytes(4, "little"))
        for _ in range(TRICKLE):
            os.write(int(sys.argv[1]), b"x")
    if body == b"signal":
        os.kill(os.getpid(), signal.SIGRTMIN + 1)
    return json.dumps([os.getpid(), dict(os.environ)]).encode()


if __name__ == "__main__":
    answer_calls(int(sys.argv[1]), answer)
