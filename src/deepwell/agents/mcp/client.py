"""`McpSession`: a connection to an MCP server of others, whose tools are listed and called within bounds.

Everything that comes from there is a stranger's: names, descriptions and schemas are checked and bounded when they are listed,
results are bounded, and every wait ends. Closing a session ends its connection or program in every case.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from deepwell.agents.mcp.config import RemoteServer
from deepwell.agents.mcp.listing import ListedTool, listed_tool
from deepwell.agents.mcp.needed import require_mcp
from deepwell.agents.mcp.transport import guarded_client
from deepwell.errors import DeepwellError
from deepwell.version import deepwell_version

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult

    from deepwell.knowledge.sources.web.guard import Resolver

__all__ = ["McpFailed", "McpSession", "RemoteResult", "open_session"]

_MOST_TOOLS: Final = 128
_MOST_PAGES: Final = 16
_MOST_TEXT: Final = 64 << 10  # characters of a result
_CLOSE_S: Final = 10.0

FailureKind = Literal["protocol", "http", "tool"]


class McpFailed(DeepwellError):
    """Raised when an MCP server of others does not answer, or answers what cannot be used.

    Attributes:
        error_code: the code of JSON-RPC or HTTP; 0 if there is none.
    """

    status = 424
    type = "mcp_error"
    code = "mcp_failed"

    error_code: int = 0


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """The result of a call.

    Attributes:
        text: what a model reads, shortened with a remark if it was longer than 64 Ki characters.
        failed: whether the tool says that it failed.
    """

    text: str
    failed: bool = False


class McpSession:
    """A connection that a task of its own opens, holds and closes. Any task may use it, and close it."""

    def __init__(
        self, server: RemoteServer, hosts: Sequence[str], timeout_s: float, resolver: Resolver | None = None
    ) -> None:
        self.server = server
        self._hosts = hosts
        self._timeout_s = timeout_s
        self._resolver = resolver
        self._over = asyncio.Event()
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._holding = asyncio.create_task(self._hold())

    async def open(self) -> None:
        """Waits until the server has answered.

        Raises:
            McpFailed: it does not, or not in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.shield(self._client)
        except TimeoutError:
            raise self._failed(f"it did not answer within {self._timeout_s:g} s") from None

    async def tools(self) -> tuple[list[ListedTool], list[str]]:
        """Returns the tools that can be used, and remarks on those that cannot.

        Raises:
            McpFailed: the server does not list them, or has too many.
        """
        from mcp_types import ListToolsRequest, ListToolsResult, PaginatedRequestParams

        found: list[ListedTool] = []
        refused: list[str] = []
        names: set[str] = set()
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            request = ListToolsRequest(params=PaginatedRequestParams(cursor=cursor))
            page = await self._asked(request, ListToolsResult)
            for tool in page.tools:
                if len(found) + len(refused) >= _MOST_TOOLS:
                    raise self._failed(f"it has more than {_MOST_TOOLS} tools")
                listed = listed_tool(tool)
                if isinstance(listed, str):
                    refused.append(listed)
                elif listed.name in names:
                    refused.append(f"{listed.name} is listed twice")
                else:
                    names.add(listed.name)
                    found.append(listed)
            cursor = page.next_cursor
            if cursor is None:
                return found, refused
        raise self._failed(f"its list of tools has more than {_MOST_PAGES} pages")

    async def call(self, name: str, arguments: Mapping[str, Any]) -> RemoteResult:
        """Calls a tool.

        Raises:
            McpFailed: the server does not answer, or answers with an error of the protocol.
        """
        from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult

        # Not `Client.call_tool`, which would follow the server's own schema of results.
        params = CallToolRequestParams(name=name, arguments=dict(arguments))
        result = await self._asked(CallToolRequest(params=params), CallToolResult)
        return RemoteResult(_text_of(result), bool(result.is_error))

    async def close(self) -> None:
        """Ends the connection, or the program. Returns when it has ended."""
        self._over.set()
        if not self._client.done():
            self._holding.cancel()
        _, waiting = await asyncio.wait([self._holding], timeout=_CLOSE_S)
        if waiting:
            self._holding.cancel()
            await asyncio.wait([self._holding], timeout=_CLOSE_S)

    async def _asked(self, request: Any, kind: type[Any]) -> Any:
        from mcp import MCPError

        await self.open()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._client.result().session.send_request(request, kind)
        except TimeoutError:
            raise self._failed(f"it did not answer within {self._timeout_s:g} s") from None
        except MCPError as error:
            raise self._failed(error.error.message, error.error.code) from None
        except DeepwellError:
            raise
        except Exception as error:  # pydantic's, anyio's and those of the transport
            raise self._failed(_told(error)) from error

    async def _hold(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._connected(stack))
                if not self._client.done():
                    self._client.set_result(client)
                await self._over.wait()
        except asyncio.CancelledError:
            if not self._client.done():
                self._client.cancel()
            raise
        except BaseException as error:
            if not self._client.done():
                self._client.set_exception(self._failed(_told(error)))
                with suppress(DeepwellError):
                    self._client.exception()  # marked as seen: nobody may be waiting
            if not isinstance(error, Exception):
                raise

    async def _connected(self, stack: AsyncExitStack) -> Client:
        from mcp import Client, StdioServerParameters
        from mcp.client.streamable_http import streamable_http_client
        from mcp_types import Implementation

        info = Implementation(name="deepwell", version=deepwell_version())
        server = self.server
        if server.command:
            program, *words = server.command
            target: Any = StdioServerParameters(command=program, args=words)
        else:
            http = guarded_client(server, self._hosts, self._timeout_s, self._resolver)
            await stack.enter_async_context(http)
            target = streamable_http_client(server.url, http_client=http)
        return Client(target, client_info=info, cache=None, read_timeout_seconds=self._timeout_s)

    def _failed(self, reason: str, code: int = 0) -> McpFailed:
        shown = " ".join(reason.split())[:300]
        error = McpFailed.of("mcp_server_failed", name=self.server.label, reason=shown)
        assert isinstance(error, McpFailed)
        error.error_code = code
        return error


