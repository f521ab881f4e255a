"""Responses that are worked on with nobody waiting: what each has said so far, for all who come to read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from deepwell.errors import DeepwellError
from deepwell.storage.database import Tenant

__all__ = ["Background", "Recording", "Run", "TooManyRuns"]

MAX_RUNS = 1024  # unfinished at a time; each holds its events in memory


class TooManyRuns(DeepwellError):
    """More background responses at once than the server takes on."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Recording:
    """Events in the order they came. Readers begin anywhere and wait for what is to come."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.ended = False
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, event: bytes) -> None:
        """Record one more."""
        self.events.append(event)
        self._wake()

    def end(self) -> None:
        """Nothing more comes."""
        self.ended = True
        self._wake()

    async def read(self, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Events from number `start` on, until the end."""
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
    """One response at work. `snapshot` encodes it as it is now."""

    def __init__(self, snapshot: Callable[[], bytes]) -> None:
        self.recording = Recording()
        self.snapshot = snapshot
        self.cancelled = False  # by a client; else, if it ends early, by the server
        self.task: asyncio.Task[None] | None = None


class Background:
    """All responses at work, by tenant and id."""

    def __init__(self) -> None:
        self._runs: dict[tuple[Tenant, str], Run] = {}

    def find(self, tenant: Tenant, id: str) -> Run | None:
        """The run, unless it has ended."""
        return self._runs.get((tenant, id))

    def check_room(self) -> None:
        """Refuse more than the server takes on.

        Raises:
            TooManyRuns: they are too many already.
        """
        if len(self._runs) >= MAX_RUNS:
            raise TooManyRuns(
                f"{len(self._runs)} background responses are unfinished",
                fix="wait for some of them, or cancel them",
            )

    async def start(self, tenant: Tenant, id: str, run: Run, work: Coroutine[Any, Any, None]) -> None:
        """Work on a response, until it ends by itself."""

        async def ended() -> None:
            try:
                await work
            finally:
                del self._runs[tenant, id]
                run.recording.end()

        self._runs[tenant, id] = run
        run.task = asyncio.create_task(ended())
        # A task that is cancelled before its first step runs not even its `finally`.
        await asyncio.sleep(0)

    async def cancel(self, run: Run) -> None:
        """End a run, and wait until that has been stored."""
        run.cancelled = True
        assert run.task is not None
        run.task.cancel()
        await asyncio.wait((run.task,))

    async def close(self) -> None:
        """End all of them: the server stops."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
