"""`BackgroundProgram`: a kept program beside a main thread that serves, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable

from deepwell.process.programs import KeptProgram, Program, ProgramState

__all__ = ["BackgroundProgram"]

_STOP_S = 20.0  # from the request to end to the kill
_KILL_S = 5.0


class BackgroundProgram:
    """Keeps one program running until `stop`. The thread that starts it lives as long as it does, as its death signal asks.

    Args:
        on_line: called with the name of the program and each line that it prints, on that thread.

    Attributes:
        state: that of the program.
    """

    def __init__(self, program: Program, on_line: Callable[[str, str], None]) -> None:
        self._program = program
        self._on_line = on_line
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kept: KeptProgram | None = None
        self._thread = threading.Thread(target=self._run, name=f"deepwell-{program.name}", daemon=True)

    def start(self) -> None:
        """Starts the program; it is not ready yet."""
        self._thread.start()
        self._begun.wait()
        atexit.register(self.stop)

    @property
    def state(self) -> ProgramState:
        """State of the program."""
        return self._kept.state if self._kept is not None else "new"

    @property
    def last_end(self) -> str:
        """End of its last process: an exit status or the name of a signal; empty: none has ended."""
        return self._kept.last_end if self._kept is not None else ""

    def stop(self) -> None:
        """Ends the program, in the end by force. Stopping twice is harmless."""
        atexit.unregister(self.stop)
        loop, kept = self._loop, self._kept
        if loop is None or kept is None or not self._thread.is_alive():
            return
        for order, wait_s in ((kept.stop, _STOP_S), (kept.kill, _KILL_S)):
            try:
                loop.call_soon_threadsafe(order)
            except RuntimeError:  # it has just ended
                return
            self._thread.join(wait_s)
            if not self._thread.is_alive():
                return

    def _run(self) -> None:
        asyncio.run(self._keep())

    async def _keep(self) -> None:
        async def ended() -> None:
            """Leaves other children of this process alone: they are not this program's."""

        self._loop = asyncio.get_running_loop()
        self._kept = KeptProgram(self._program, self._on_line, lambda _: None, ended)
        self._begun.set()
        await self._kept.keep()