@asynccontextmanager
async def open_session(
    server: RemoteServer, hosts: Sequence[str] = (), timeout_s: float = 30.0, resolver: Resolver | None = None
) -> AsyncGenerator[McpSession]:
    """Opens a session with a server for the block, and closes it in every case.

    Raises:
        McpMissing: the extra [agents] is not installed.
        McpFailed: the server does not answer.
    """
    require_mcp()
    session = McpSession(server, hosts, timeout_s, resolver)
    try:
        await session.open()
        yield session
    finally:
        await session.close()


def _text_of(result: CallToolResult) -> str:
    """Returns what a model reads of a result: its texts, and remarks on what is no text."""
    from mcp_types import EmbeddedResource, ResourceLink, TextContent, TextResourceContents

    parts: list[str] = []
    for one in result.content:
        if isinstance(one, TextContent):
            parts.append(one.text)
        elif isinstance(one, EmbeddedResource) and isinstance(one.resource, TextResourceContents):
            parts.append(one.resource.text)
        elif isinstance(one, ResourceLink):
            parts.append(f"[resource {one.uri}]")
        else:
            parts.append(f"[{one.type}, which is not shown]")
    if not parts and result.structured_content is not None:
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    text = "\n".join(parts)
    if len(text) > _MOST_TEXT:
        return f"{text[:_MOST_TEXT]}\n[cut: the result has {len(text)} characters]"
    return text


def _told(error: BaseException) -> str:
    """Returns the reason of the first error in groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError):
        return f"there is no program {error.filename}"
    if error.__class__.__name__ == "ValidationError":
        return "its answer is none of the protocol"
    return str(error) or type(error).__name__
