"""Responses that are generated in the background, and the events of each so far, for all that come to read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from deepwell.errors import DeepwellError
from deepwell.storage.database import Tenant

__all__ = ["Background", "Recording", "Run", "TooManyRuns"]

MAX_RUNS = 1024  # unfinished at a time; each holds its events in memory


class TooManyRuns(DeepwellError):
    """Raised when there are more unfinished background responses than the server accepts."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Recording:
    """Events in the order they came. Readers begin anywhere and wait for further ones."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.ended = False
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, event: bytes) -> None:
        """Records one more event."""
        self.events.append(event)
        self._wake()

    def end(self) -> None:
        """Ends the recording: no event follows."""
        self.ended = True
        self._wake()

    async def read(self, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Yields events from number `start` on, until the end."""
        position = start
        while True:
            while position < len(self.events):
                yield self.events[position]
                position += 1
            if self.ended:
                return
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Run:
    """One response that is being generated. `snapshot` encodes its current state."""

    def __init__(self, snapshot: Callable[[], bytes]) -> None:
        self.recording = Recording()
        self.snapshot = snapshot
        self.cancelled = False  # by a client; if the task ends early without it, by the server
        self.task: asyncio.Task[None] | None = None


class Background:
    """All background responses that are being generated, by tenant and id."""

    def __init__(self) -> None:
        self._runs: dict[tuple[Tenant, str], Run] = {}

    def find(self, tenant: Tenant, id: str) -> Run | None:
        """Returns the run, or None if there is none or it has ended."""
        return self._runs.get((tenant, id))

    def check_room(self) -> None:
        """Checks that the server can take on one more response.

        Raises:
            TooManyRuns: too many are unfinished already.
        """
        if len(self._runs) >= MAX_RUNS:
            raise TooManyRuns(
                f"{len(self._runs)} background responses are unfinished",
                fix="wait for some of them, or cancel them",
            )

    async def start(self, tenant: Tenant, id: str, run: Run, work: Coroutine[Any, Any, None]) -> None:
        """Starts the work on a response, which goes on until it ends by itself."""

        async def ended() -> None:
            try:
                await work
            finally:
                del self._runs[tenant, id]
                run.recording.end()

        self._runs[tenant, id] = run
        run.task = asyncio.create_task(ended())
        # A task that is cancelled before its first step does not run even its `finally`.
        await asyncio.sleep(0)

    async def cancel(self, run: Run) -> None:
        """Cancels a run, and waits until that has been stored."""
        run.cancelled = True
        assert run.task is not None
        run.task.cancel()
        await asyncio.wait((run.task,))

    async def close(self) -> None:
        """Cancels all runs, because the server stops, and waits for them."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
