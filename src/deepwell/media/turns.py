"""`Turns`: the parent's end of a child that works on several requests of one tenant by turns, a call at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from deepwell.errors import DeepwellError
from deepwell.process.calls import CallEnded, CallProcess
from deepwell.process.frames import Failure, error_of

__all__ = ["TurnRules", "Turns"]

_GRACE_S: Final = (
    0.5  # in which a call that nobody waits for may end by itself, so that the model stays loaded
)
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class TurnRules:
    """Rules by which a kind of child is asked.

    Attributes:
        ended: the error for a child that ended.
        busy: the error for a request that finds too many before it.
        call_s: longest time of a call, in seconds.
        at_a_time: requests that take turns.
        most: requests that take turns or wait.
        started: the error for a child that ended as it started; None: that of `ended`.
        alone: whether one request has the child for itself. A cancelled task then ends the call that nobody waits for.
    """

    ended: Callable[[CallEnded], DeepwellError]
    busy: Callable[[], DeepwellError]
    call_s: float
    at_a_time: int = 8
    most: int = 64
    started: Callable[[CallEnded], DeepwellError] | None = None
    alone: bool = False

    @property
    def places(self) -> int:
        """Number of requests that take turns."""
        return 1 if self.alone else self.at_a_time


class Turns:
    """The turns of one child, which starts with the first call. It belongs to one event loop.

    Args:
        calls: the child. `Failure` is one of its messages.
        rules: how it is asked.
        name: name of the thread that waits for it.
    """

    def __init__(self, calls: CallProcess, rules: TurnRules, name: str) -> None:
        self._calls, self._rules = calls, rules
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._ids = itertools.count(1)
        self._tenant = ""  # of the requests that have a place
        self._held = 0  # places
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._requests = 0

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._calls.pid

    @property
    def busy(self) -> bool:
        """True while a request has a place or waits for one."""
        return self._requests > 0

    def new_id(self) -> int:
        """Returns the number of a piece of work that the child keeps between calls."""
        return next(self._ids)

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[Any]:
        """Holds a place among those that take turns; waits for one, first come, first served. Yields the child's hello.

        Requests of two tenants never have places at a time. The child is started if there is none for the tenant.

        Raises:
            DeepwellError: that of `rules.busy`, where too many wait; or the child could not start.
        """
        if self._requests >= self._rules.most:
            raise self._rules.busy()
        self._requests += 1
        try:
            await self._enter(tenant)
            try:
                yield await self._start(tenant)
            finally:
                self._held -= 1
                self._admit()
        finally:
            self._requests -= 1

    async def _enter(self, tenant: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((tenant, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had just got its place
                self._held -= 1
            self._admit()
            raise

    def _admit(self) -> None:
        """Gives places to those that wait, in their order."""
        while self._waiting:
            tenant, turn = self._waiting[0]
            if not turn.cancelled():
                if self._held and (self._held >= self._rules.places or tenant != self._tenant):
                    return
                self._tenant = tenant
                self._held += 1
                turn.set_result(None)
            self._waiting.popleft()

    async def _start(self, tenant: str) -> Any:
        try:
            hello = await self._apart(lambda: self._calls.start(tenant))
        except CallEnded as error:
            raise (self._rules.started or self._rules.ended)(error) from None
        if isinstance(hello, Failure):
            await asyncio.to_thread(self._calls.close)
            raise error_of(hello)
        return hello

    async def ask(self, body: bytes, call_s: float | None = None, *, file: int | None = None) -> Any:
        """Makes a call for the tenant that has the places. Returns its answer, or raises the error that the child told.

        Args:
            call_s: longest time of the call, instead of the rules'.
            file: descriptor of a file that is handed to the child.
        """
        longest_s = self._rules.call_s if call_s is None else call_s
        tenant = self._tenant
        try:
            answer = await self._apart(lambda: self._calls.call(body, longest_s, tenant=tenant, file=file))
        except CallEnded as error:
            raise self._rules.ended(error) from None
        if isinstance(answer, Failure):
            raise error_of(answer)
        return answer

    async def let_go(self, body: bytes) -> None:
        """Makes the call that lets the child forget a piece of work. A child that ended has forgotten it."""
        if self._calls.pid:
            try:
                await self.ask(body)
            except (DeepwellError, RuntimeError):  # closed meanwhile
                return

    async def close(self) -> None:
        """Ends the child and what it works on. The next call starts another."""
        await asyncio.to_thread(self._calls.close)
        self._thread.shutdown(wait=False)

    async def _apart(self, call: Callable[[], Any]) -> Any:
        """Makes a call in the thread of this child. A cancelled task leaves it to end, or ends it if it is `alone`."""
        work = asyncio.get_running_loop().run_in_executor(self._thread, call)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody asks for it
            if self._rules.alone:
                await asyncio.wait([work], timeout=_GRACE_S)
                while not work.done():
                    self._calls.kill()
                    await asyncio.sleep(_POLL_S)
            raise
