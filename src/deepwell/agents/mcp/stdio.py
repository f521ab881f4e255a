"""`serve_stdio`: Deepwell as an MCP server over the standard streams of this process, for a client that has started it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepwell.agents.mcp.routing import RouteCaller
from deepwell.agents.mcp.serving import mcp_server
from deepwell.agents.tools.calculator import calculator
from deepwell.storage.database import LOCAL

if TYPE_CHECKING:
    from mcp_types import JSONRPCError

__all__ = ["serve_stdio"]

_log = logging.getLogger("deepwell.agents")


@dataclass(frozen=True, slots=True)
class _Local:
    """The one client of the process."""

    routes: RouteCaller
    tenant: str = LOCAL


async def serve_stdio(routes: RouteCaller) -> None:
    """Serves until the client closes its end.

    Raises:
        McpMissing: the extra [agents] is not installed.
    """
    caller = _Local(routes)
    server = mcp_server(lambda _context: caller, [calculator()])
    import anyio
    from mcp.server.stdio import stdio_server
    from mcp.shared.message import SessionMessage

    async with stdio_server() as (read, write), anyio.create_task_group() as tasks:
        send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)

        async def relay() -> None:
            """Hands messages over, and answers what is none."""
            async with send:
                async for one in read:
                    if isinstance(one, Exception):
                        _log.warning("a line of the client is no message of JSON-RPC")
                        await write.send(SessionMessage(_not_read(one)))
                    else:
                        await send.send(one)

        tasks.start_soon(relay)
        await server.run(receive, write, server.create_initialization_options())


def _not_read(error: Exception) -> JSONRPCError:
    """Returns the answer to a line that is no message: it names no request, as JSON-RPC 2.0 (5.1) has it."""
    from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError

    is_json = "json_invalid" not in str(getattr(error, "errors", list)())
    code, said = (INVALID_REQUEST, "Invalid Request") if is_json else (PARSE_ERROR, "Parse error")
    return JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=code, message=said))
