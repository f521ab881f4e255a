"""`Progress`: counters in shared memory by which a child shows its supervisor that it moves.

The child writes and the supervisor reads, without a lock and without a message, so a busy event loop or a thread that holds
the interpreter's lock hides nothing. Each counter has one writer.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress

__all__ = ["Progress"]

_LOOP, _STEPS, _WORKING = range(3)
_BYTES = 64  # one cache line


class Progress:
    """The counters of one child.

    Attributes:
        descriptor: the file behind the memory, for the child to inherit; -1 if the memory is this process's own.
    """

    def __init__(self, memory: mmap.mmap, descriptor: int = -1) -> None:
        self.descriptor = descriptor
        self._memory = memory
        self._counters = memoryview(memory).cast("Q")

    @classmethod
    def private(cls) -> Progress:
        """Returns counters that nobody else reads."""
        return cls(mmap.mmap(-1, _BYTES))

    @classmethod
    def shared(cls) -> Progress:
        """Returns counters that a child can open by `descriptor`."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("deepwell-progress")
        else:
            descriptor, path = tempfile.mkstemp(prefix="deepwell-progress-")
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
        os.truncate(descriptor, _BYTES)
        return cls(mmap.mmap(descriptor, _BYTES), descriptor)

    @classmethod
    def opened(cls, descriptor: int) -> Progress:
        """Returns the counters behind an inherited descriptor, which is closed."""
        try:
            return cls(mmap.mmap(descriptor, _BYTES))
        finally:
            os.close(descriptor)

    def turn(self) -> None:
        """Counts a piece of work that the event loop has done. Called on the loop's thread."""
        self._counters[_LOOP] += 1

    def begin(self) -> None:
        """Notes that the working thread has work. It has to `step`, or to `rest`, from now on."""
        self._counters[_WORKING] = 1

    def step(self) -> None:
        """Counts a step of the working thread."""
        self._counters[_STEPS] += 1

    def rest(self) -> None:
        """Notes that the working thread waits for work."""
        self._counters[_WORKING] = 0

    @property
    def turns(self) -> int:
        """Pieces of work that the event loop has done."""
        return self._counters[_LOOP]

    @property
    def steps(self) -> int:
        """Steps that the working thread has done."""
        return self._counters[_STEPS]

    @property
    def working(self) -> bool:
        """True while the working thread has work."""
        return self._counters[_WORKING] != 0

    def close(self) -> None:
        """Releases the memory, and the descriptor if there is one."""
        self._counters.release()
        self._memory.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
