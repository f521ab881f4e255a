"""`OwnRoutes`: requests to the server's own application, in process, as the client that asks over MCP."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Scope

from deepwell.agents.mcp.routing import RouteReply
from deepwell.server.access.principal import principal_of

__all__ = ["HttpCaller", "OwnRoutes"]

_MOST_BYTES: Final = 32 << 20
_PASSED: Final = (b"authorization", b"x-api-key", b"host", b"accept-language", b"traceparent", b"tracestate")
"""Headers of the client's request that its tools' requests have as well: who asks, and under what name."""


@dataclass(frozen=True, slots=True)
class HttpCaller:
    """The client behind a request over HTTP."""

    routes: OwnRoutes
    tenant: str

    @classmethod
    def of(cls, context: Any) -> HttpCaller:
        """Returns the client of a request, from the context of the package `mcp`."""
        request = cast(Request, context.request)
        return cls(OwnRoutes(request.scope), principal_of(request).tenant)


class OwnRoutes:
    """The server's own routes with all middleware around them: keys, scopes, limits and errors are those of any request."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(self, method: str, path: str, body: bytes | None = None) -> RouteReply:
        # A context of its own: the record and the ticket of the outer request stay what they are.
        work = asyncio.create_task(self._asked(method, path, body or b""), context=contextvars.Context())
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()  # like a client that hangs up
            await asyncio.wait([work])
            raise

    async def _asked(self, method: str, path: str, body: bytes) -> RouteReply:
        outer, given, status, size = self._scope, False, 500, 0
        parts: list[bytes] = []

        async def receive() -> Message:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # the client stays connected
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                part = message.get("body", b"")
                size += len(part)
                if size <= _MOST_BYTES:
                    parts.append(part)

        path, _, query = path.partition("?")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": outer.get("scheme", "http"),
            "path": path,
            "raw_path": path.encode("ascii"),
            "root_path": "",
            "query_string": query.encode("ascii"),
            "headers": [
                *((name, value) for name, value in outer["headers"] if name in _PASSED),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ],
            "client": outer.get("client"),
            "server": outer.get("server"),
        }
        app = cast(ASGIApp, outer["app"])
        await app(scope, receive, send)
        if size > _MOST_BYTES:
            return RouteReply(507, b'{"error": {"message": "the answer is too large for MCP: ask for less"}}')
        return RouteReply(status, b"".join(parts))
