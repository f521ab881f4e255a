"""`Turn`: processes of one server compute one after the other instead of fighting for the same cores.

The queue is a file without contents. A process queues by a write lock on one byte, at a later offset than all before it, and
has its turn once nobody locks a byte in front of its own. The locks belong to open file descriptions (`F_OFD_SETLK`, see
fcntl_locking(2)), so the kernel itself drops those of a process that dies: its turn and its place in the queue go on at once.

    0           mutex, held for the microseconds in which a process queues
    1 .. t - 1  read lock of the holder: waits for all that came before
    t           write lock of the holder; t is the time of its queueing in nanoseconds
    u > t       write locks of those that wait, in order of arrival

Turns are served first come, first served, so while a process waits each of the others computes once at most.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deepwell.process.progress import Progress

__all__ = ["QUANTUM_S", "Turn", "make_turns"]

# A change of turns costs some 0.1 ms of waking and cold caches: 1 % of this quantum. A step is never cut short, so a turn lasts
# this long, and up to a step longer.
QUANTUM_S: Final = 0.01
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_REST: Final = 0  # length of a range without end
_MUTEX: Final = 0
_log = logging.getLogger("deepwell")


def make_turns() -> Path | None:
    """Makes a file for `Turn` in memory, which lives as long as this process. None: this system has no such locks."""
    if not (hasattr(fcntl, "F_OFD_SETLK") and hasattr(os, "memfd_create")):
        return None
    return Path(f"/proc/{os.getpid()}/fd/{os.memfd_create('deepwell-turns')}")


class Turn:
    """The place of one process among those that share a file. It is used by one thread at a time.

    Args:
        path: the file that all share; it is made if it is not there.
        quantum_s: a process that has more work keeps its turn for this long although others wait.
        clock: returns seconds.

    Raises:
        OSError: the file cannot be opened, or the system has no such locks.
    """

    def __init__(
        self, path: Path, *, quantum_s: float = QUANTUM_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.queued = False  # True: waits for the turn, or has it
        self.held = False
        self.taken = 0  # turns so far
        self._quantum_s = quantum_s
        self._clock = clock
        self._since = 0.0
        self._place = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(fcntl.F_UNLCK, 0, _REST)
        except OSError:
            self.close()
            raise

    def take(self, progress: Progress | None = None) -> None:
        """Waits for the turn, unless this process has it. `progress` rests meanwhile: waiting is no step that hangs.

        A system that runs out of locks is logged, and from then on this process computes without turns.
        """
        if self.held or self._file < 0:
            return
        try:
            self._queue()
            if not self._lock(fcntl.F_RDLCK, 1, self._place - 1):
                if progress is not None:
                    progress.rest()
                self._lock(fcntl.F_RDLCK, 1, self._place - 1, wait=True)
        except OSError as error:
            _log.error("computing without turns from now on: %s", error)
            self.close()
            return
        self.held = True
        self.taken += 1
        self._since = self._clock()

    def offer(self, *, idle: bool = False) -> None:
        """Gives the turn back if nothing is left to do, or if its quantum is over and another process waits."""
        if self.held and (idle or (self._clock() - self._since >= self._quantum_s and self.others_wait())):
            self.give()

    def give(self) -> None:
        """Gives the turn back, if this process has it."""
        if self.held:
            self.held = self.queued = False
            self._lock(fcntl.F_UNLCK, 0, _REST)

    def others_wait(self) -> bool:
        """Returns True if this process has the turn and another has queued behind it."""
        if not self.held:
            return False
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self._place + 1, _REST, 0)
        kind = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, request))[0]
        return kind != fcntl.F_UNLCK

    def close(self) -> None:
        """Gives the turn back and leaves for good. Closing twice is harmless."""
        self.held = self.queued = False
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _queue(self) -> None:
        """Locks a byte behind those of all others."""
        self._lock(fcntl.F_WRLCK, _MUTEX, 1, wait=True)
        place = time.monotonic_ns()
        while not self._lock(fcntl.F_WRLCK, place, 1):  # the clock stood still between two processes
            place += 1
        self._place = place
        self.queued = True
        self._lock(fcntl.F_UNLCK, _MUTEX, 1)

    def _lock(self, kind: int, start: int, length: int, *, wait: bool = False) -> bool:
        """Locks or unlocks a range. Returns False if another holds it and `wait` is False."""
        command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        try:
            fcntl.fcntl(self._file, command, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
        except BlockingIOError:
            return False
        return True
