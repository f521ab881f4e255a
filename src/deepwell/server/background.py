"""Responses that are generated in the background, and the events of each so far, for all that come to read them.

The process that generates a response has a lease on it (`storage/responses.py`). `LeaseKeeper` renews the leases of this
process, and ends the responses of processes that were killed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from deepwell.errors import DeepwellError, NotFound
from deepwell.server.state import State
from deepwell.storage.database import Tenant
from deepwell.storage.responses import StoredResponse

__all__ = ["Background", "LeaseKeeper", "Recording", "Run", "TooManyRuns", "to_its_end"]

_log = logging.getLogger("deepwell.server")

T = TypeVar("T")

_LOOK_S = 1.0  # between renewals, and looks for silent owners
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

    @property
    def ids(self) -> set[str]:
        """The ids of all runs, which are unique beyond tenants."""
        return {id for _, id in self._runs}

    def drop(self, ids: set[str]) -> None:
        """Cancels the runs of these ids, whose responses this process has lost, without waiting."""
        for (_, id), run in self._runs.items():
            if id in ids and run.task is not None:
                run.cancelled = True
                run.task.cancel()

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


class LeaseKeeper:
    """Work beside requests that keeps this process's background responses, and gives up those of dead processes.

    A response is not run again: its client may have read a part of it, and its function calls may have been acted on.
    """

    def __init__(
        self, background: Background, lease_s: float, end: Callable[[StoredResponse], StoredResponse]
    ) -> None:
        """Keeps the runs of `background`. `end` turns a response that was given up into a failed one."""
        self._background = background
        self._lease_s = lease_s
        self._end = end
        self._missed: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self, state: Callable[[], State], kept: asyncio.Event) -> None:
        """Starts the work on the stores that `state` returns, once `kept` is set."""
        self._task = asyncio.create_task(self._run(state, kept))

    async def stop(self) -> None:
        """Ends the work. The runs are closed afterwards, within their leases."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self, state: Callable[[], State], kept: asyncio.Event) -> None:
        await kept.wait()
        while True:
            try:
                await self.look(state())
            except Exception as error:  # the loop outlives any failure
                _warn("the leases of background responses cannot be kept", error)
            await asyncio.sleep(min(_LOOK_S, self._lease_s / 4))

    async def look(self, state: State) -> None:
        """Renews the leases, drops the runs that others have ended, and ends the responses of silent processes."""
        running = self._background.ids
        if not running and not await state.responses.is_any_unfinished():
            return
        kept = await state.responses.beat(running, state.owner, self._lease_s)
        # A run that is just ending has no lease any more either, so one is dropped when it is missed twice.
        missed = running - kept
        self._background.drop(missed & self._missed)
        self._missed = missed
        for tenant, id in await state.responses.take_silent(state.jobs, state.owner, self._lease_s):
            try:
                await state.responses.close(tenant, id, self._end)
            except NotFound:
                await state.responses.drop_lease(tenant, id)
                continue
            except Exception as error:  # one that cannot be ended leaves the others to be
                _warn(f"the background response {id} cannot be given up", error)
                continue
            _log.warning("the background response %s was given up: its process has not been heard of", id)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` to its end even if the caller is cancelled meanwhile, for what must not be left half done.

    The caller goes on as if it had not been cancelled, so nothing of length may follow.
    """
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def _warn(what: str, error: Exception) -> None:
    foreseen = isinstance(error, DeepwellError)
    _log.warning("%s: %s", what, error, exc_info=None if foreseen else error)
