"""ASGI middleware that only uses (scope, receive, send): anything that wraps the response hides a client's hang-up."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepwell.server.access.principal import principal_in
from deepwell.server.http.declaration import RouteTable
from deepwell.server.http.errors import BodyTooLarge, SlowBody, error_response, unexpected
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.observer import Observer
from deepwell.server.observe.record import Record, observing

__all__ = ["BodyAllowance", "BodyLimit", "Envelope"]

_log = logging.getLogger("deepwell.server")


class Envelope:
    """Begins and ends the record of every request, sends its id as `x-request-id`, and counts it.

    The client's own `x-request-id` is kept if it is a plain word. An exception that nobody expected is answered here, so that
    its answer has the id as well.
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


@dataclass(frozen=True, slots=True)
class BodyAllowance:
    """The largest size of a body in bytes, and the fix that the error for a larger one names."""

    max_bytes: int
    fix: str = ""


class BodyLimit:
    """Refuses slow bodies and long ones: by their declared length before reading, by their real one while reading.

    Args:
        limit: most bytes of a body that is read into memory.
        allowances: limits of POST bodies that go to disk instead, by path with parameters in braces.
    """

    def __init__(
        self, app: ASGIApp, limit: int, allowances: Mapping[str, BodyAllowance] | None = None
    ) -> None:
        self._app = app
        self._default = BodyAllowance(limit)
        self._allowances = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), allowed)
            for path, allowed in (allowances or {}).items()
        ]

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
        allowed = self._allowance_of(scope)
        limit, fix = allowed.max_bytes, allowed.fix
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            await error_response(BodyTooLarge(limit, fix).error, 413, {"connection": "close"})(
                scope, receive, send
            )
            return
        received = 0
        ended = False  # once set, only a hang-up can come, at any time
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
