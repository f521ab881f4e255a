"""MCP servers of others on loopback: a friendly one of the package `mcp`, and hostile ones that speak raw HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from mcp.server import Server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool, ToolAnnotations
from starlette.types import ASGIApp, Receive, Scope, Send

from deepwell.server.http.listen import bind, url_of

OBJECT: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


@dataclass
class Stranger:
    """A friendly server with a tool that repeats, one that fails, one that writes and one that never answers."""

    url: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    lists: int = 0
    says: str | None = None
    tools: list[Tool] = field(default_factory=list[Tool])

    def __post_init__(self) -> None:
        reads = ToolAnnotations(read_only_hint=True)
        self.tools = [
            Tool(name="echo", description="Repeats a text.", input_schema=OBJECT, annotations=reads),
            Tool(name="fail", description="Fails.", input_schema=OBJECT),
            Tool(name="write", description="Writes a text.", input_schema=OBJECT),
            Tool(name="hang", description="Never answers.", input_schema=OBJECT),
        ]

    def server(self) -> Server[Any]:
        async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
            self.lists += 1
            return ListToolsResult(tools=self.tools)

        async def call(context: Any, params: Any) -> CallToolResult:
            self.calls.append((params.name, params.arguments))
            if context.request is not None:
                self.headers.append(dict(context.request.headers))
            if params.name == "hang":
                await asyncio.Event().wait()
            text = str((params.arguments or {}).get("text", "")) if self.says is None else self.says
            return CallToolResult(content=[TextContent(text=text)], is_error=params.name == "fail")

        return Server("stranger", on_list_tools=list_tools, on_call_tool=call)


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """An application on a port of loopback, in a thread."""
    sock = bind("127.0.0.1", 0)
    sock.listen()  # a client that is quicker than the thread waits, and is not refused
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="on", log_level="critical", timeout_graceful_shutdown=0)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield url_of(sock)
    finally:
        server.should_exit = True
        thread.join(timeout=30)


@contextmanager
def friendly() -> Iterator[Stranger]:
    """The friendly server, at `url`."""
    stranger = Stranger()
    with listening(stranger.server().streamable_http_app(stateless_http=True)) as url:
        stranger.url = f"{url}/mcp"
        yield stranger


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes, *, ends: bool = True) -> Iterator[str]:
    """A server that answers every request alike; without `ends`, it leaves the body open."""
    given = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        await send({"type": "http.response.start", "status": status, "headers": given})
        await send({"type": "http.response.body", "body": body, "more_body": not ends})
        if not ends:
            while (await receive())["type"] != "http.disconnect":
                pass

    with listening(app) as url:
        yield f"{url}/mcp"
