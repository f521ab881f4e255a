"""`serve_stdio`: Deepwell as an MCP server over the standard streams of this process, for a client that has started it."""

from __future__ import annotations

from dataclasses import dataclass

from deepwell.agents.mcp.routing import RouteCaller
from deepwell.agents.mcp.serving import mcp_server
from deepwell.agents.tools.calculator import calculator
from deepwell.storage.database import LOCAL

__all__ = ["serve_stdio"]


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
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
