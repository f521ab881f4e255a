"""Memory and age of a server: its process and all that it started, as Linux tells them in `/proc`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["age_s", "memory_bytes", "root_of_server"]

_PROC = Path("/proc")
_PARENT, _START = 1, 19  # fields of `stat` behind the name of the program, from 0


def root_of_server() -> int:
    """Returns the process that all others of this server descend from: of several HTTP workers, their parent."""
    return os.getppid() if "PROMETHEUS_MULTIPROC_DIR" in os.environ else os.getpid()


def memory_bytes(root: int) -> int:
    """Returns the memory of a process and its descendants. What they share counts once. Takes milliseconds."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir(_PROC):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
    return sum(map(_own_bytes, _descendants(root, children)))


def age_s(root: int) -> float:
    """Returns for how long a process has run, in seconds."""
    fields = _stat(root)
    if not fields:
        return 0.0
    started = int(fields[_START]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def _descendants(root: int, children: dict[int, list[int]]) -> Iterator[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, ())


def _stat(pid: int) -> list[str]:
    """Returns the fields behind the name, which may hold spaces; none if the process has ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _own_bytes(pid: int) -> int:
    """Returns the proportional set size. Where reading that is forbidden, the resident size takes its place."""
    folder = _PROC / str(pid)
    try:
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
