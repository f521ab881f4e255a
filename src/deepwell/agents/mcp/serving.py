"""`mcp_server`: Deepwell as an MCP server, over any transport.

It keeps nothing between two requests: whatever a client opens, abandons or kills leaves nothing behind here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from deepwell.agents.mcp.needed import require_mcp
from deepwell.agents.mcp.resources import TEMPLATE, documents, read_document
from deepwell.agents.mcp.routing import RouteCaller, RouteFailed
from deepwell.agents.mcp.schemas import arguments_problem
from deepwell.agents.mcp.served import SERVED_TOOLS, ServedTool
from deepwell.agents.tools import Tool, ToolCallContext
from deepwell.version import deepwell_version

if TYPE_CHECKING:
    from mcp.server import Server
    from mcp.server.context import ServerRequestContext
    from mcp_types import CallToolResult

__all__ = ["INSTRUCTIONS", "Caller", "McpCaller", "mcp_server"]

INSTRUCTIONS: Final = (
    "Deepwell serves language models and knowledge bases on this network. Use list_vector_stores and then search or ask"
    " for questions about documents, chat for a second opinion of another model, and list_jobs for work that is running."
)
_TOOL_S: Final = 60.0


class Caller(Protocol):
    """The client behind a request: its way to the routes, and its tenant."""

    @property
    def routes(self) -> RouteCaller: ...

    @property
    def tenant(self) -> str: ...


McpCaller = Callable[[Any], Caller]
"""Returns the caller of a request, from the context that the package `mcp` gives its handlers."""


def mcp_server(
    caller_of: McpCaller,
    tools: Sequence[Tool] = (),
    count: Callable[[str, str], None] = lambda _tool, _outcome: None,
) -> Server[Any]:
    """Returns a server of the package `mcp`.

    Args:
        tools: tools of agents that it offers besides its own.
        count: called with the name of a tool and "done", "failed" or "refused".

    Raises:
        McpMissing: the extra [agents] is not installed.
        ValueError: two tools have the same name.
    """
    require_mcp()
    logging.getLogger("mcp").setLevel(logging.WARNING)  # it tells of every request
    from mcp import MCPError
    from mcp.server import Server
    from mcp_types import INVALID_PARAMS

    served = {one.name: one for one in SERVED_TOOLS}
    extra = {one.name: one for one in tools}
    names = [*served, *(one.name for one in tools)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two tools have the same name: {twice[0]}")

    async def call_tool(context: ServerRequestContext[Any, Any], params: Any) -> CallToolResult:
        arguments = params.arguments or {}
        tool: ServedTool | Tool | None = served.get(params.name) or extra.get(params.name)
        if tool is None:
            count("unknown", "refused")
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name[:64]!r}: tools/list has them")
        if problem := arguments_problem(tool.parameters, arguments):
            count(tool.name, "refused")
            return _result(problem, failed=True)
        caller = caller_of(context)
        if isinstance(tool, Tool):
            found = await _run(tool, arguments, caller, str(context.request_id or ""))
        else:
            try:
                told = await tool.run(arguments, caller.routes)
                found = _result(told.text, told.data)
            except RouteFailed as error:
                found = _result(str(error), failed=True)
        count(tool.name, "failed" if found.is_error else "done")
        return found

    return Server(
        "deepwell",
        version=deepwell_version(),
        title="Deepwell",
        instructions=INSTRUCTIONS,
        get_tool_input_schema=lambda name: (
            one.parameters if (one := served.get(name) or extra.get(name)) else None
        ),
        on_list_tools=_lister([*served.values(), *extra.values()]),
        on_call_tool=call_tool,
        **_resources(caller_of),
    )


def _lister(tools: Sequence[ServedTool | Tool]) -> Any:
    from mcp_types import ListToolsResult, ToolAnnotations
    from mcp_types import Tool as Shown

    shown: list[Shown] = []
    for one in tools:
        reads = one.read_only if isinstance(one, ServedTool) else one.effects == "reads"
        title = one.title if isinstance(one, ServedTool) else None
        hints = ToolAnnotations(title=title, read_only_hint=reads, open_world_hint=False)
        shown.append(
            Shown(
                name=one.name,
                title=title,
                description=one.description,
                input_schema=dict(one.parameters),
                annotations=hints,
            )
        )

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=shown)

    return list_tools


def _resources(caller_of: McpCaller) -> dict[str, Any]:
    """Returns the handlers of resources."""
    from mcp import MCPError
    from mcp_types import (
        INTERNAL_ERROR,
        INVALID_PARAMS,
        ListResourcesResult,
        ListResourceTemplatesResult,
        ReadResourceResult,
        Resource,
        ResourceTemplate,
        TextResourceContents,
    )

    async def list_resources(context: Any, params: Any) -> ListResourcesResult:
        cursor = None if params is None else params.cursor
        try:
            found, after = await documents(caller_of(context).routes, cursor)
        except ValueError as error:
            raise MCPError(INVALID_PARAMS, str(error)) from None
        except RouteFailed as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from None
        resources = [
            Resource(uri=one.uri, name=one.name, description=f"in {one.store}", mime_type="text/plain")
            for one in found
        ]
        return ListResourcesResult(resources=resources, next_cursor=after)

    async def list_templates(_context: Any, _params: Any) -> ListResourceTemplatesResult:
        template = ResourceTemplate(
            uri_template=TEMPLATE,
            name="document",
            description="The text of a document of a vector store.",
            mime_type="text/plain",
        )
        return ListResourceTemplatesResult(resource_templates=[template])

    async def read(context: Any, params: Any) -> ReadResourceResult:
        uri = str(params.uri)
        try:
            text = await read_document(caller_of(context).routes, uri)
        except (ValueError, RouteFailed) as error:
            raise MCPError(INVALID_PARAMS, str(error)) from None
        contents = TextResourceContents(uri=params.uri, mime_type="text/plain", text=text)
        return ReadResourceResult(contents=[contents])

    return {
        "on_list_resources": list_resources,
        "on_list_resource_templates": list_templates,
        "on_read_resource": read,
    }


async def _run(tool: Tool, arguments: Any, caller: Caller, call_id: str) -> CallToolResult:
    """Runs a tool of agents."""
    import asyncio

    context = ToolCallContext(caller.tenant, "mcp", call_id, _TOOL_S)
    try:
        async with asyncio.timeout(_TOOL_S):
            output = await tool.run(arguments, context)
    except TimeoutError:
        return _result(f"the tool took longer than {_TOOL_S:g} s", failed=True)
    data = output.data if isinstance(output.data, dict) else None
    return _result(output.text, data, failed=output.failed)


def _result(text: str, data: dict[str, Any] | None = None, *, failed: bool = False) -> CallToolResult:
    from mcp_types import CallToolResult, TextContent

    if data is not None:
        json.dumps(data)  # what is no JSON fails here, with its own words
    return CallToolResult(content=[TextContent(text=text)], structured_content=data, is_error=failed)
