"""The receiving ends of a request: what `generate` and `generate_sync` return."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from deepwell.engine.protocol import Delta

__all__ = ["DeltaStream", "Mailbox", "SyncDeltaStream"]


class Mailbox:
    """The receiving end of an asynchronous request; all but `loop` belongs to that loop's thread."""

    __slots__ = ("loop", "ready", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ready: deque[Delta] = deque()
        self.waiter: asyncio.Future[None] | None = None

    def deliver(self, delta: Delta) -> None:
        """Hand a delta to whoever waits."""
        self.ready.append(delta)
        self.wake()

    def wake(self) -> None:
        """Let a waiting consumer look again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class DeltaStream(AsyncIterator[Delta]):
    """The deltas of one request, for one event loop.

    A stream that is cancelled, closed or dropped before its end aborts the request within one step.
    """

    def __init__(self, mailbox: Mailbox, drop: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._drop = drop
        self._ended = False

    async def __anext__(self) -> Delta:
        mailbox = self._mailbox
        while not mailbox.ready:
            if self._ended:
                raise StopAsyncIteration
            mailbox.waiter = mailbox.loop.create_future()
            try:
                await mailbox.waiter
            except asyncio.CancelledError:
                self._close()
                raise
            finally:
                mailbox.waiter = None
        delta = mailbox.ready.popleft()
        self._ended = delta.finish_reason is not None
        return delta

    async def aclose(self) -> None:
        """Abort the request; nothing more is delivered."""
        self._close()
        self._mailbox.ready.clear()
        self._mailbox.wake()

    def _close(self) -> None:
        if not self._ended:
            self._ended = True
            self._drop()

    def __del__(self) -> None:
        self._close()


class SyncDeltaStream(Iterator[Delta]):
    """The deltas of one request, for a thread without an event loop; closed or dropped, it aborts."""

    def __init__(self, deltas: queue.SimpleQueue[Delta], drop: Callable[[], None]) -> None:
        self._deltas = deltas
        self._drop = drop
        self._ended = False

    def __next__(self) -> Delta:
        if self._ended:
            raise StopIteration
        delta = self._deltas.get()
        self._ended = delta.finish_reason is not None
        return delta

    def close(self) -> None:
        """Abort the request within one step."""
        if not self._ended:
            self._ended = True
            self._drop()

    def __del__(self) -> None:
        self.close()
