"""ASGI middleware that only uses (scope, receive, send): anything that wraps the response hides a client's hang-up."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import types
from collections.abc import Awaitable, Coroutine, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepwell.server.access.principal import principal_in
from deepwell.server.http.body_room import SMALL_BODY_BYTES, BodyRoom, owner_of
from deepwell.server.http.declaration import RouteTable
from deepwell.server.http.errors import BodyTooLarge, SlowBody, error_response, unexpected
from deepwell.server.observe.contexts import context_headers
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.observer import Observer
from deepwell.server.observe.record import Record, observing

__all__ = ["BodyAllowance", "BodyLimit", "Envelope"]

_log = logging.getLogger("deepwell.server")
_LINGER_S, _SILENCE_S = 30.0, 2.0  # behind an error: in all, and between two pieces of the body

_PROGRESS_BYTES = 1024  # fewer within the time for a stall are a stall
_BODIES_AT_ONCE = 32  # of the largest size, in memory
_WITHOUT_BODY = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))  # unless a header announces one


class Envelope:
    """Begins and ends the record of every request, sends its id as `x-request-id`, and counts it.

    Headers of the state's `answer_headers` and `ticket` are sent with every answer, errors too. The client's own `x-request-id`
    is kept if it is a plain word. An exception that nobody expected is answered here, so that its answer has them as well.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, observer: Observer, routes: RouteTable) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics = self._metrics
        metrics.loop_lag.watch()
        metrics.open_requests.inc()
        record = self._observer.begin(scope)
        record.operation = self._routes.name_of(record.path)
        observing(record)
        scope.setdefault("state", {})["request_id"] = record.request_id
        begun = ended = whole = False

        async def received() -> Message:
            nonlocal whole
            message = await receive()
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def send_named(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                record.status = message["status"]
                state = scope["state"]
                headers = [*message.get("headers", ()), *self._headers(record)]
                headers += state.get("answer_headers", ())
                if (ticket := state.get("ticket")) is not None:
                    headers += ticket.headers()
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                record.body_bytes += len(message.get("body", b""))
                ended = not message.get("more_body", False)
                if ended and record.status >= 400 and not whole and _closes(scope, record.status):
                    await send({**message, "more_body": True})
                    await _read_on(receive)
                    message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            await self._app(scope, received, send_named)
        except ClientDisconnect:  # within its own body: nobody reads an answer, and nothing has failed
            pass
        except Exception as error:
            record.error = type(error).__name__
            if begun:
                raise
            _log.exception("%s %s failed", record.method, record.path)
            await unexpected()(scope, receive, send_named)
        finally:
            self._end(scope, record, ended=ended)

    def _headers(self, record: Record) -> list[tuple[bytes, bytes]]:
        id = record.request_id.encode()
        headers = [(b"x-request-id", id)]
        if self._routes.is_anthropic(record.path):
            headers.append((b"request-id", id))  # Anthropic's name of it, which their SDK reports
        if record.trace is not None and self._observer.traces:
            headers.append((b"traceparent", record.trace.header().encode()))
        if record.ledger is not None and record.status < 400:
            headers += context_headers(record.ledger)
        if record.intents and record.status < 400:
            headers.append((b"x-route", record.intents.encode()))
        if record.label and record.status < 400:
            headers.append((b"x-aigc-label", record.label.encode()))
        return headers

    def _end(self, scope: Scope, record: Record, *, ended: bool) -> None:
        metrics = self._metrics
        record.duration_s = time.perf_counter() - record.started
        record.route = getattr(scope.get("route"), "path", "none")
        record.client_left = not ended and record.error in ("", "cancelled")
        if record.client_left:
            record.error = ""
        principal = principal_in(scope)
        record.tenant, record.key_id = principal.tenant, principal.key_id
        metrics.open_requests.dec()
        metrics.requests.labels(record.route, str(record.status)).inc()
        metrics.bytes_sent.inc(record.body_bytes)
        if record.client_left:
            metrics.clients_left.inc()
        self._observer.end(record)


def _closes(scope: Scope, status: int) -> bool:
    """Returns whether the connection ends with an error of this status."""
    return status == 413 or any(
        name == b"connection" and value.lower() == b"close" for name, value in scope["headers"]
    )


async def _read_on(receive: Receive) -> None:
    """Reads and discards the rest of a body behind an error, for a limited time, before the connection ends.

    Many clients read nothing before they have sent their whole body. A connection that is closed with bytes unread is reset,
    and takes the answer with it.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await _discard(receive)


async def _discard(receive: Receive) -> None:
    """Reads a body to its end. Returns early if the client leaves, or sends nothing for a while."""
    while True:
        async with asyncio.timeout(_SILENCE_S):
            message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


@dataclass(frozen=True, slots=True)
class BodyAllowance:
    """The largest size of a body in bytes, and the fix that the error for a larger one names."""

    max_bytes: int
    fix: str = ""


class BodyLimit:
    """Refuses slow bodies and long ones: by their declared length before reading, by their real one while reading.

    All bodies in memory together may take 32 times the limit of one, and those of one tenant half of that. Small ones are not
    counted. The room of a body is free again when its route has parsed it, at the latest with the end of the answer.

    Args:
        limit: most bytes of a body that is read into memory.
        allowances: limits of POST bodies that go to disk instead, by path with parameters in braces.
        stall_s: time within which the next 1,024 bytes of a body, or its end, must come.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        allowances: Mapping[str, BodyAllowance] | None = None,
        stall_s: float = 30.0,
    ) -> None:
        self._app = app
        self._default = BodyAllowance(limit)
        self._stall_s = stall_s
        self._allowances = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), allowed)
            for path, allowed in (allowances or {}).items()
        ]
        self._room = BodyRoom(limit * _BODIES_AT_ONCE)

    def _allowance_of(self, scope: Scope) -> BodyAllowance:
        if scope["method"] == "POST":
            for pattern, allowed in self._allowances:
                if pattern.fullmatch(scope["path"]):
                    return allowed
        return self._default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size, framed = 0, scope["method"] not in _WITHOUT_BODY
        for name, value in scope["headers"]:
            if name == b"content-length":
                # Twenty digits are above every limit; zeros before them say nothing.
                size = int(value.lstrip(b"0")[:20] or b"0") if value.isdigit() else 0
            elif name == b"transfer-encoding":
                framed = True
        if not size and not framed:
            await self._app(scope, receive, send)
            return
        allowed = self._allowance_of(scope)
        body = _Body(scope, receive, self._stall_s)
        if 0 < size <= min(SMALL_BODY_BYTES, allowed.max_bytes):  # no more is read than it declares
            await self._app(scope, body.receive, send)
            return
        await self._limited(scope, body, send, allowed, size)

    async def _limited(
        self, scope: Scope, body: _Body, send: Send, allowed: BodyAllowance, size: int
    ) -> None:
        """Passes on a request whose body may be a large one."""
        limit, fix = allowed.max_bytes, allowed.fix
        if size > limit:
            await error_response(BodyTooLarge(limit, fix).error, 413, {"connection": "close"})(
                scope, body.receive, send
            )
            return
        share = self._room.share(owner_of(scope)) if allowed is self._default else None

        async def receive_limited() -> Message:
            message = await body.receive()
            if body.received > limit:
                raise BodyTooLarge(limit, fix)
            if (
                share is not None and message["type"] == "http.request"
            ):  # a hang-up may come when it is free again
                share.grow(body.received)
            return message

        if share is None:
            await self._app(scope, receive_limited, send)
            return
        scope.setdefault("state", {})["body_share"] = share  # the route frees it
        try:
            await self._app(scope, receive_limited, send)
        finally:
            share.free()


