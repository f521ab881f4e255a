"""Replaces itself by a program of the lowest priority that ends with its parent: `python lowered.py PARENT FOLDER COMMAND...`.

It is run by its path, without the package. The program gets a lock on FOLDER, and waits for it: another program that trains
there, of a server that was killed, has to be gone first.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NICE = 19
_WAIT_S = 60


def _main() -> None:
    parent, folder, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _go_first()
    if os.getppid() != int(parent):  # it was gone before the kernel was told
        sys.exit(1)
    os.nice(_NICE)
    descriptor = os.open(os.path.join(folder, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)  # noqa: PTH118
    signal.alarm(_WAIT_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    signal.alarm(0)
    os.set_inheritable(descriptor, True)
    os.execvp(command[0], command)  # noqa: S606


def _go_first() -> None:
    """Lets the kernel end this program where memory is short, and not the server: data may be larger than any plan."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")
    except OSError:
        return


if __name__ == "__main__":
    _main()
