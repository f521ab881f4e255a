"""`POST /mcp`: the MCP server over streamable HTTP, without sessions that outlive a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deepwell.agents.mcp.needed import require_mcp
from deepwell.server.context import ServerContext
from deepwell.server.families.mcp.caller import HttpCaller
from deepwell.server.http.errors import ClientLeft
from deepwell.server.http.sse import attended

if TYPE_CHECKING:
    from mcp.server import Server

__all__ = ["router"]

_MOST_BYTES: Final = 4 << 20


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
        return messages


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter()

    @routes.post("/mcp", summary="Talk to the MCP server", response_model=None)
    async def exchange(request: Request) -> Response:
        require_mcp()
        return _Exchange(context, context.shared(_server))

    return routes


def _server(context: ServerContext) -> Server[Any]:
    from deepwell.agents.mcp.serving import mcp_server

    def count(tool: str, outcome: str) -> None:
        context.metrics.mcp.calls.labels(tool, outcome).inc()

    return mcp_server(HttpCaller.of, count=count)
