"""The items of the tool `mcp` in a conversation: from requests to stored ones, and from stored ones to chat messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from deepwell.agents.mcp.listing import offered_name
from deepwell.server.families.responses.mcp.bodies import (
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpListedTool,
    McpListTools,
)
from deepwell.server.families.responses.mcp.schema import (
    McpApprovalRequestInput,
    McpApprovalResponseInput,
    McpCallInput,
    McpListToolsInput,
)

__all__ = ["McpInput", "McpKept", "decisions_in", "error_text", "execution_error", "mcp_item", "mcp_messages"]

McpInput = McpListToolsInput | McpCallInput | McpApprovalRequestInput | McpApprovalResponseInput
McpKept = McpListTools | McpCall | McpApprovalRequest | McpApprovalResponse


def mcp_item(one: McpInput, new: Callable[[str], str]) -> McpKept:
    """Returns a request's item as it is kept."""
    match one:
        case McpListToolsInput():
            tools = [
                McpListedTool(tool.name, tool.input_schema, tool.description, tool.annotations)
                for tool in one.tools
            ]
            return McpListTools(one.id or new("mcpl"), one.server_label, tools, one.error)
        case McpCallInput():
            error = execution_error(one.error) if isinstance(one.error, str) else one.error
            return McpCall(
                one.id or new("mcp"),
                one.server_label,
                one.name,
                one.arguments,
                one.status or "completed",
                one.output,
                error,
                one.approval_request_id,
            )
        case McpApprovalRequestInput():
            return McpApprovalRequest(one.id, one.server_label, one.name, one.arguments)
        case McpApprovalResponseInput():
            return McpApprovalResponse(
                one.id or new("mcpa"), one.approval_request_id, one.approve, one.reason
            )


def decisions_in(items: Sequence[Any]) -> dict[str, McpApprovalResponse]:
    """Returns the decisions of people among items, by the request that each answers."""
    return {one.approval_request_id: one for one in items if isinstance(one, McpApprovalResponse)}


def mcp_messages(item: McpKept, decisions: Mapping[str, McpApprovalResponse]) -> list[dict[str, Any]]:
    """Returns the call and its result as chat messages; nothing for an item that tells the model nothing."""
    match item:
        case McpCall(status="completed" | "failed"):
            result = item.output or "" if item.error is None else f"error: {error_text(item.error)}"
        case McpApprovalRequest():
            decision = decisions.get(item.id)
            if decision is None or decision.approve:
                return []
            reason = f": {decision.reason}" if decision.reason else ""
            result = f"error: the user did not approve this call{reason}"
        case _:
            return []
    function = {"name": offered_name(item.server_label, item.name), "arguments": item.arguments}
    return [
        {"role": "assistant", "tool_calls": [{"id": item.id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": item.id, "content": result},
    ]


def execution_error(text: str) -> dict[str, Any]:
    """Returns the error of a tool that failed, in OpenAI's shape."""
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": text}]}


def error_text(error: Mapping[str, Any]) -> str:
    """Returns the words of an error of any of OpenAI's shapes."""
    if "message" in error:
        return str(error["message"])
    content = error.get("content")
    if not isinstance(content, list):
        return "the call failed"
    parts = (cast("dict[str, Any]", part) for part in cast("list[Any]", content) if isinstance(part, dict))
    return "\n".join(str(part.get("text", "")) for part in parts)
