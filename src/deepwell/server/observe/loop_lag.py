"""`LoopLag`: measures how late the event loop is, by a timer that compares when it was due with when it ran."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["INTERVAL_S", "LoopLag"]

# A loop that is held up for longer than this is always noticed. Ten wakings a second cost some 0.03 % of a core.
INTERVAL_S = 0.1


class LoopLag:
    """A timer that tells `observe` by how many seconds each tick was late. `watch` starts it on the running loop, once."""

    def __init__(self, observe: Callable[[float], object]) -> None:
        self._observe = observe
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = 0.0

    def watch(self) -> None:
        """Watches the running loop until it is closed. A later loop replaces an earlier one."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._due = loop.time() + INTERVAL_S
            loop.call_at(self._due, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        now = loop.time()
        self._observe(max(0.0, now - self._due))
        self._due = now + INTERVAL_S
        loop.call_at(self._due, self._tick, loop)
