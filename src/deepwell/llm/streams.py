"""Streams of text, for callers with and without an event loop."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from deepwell.errors import DeepwellError
from deepwell.llm.calls import Call
from deepwell.llm.results import Piece
from deepwell.llm.session import Session

__all__ = ["AsyncTextStream", "TextStream"]

_Post = list[Piece] | Exception | None  # None: the stream is complete


async def _pump(call: Call, put: Callable[[_Post], None]) -> None:
    """Runs a call, and hands over its pieces, then its end or its error."""
    try:
        await call.stream(put)
    except asyncio.CancelledError:
        put(
            DeepwellError(
                "the stream was cut: the model was closed", fix="keep it open until the stream ends"
            )
        )
        raise
    except Exception as error:  # the reader raises it
        put(error)
    else:
        put(None)


class TextStream(Iterator[Piece]):
    """An iterator over the pieces of an answer, as they come.

    Closing the stream, breaking out of its loop or dropping it aborts the request within one step of the engine.
    """

    def __init__(self, owner: object, session: Session, call: Call) -> None:
        self._owner = owner  # a model that nobody holds is closed
        self._posts: queue.SimpleQueue[_Post] = queue.SimpleQueue()
        self._pieces: deque[Piece] = deque()
        self._ended = False
        self._running = session.start(_pump(call, self._posts.put))

    def __next__(self) -> Piece:
        while not self._pieces:
            if self._ended:
                raise StopIteration
            try:
                post = self._posts.get()
            except BaseException:  # Ctrl-C
                self.close()
                raise
            if not isinstance(post, list):
                self._ended = True
                if post is not None:
                    raise post
            else:
                self._pieces.extend(post)
        return self._pieces.popleft()

    def close(self) -> None:
        """Aborts the request; nothing more comes."""
        self._ended = True
        self._pieces.clear()
        self._running.cancel()

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_running"):
            self.close()


class AsyncTextStream(AsyncIterator[Piece]):
    """An asynchronous iterator over the pieces of an answer, as they come. It belongs to one event loop.

    Closing the stream, cancelling its reader or dropping it aborts the request within one step of the engine.
    """

    def __init__(self, owner: object, session: Session, call: Call) -> None:
        self._owner = owner
        self._posts: asyncio.Queue[_Post] = asyncio.Queue()
        self._pieces: deque[Piece] = deque()
        self._ended = False
        loop, put = asyncio.get_running_loop(), self._posts.put_nowait
        self._running = session.start(_pump(call, lambda post: _hand_over(loop, put, post)))

    async def __anext__(self) -> Piece:
        while not self._pieces:
            if self._ended:
                raise StopAsyncIteration
            try:
                post = await self._posts.get()
            except BaseException:
                self._close()
                raise
            if not isinstance(post, list):
                self._ended = True
                if post is not None:
                    raise post
            else:
                self._pieces.extend(post)
        return self._pieces.popleft()

    async def aclose(self) -> None:
        """Aborts the request; nothing more comes."""
        self._close()

    def _close(self) -> None:
        self._ended = True
        self._pieces.clear()
        self._running.cancel()

    async def __aenter__(self) -> AsyncTextStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def __del__(self) -> None:
        if hasattr(self, "_running"):
            self._close()


def _hand_over(loop: asyncio.AbstractEventLoop, put: Callable[[_Post], None], post: _Post) -> None:
    """Gives a post to the reader's loop. Where that is closed, an exception ends the call."""
    loop.call_soon_threadsafe(put, post)
