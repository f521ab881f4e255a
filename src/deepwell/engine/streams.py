"""The receiving ends of a request, returned by `generate` and `generate_sync`."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

from deepwell.engine.protocol import Delta
from deepwell.errors import DeepwellError

__all__ = ["DeltaStream", "Mailbox", "Outlet", "SyncDeltaStream", "deliver"]

_WOKEN_AT_ONCE = 4


class Outlet(Protocol):
    """A receiver of the deltas of many requests, which gets all deltas of one step at once."""

    def post(self, deltas: list[Delta]) -> None:
        """Receives deltas. It runs on the engine's thread, so it must neither block nor raise."""
        ...


class Mailbox:
    """The receiving end of an asynchronous request. Everything except `loop` belongs to that loop's thread."""

    __slots__ = ("begun", "loop", "ready", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.begun = False
        self.ready: deque[Delta | DeepwellError] = deque()
        self.waiter: asyncio.Future[None] | None = None

    def fail(self, error: DeepwellError) -> None:
        """Ends the stream with an error, which its reader gets after all earlier deltas."""
        self.ready.append(error)
        self.wake()

    def wake(self) -> None:
        """Wakes a waiting consumer."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


def deliver(mail: Sequence[tuple[Mailbox, Delta]]) -> None:
    """Delivers the deltas of one step, on the loop of the mailboxes.

    Readers of a first token wake first, the others a few at a time. In between, the loop accepts new requests and the first
    tokens of the next step.
    """
    later: list[Mailbox] = []
    for mailbox, delta in mail:
        mailbox.ready.append(delta)
        if mailbox.begun:
            later.append(mailbox)
        else:
            mailbox.begun = True
            mailbox.wake()
    _wake(later, 0)


def _wake(mailboxes: Sequence[Mailbox], start: int) -> None:
    stop = start + _WOKEN_AT_ONCE
    for mailbox in mailboxes[start:stop]:
        mailbox.wake()
    if stop < len(mailboxes):
        mailboxes[stop].loop.call_soon(_wake, mailboxes, stop)


class DeltaStream(AsyncIterator[Delta]):
    """The stream of deltas of one request, for one event loop.

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
        if isinstance(delta, DeepwellError):
            self._ended = True
            raise delta
        self._ended = delta.finish_reason is not None
        return delta

    async def aclose(self) -> None:
        """Aborts the request; nothing more is delivered."""
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
    """The stream of deltas of one request, for a thread without an event loop. Closing or dropping it aborts the request."""

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
        """Aborts the request within one step."""
        if not self._ended:
            self._ended = True
            self._drop()

    def __del__(self) -> None:
        self.close()