class _Body:
    """The body of one request as it comes, within its times.

    Attributes:
        received: bytes so far.
    """

    __slots__ = ("_ended", "_left_s", "_progress", "_receive", "_scope", "_stall_s", "received")

    def __init__(self, scope: Scope, receive: Receive, stall_s: float) -> None:
        self.received = 0
        self._scope = scope
        self._receive = receive
        self._stall_s = stall_s
        self._left_s = stall_s  # for the client to send the next part; the server's own time does not count
        self._progress = 0  # `received` when the last such part was whole
        self._ended = False  # once set, only a hang-up can come, at any time

    async def receive(self) -> Message:
        """Returns the next message. One that is there already costs no timer.

        Raises:
            SlowBody: it did not come in time.
        """
        coming = self._receive()
        if self._ended:
            return await coming
        if type(coming) is types.CoroutineType:
            try:
                awaited = coming.send(None)
            except StopIteration as done:
                message: Message = done.value
            else:
                message = await self._within_time(_resumed(coming, awaited))
        else:
            message = await self._within_time(coming)
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            if self.received - self._progress >= _PROGRESS_BYTES:
                self._progress, self._left_s = self.received, self._stall_s
        return message

    async def _within_time(self, coming: Awaitable[Message]) -> Message:
        clock = asyncio.get_running_loop().time
        begin = clock()
        stalled = begin + self._left_s
        deadline: float = self._scope.get("state", {}).get("deadline", float("inf"))
        try:
            async with asyncio.timeout_at(min(deadline, stalled)):
                message = await coming
        except TimeoutError:
            if stalled < deadline:
                raise SlowBody(self._stall_s, f"{_PROGRESS_BYTES} more bytes of the request's body") from None
            raise SlowBody(self._scope["state"]["timeout_s"]) from None
        self._left_s -= clock() - begin
        return message


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, Message], awaited: Any) -> Generator[Any, Any, Message]:
    """Goes on with a coroutine that has begun, and waits for `awaited` (the expansion of `yield from` in PEP 380)."""
    while True:
        try:
            sent = yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            step, value = coroutine.throw, error
        else:
            step, value = coroutine.send, sent
        try:
            awaited = step(value)
        except StopIteration as done:
            return done.value
