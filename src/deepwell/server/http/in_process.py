"""Requests that the server makes to its own routes, in process, on behalf of a principal."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Scope

from deepwell.server.access.principal import Principal
from deepwell.server.access.quota import Quota
from deepwell.server.access.ticket import Ticket, set_ticket
from deepwell.server.observe.record import Record, observing

__all__ = ["InProcessClient", "Reply"]

_log = logging.getLogger("deepwell.server")


@dataclass(slots=True)
class Reply:
    """A whole answer."""

    request_id: str
    status: int = 500
    headers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    body: bytes = b""
    code: str | None = None  # of an error, whatever the shape of its body


class InProcessClient:
    """Calls an ASGI application as a server would. Cancelling a call acts like a client that hangs up.

    Args:
        quota_of: returns the quota that a principal's request is charged to; None: nothing is charged.
    """

    def __init__(self, app: ASGIApp, quota_of: Callable[[Principal], Quota | None] | None = None) -> None:
        self._app = app
        self._quota_of = quota_of

    async def post(self, path: str, body: bytes, principal: Principal) -> Reply:
        """Posts a JSON body and returns the route's answer. An exception, which is answered with 500, is logged."""
        reply = Reply(f"req_{uuid.uuid4().hex}")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"host", b"batch"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ],
            "client": None,
            "server": None,
            "state": {"principal": principal, "request_id": reply.request_id},
        }
        sent = False
        parts: list[bytes] = []

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # the client stays connected
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = dict(message["headers"])
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        # Nobody logs it, but the audit trail and the engine's log name it.
        observing(Record(reply.request_id, "POST", path, time.perf_counter(), time.time()))
        set_ticket(Ticket(principal, None if self._quota_of is None else self._quota_of(principal)))
        try:
            await self._app(scope, receive, send)
        except Exception:  # starlette answers 500, and raises the error again for the server to log
            _log.exception("a request of a batch failed")
        reply.body = b"".join(parts)
        reply.code = scope["state"].get("error_code")
        return reply
