"""Time of day that all processes over one database share.

What one server writes, such as when a file expires, another one compares with its own time. With a file as database there is
one machine and one clock. With PostgreSQL the database's clock counts: the difference is looked at when the database is
opened and about once a minute, and in between a clock goes on that nobody can set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["SharedClock", "note_time", "shared_time"]

_log = logging.getLogger("deepwell.storage")

_LONGEST_ANSWER_S: Final = 2.0  # an answer that took longer says too little of the time
_WORTH_A_WORD_S: Final = 5.0
_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


@dataclass(slots=True)
class SharedClock:
    """A clock that goes as that of the database, once it has been told the time.

    Attributes:
        wall: clock of this machine.
        steady: clock that is never set.
    """

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = lambda: time.clock_gettime(_STEADY)
    _base: float | None = None
    _told: float = 0.0

    def now(self) -> float:
        """Returns the time in seconds since the epoch."""
        base = self._base
        return self.wall() if base is None else base + self.steady()

    def note(self, ask: Callable[[], float]) -> None:
        """Asks for the database's time. The answer counts as that of the middle of the wait.

        A difference from this machine's clock of more than some seconds is logged, and again when it changes by as much.
        """
        before = self.steady()
        there = ask()
        after = self.steady()
        if after - before > _LONGEST_ANSWER_S:
            return
        self._base = there - (before + after) / 2
        ahead = self.wall() - self.now()
        if abs(ahead - self._told) > _WORTH_A_WORD_S:
            self._told = ahead
            _log.warning(
                "the clock of this machine is %.0f seconds %s that of the database, which counts; set it (NTP)",
                abs(ahead),
                "ahead of" if ahead > 0 else "behind",
            )


_clock = SharedClock()


def shared_time() -> float:
    """Returns the time of the database that this process has opened last, in seconds since the epoch."""
    return _clock.now()


def note_time(ask: Callable[[], float]) -> None:
    """Looks at the time of the database; see `SharedClock.note`."""
    _clock.note(ask)
