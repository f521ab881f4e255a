"""`remote_tools`: the tools of an MCP session as tools of an agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepwell.agents.mcp.client import McpFailed, McpSession
from deepwell.agents.mcp.listing import ListedTool, offered_name
from deepwell.agents.mcp.schemas import arguments_problem, is_plain
from deepwell.agents.tools import Tool, ToolCallContext, ToolOutput

__all__ = ["remote_tools"]


async def remote_tools(session: McpSession) -> tuple[list[Tool], list[str]]:
    """Returns the tools of a session, and remarks on those that cannot be used.

    A tool that its server does not call read-only counts as one that writes.

    Raises:
        McpFailed: the server does not list them.
    """
    found, refused = await session.tools()
    return [_tool(session, one) for one in found], refused


def _tool(session: McpSession, listed: ListedTool) -> Tool:
    async def run(arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
        if problem := arguments_problem(listed.schema, arguments):
            return ToolOutput(problem, failed=True)
        try:
            result = await session.call(listed.name, arguments)
        except McpFailed as error:
            return ToolOutput(error.message, failed=True)
        return ToolOutput(result.text, result.failed)

    label = session.server.label
    return Tool(
        offered_name(label, listed.name),
        f"[a tool of the server {label}, in its words] {listed.description}".strip(),
        listed.schema,
        run,
        effects="reads" if listed.read_only else "writes",
        strict=is_plain(listed.schema),
    )
