"""Answers that end when the client leaves: streams of server-sent events or lines, and whole bodies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deepwell.errors import DeepwellError
from deepwell.server.http.errors import ClientLeft, RequestTimeout, ShuttingDown, encode_error

__all__ = ["Answer", "EventStream", "Stop", "attended", "event"]

T = TypeVar("T")
_log = logging.getLogger("deepwell.server")
_DONE = b"data: [DONE]\n\n"


class Stop:
    """The signal that the server stops. It reaches every answer in flight, and at once those that begin later."""

    def __init__(self) -> None:
        self._told: set[Callable[[], None]] = set()
        self._now = False

    def set(self) -> None:
        """Signals that the server stops."""
        self._now = True
        for told in tuple(self._told):
            told()

    def tell(self, whom: Callable[[], None]) -> None:
        """Calls `whom` when the server stops, or at once if it has."""
        self._told.add(whom)
        if self._now:
            whom()

    def forget(self, whom: Callable[[], None]) -> None:
        """Removes `whom`: its answer has ended."""
        self._told.discard(whom)


def event(data: bytes) -> bytes:
    """Returns one server-sent event. JSON has no raw line break, so one `data` line carries it."""
    return b"data: " + data + b"\n\n"


async def attended(work: Coroutine[Any, Any, T], scope: Scope, receive: Receive, stopped: Stop) -> T:
    """Runs `work`. Cancels it, and waits for its end, if the client leaves, the time is up, or the server stops.

    The work runs in the caller's own task, so it begins at once and is cancelled there.
    """
    me = asyncio.current_task()
    assert me is not None
    reason: Exception | None = None
    ended = False

    def interrupt(why: Exception) -> None:
        nonlocal reason
        if not ended and reason is None:
            reason = why
            me.cancel()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        interrupt(ClientLeft())

    def stop() -> None:
        interrupt(ShuttingDown("the server is shutting down", fix="send the request again when it is back"))

    watchers: list[asyncio.Task[None] | asyncio.TimerHandle] = [asyncio.create_task(watch())]
    state: dict[str, Any] = scope.get("state", {})
    if (deadline := state.get("deadline")) is not None:
        late = RequestTimeout(
            f"the request took longer than the {state['timeout_s']:g} s that are allowed",
            fix="ask for fewer tokens, or start the server with a higher DEEPWELL_REQUEST_TIMEOUT_S",
        )
        watchers.append(asyncio.get_running_loop().call_at(deadline, interrupt, late))
    stopped.tell(stop)
    try:
        return await work
    except asyncio.CancelledError:
        if reason is None or me.uncancel() > 0:  # somebody else cancels this task as well
            raise
        raise reason from None
    finally:
        ended = True
        stopped.forget(stop)
        for watcher in watchers:
            watcher.cancel()


class Answer(Response):
    """A body that is made while the client waits. It is JSON unless another `media_type` is given."""

    def __init__(
        self,
        body: Coroutine[Any, Any, bytes],
        stopped: Stop,
        media_type: str = "application/json",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(media_type=media_type)
        self._work = body
        self._stopped = stopped
        self._further = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await attended(self._work, scope, receive, self._stopped)
        except ClientLeft:
            return
        await Response(body, headers=self._further, media_type=self.media_type)(scope, receive, send)


def _failure(error: DeepwellError) -> bytes:
    return event(encode_error(error))


class EventStream(Response):
    """A stream of server-sent events, closed by `[DONE]` unless another `end` is given. `media_type` names other streams.

    The response starts with the first event, so a failure before it is an ordinary error response. A later failure is an
    error event, which `failed` makes. No `end` follows it.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        stopped: Stop,
        *,
        end: bytes = _DONE,
        failed: Callable[[DeepwellError], bytes] = _failure,
        media_type: str = "text/event-stream",
    ) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._events = events
        self._stopped = stopped
        self._end = end
        self._failed = failed
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await attended(self._pump(send), scope, receive, self._stopped)
        except ClientLeft:
            return
        except DeepwellError as error:
            if not self._started:
                raise
            await self._send(send, self._failed(error), more=False)
        except Exception:
            if not self._started:
                raise
            _log.exception("a stream failed")
            await self._send(
                send, self._failed(DeepwellError("the server failed: its log has the traceback")), more=False
            )

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for data in events:
                await self._send(send, data)
        await self._send(send, self._end, more=False)

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        if not self._started:
            self._started = True
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
        await send({"type": "http.response.body", "body": data, "more_body": more})
