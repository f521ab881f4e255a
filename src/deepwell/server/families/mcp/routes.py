"""`POST /mcp`: the MCP server over streamable HTTP, without sessions that outlive a request."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request
from pydantic_core import from_json
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from deepwell.agents.kit import Kit, open_tools
from deepwell.agents.mcp.needed import require_mcp
from deepwell.agents.tools.tool import Tool
from deepwell.errors import DeepwellError
from deepwell.server.context import ServerContext
from deepwell.server.families.mcp.caller import HttpCaller
from deepwell.server.http.errors import ClientLeft
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.http.sse import attended

if TYPE_CHECKING:
    from mcp.server import Server

__all__ = ["router"]

_MOST_BYTES: Final = 4 << 20
# Up to 2025-11-25 the package `mcp` takes a request with a malformed id for a notification, and answers nothing.
_BAD_ID: Final = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {"code": -32600, "message": "the id of a request is text or a whole number"},
}
_log = logging.getLogger("deepwell.server")


class _Exchange(Response):
    """A response that the package `mcp` makes. All tasks that serve it have ended when it has.

    It is one piece of JSON: nothing that a tool does needs a stream, and a stream would outlive the request.
    """

    def __init__(self, context: ServerContext, server: Server[Any]) -> None:
        self._context = context
        self._server = server
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        with self._context.metrics.mcp.sessions.labels("server").track_inprogress():
            try:
                messages = await attended(self._served(scope, body), scope, receive, self._context.stopped)
            except ClientLeft:
                return
        for message in messages:
            await send(message)

    async def _served(self, scope: Scope, body: bytes) -> list[Message]:
        """Returns the messages of the response."""
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)

        # One for each request: it keeps no sessions, and its task group ends with the block.
        manager = StreamableHTTPSessionManager(
            self._server,
            json_response=True,
            stateless=True,
            max_request_body_size=min(self._context.options.max_body_bytes, _MOST_BYTES),
        )
        async with manager.run():
            await manager.handle_request(scope, receive, send)
        if messages and messages[0]["status"] == HTTPStatus.ACCEPTED and _asks(body):
            messages.clear()
            await JSONResponse(_BAD_ID, HTTPStatus.BAD_REQUEST)(scope, receive, send)
        return messages


def _asks(body: bytes) -> bool:
    """Returns whether an accepted message is owed an answer: it has a method and an id."""
    try:
        message = from_json(body)
    except (
        ValueError
    ):  # since 2026-07-28 half a surrogate pair is let through, and `mcp` looks at the id itself
        return False
    return isinstance(message, dict) and "method" in message and "id" in message


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.post("/mcp", summary="Talk to the MCP server", response_model=None)
    async def exchange(request: Request) -> Response:
        require_mcp()
        return _Exchange(context, await context.shared(_Offered).server())

    return routes


class _Offered:
    """The MCP server of one process, made at the first request."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._making = asyncio.Lock()
        self._server: Server[Any] | None = None

    async def server(self) -> Server[Any]:
        """Returns the server, with the tools of agents that the operator allows."""
        from deepwell.agents.mcp.serving import mcp_server

        async with self._making:
            if self._server is None:
                self._server = mcp_server(HttpCaller.of, await self._tools(), self._count)
        return self._server

    async def _tools(self) -> list[Tool]:
        """Returns the tools of agents. Left out are those that a person must approve, and those that routes do here."""
        options = self._context.options.agents
        found: dict[str, Tool] = {}
        async with AsyncExitStack() as stack:
            for name in options.tools:
                if name == "knowledge" or name.startswith("mcp:"):
                    continue
                try:
                    tools = await open_tools([name], Kit(options.folder), stack)
                except DeepwellError as error:
                    _log.warning("MCP clients get no tool %s: %s", name, error)
                    continue
                found |= {one.name: one for one in tools if one.approval == "never"}
        return list(found.values())

    def _count(self, tool: str, outcome: str) -> None:
        self._context.metrics.mcp.calls.labels(tool, outcome).inc()
