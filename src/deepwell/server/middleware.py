"""ASGI middleware. Pure functions of (scope, receive, send): anything that wraps the response hides a client's hang-up."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepwell.server.errors import BodyTooLarge, SlowBody, error_response, unexpected
from deepwell.server.metrics import Metrics
from deepwell.server.observe import Observer
from deepwell.server.observe.record import Record, observing
from deepwell.server.principal import principal_in

__all__ = ["BodyLimit", "Envelope"]

_log = logging.getLogger("deepwell.server")


class Envelope:
    """Begins and ends the record of every request, names it in `x-request-id`, and counts it.

    The client's own `x-request-id` is kept where it is a plain word. An exception that nobody expected is answered here, so
    that
    its answer has the id as well.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, observer: Observer) -> None:
        self._app = app
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
        observing(record)
        scope.setdefault("state", {})["request_id"] = record.request_id
        begun = ended = False

        async def send_named(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                record.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *self._headers(record)]}
            elif message["type"] == "http.response.body":
                record.body_bytes += len(message.get("body", b""))
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception as error:
            record.error = type(error).__name__
            if begun:
                raise
            _log.exception("%s %s failed", record.method, record.path)
            await unexpected()(scope, receive, send_named)
        finally:
            self._end(scope, record, ended=ended)

    def _headers(self, record: Record) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", record.request_id.encode())]
        if record.trace is not None and self._observer.traces:
            headers.append((b"traceparent", record.trace.header().encode()))
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


class BodyLimit:
    """Refuses longer bodies, by their declared length before reading and by their real one while reading; and slow ones.

    `forms`: by the pattern of its path, the limit of each route that reads a file to disk instead of memory, and the fix.
    """

    def __init__(self, app: ASGIApp, limit: int, forms: Mapping[str, tuple[int, str]] | None = None) -> None:
        self._app = app
        self._limit = limit
        self._forms = [(re.compile(pattern), *allowed) for pattern, allowed in (forms or {}).items()]

    def _limit_of(self, scope: Scope) -> tuple[int, str]:
        if scope["method"] == "POST":
            for pattern, limit, fix in self._forms:
                if pattern.fullmatch(scope["path"]):
                    return limit, fix
        return self._limit, ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, fix = self._limit_of(scope)
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            await error_response(BodyTooLarge(limit, fix).error, 413, {"connection": "close"})(
                scope, receive, send
            )
            return
        received = 0
        ended = False  # afterwards only a hang-up comes, whenever it likes
        deadline: float | None = scope.get("state", {}).get("deadline")

        async def receive_limited() -> Message:
            nonlocal received, ended
            if deadline is None or ended:
                message = await receive()
            else:
                try:
                    async with asyncio.timeout_at(deadline):
                        message = await receive()
                except TimeoutError:
                    raise SlowBody(scope["state"]["timeout_s"]) from None
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise BodyTooLarge(limit, fix)
                ended = not message.get("more_body", False)
            return message

        await self._app(scope, receive_limited, send)
