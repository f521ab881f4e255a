"""`FitThreads`: threads for long work of tenants beside the event loop, a few at a time, and one tenant after the other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["FitThreads"]

T = TypeVar("T")


class FitThreads:
    """Runs work on threads. It belongs to one event loop.

    A thread cannot be ended from outside. Where the caller has left, its work ends at its next wait, and holds its turn until
    then, so that clients who hang up start no more work than others.

    Args:
        most: works at a time.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def run(self, tenant: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns the result of work that runs on a thread with an event loop of its own."""
        running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

        async def told() -> T:
            if (task := asyncio.current_task()) is not None:
                running.append((asyncio.get_running_loop(), task))
            return await work()

        try:
            return await self.call(tenant, lambda: asyncio.run(told()))
        except asyncio.CancelledError:
            if running and not running[0][1].done():
                loop, task = running[0]
                with suppress(RuntimeError):  # the loop has just closed: nothing is left to end
                    loop.call_soon_threadsafe(task.cancel)
            raise

    async def call(self, tenant: str, function: Callable[..., T], *arguments: Any) -> T:
        """Returns the result of a function that runs on a thread."""
        await self._turn(tenant)
        thread = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
        thread.add_done_callback(self._ended)
        return await asyncio.shield(thread)

    async def _turn(self, tenant: str) -> None:
        if self._free:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # its turn has just come
                self._next()
            raise

    def _ended(self, thread: asyncio.Future[Any]) -> None:
        if not thread.cancelled():
            thread.exception()  # told to the caller, if it is still there
        self._next()

    def _next(self) -> None:
        """Gives a turn to the tenant that has waited longest since its last one."""
        while self._waiting:
            tenant, waiters = self._waiting.popitem(last=False)
            waiter = waiters.popleft()
            if waiters:
                self._waiting[tenant] = waiters
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
