"""The items and events of the tool `mcp`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

__all__ = [
    "McpApprovalRequest",
    "McpApprovalResponse",
    "McpArgumentsDelta",
    "McpArgumentsDone",
    "McpCall",
    "McpEvent",
    "McpListTools",
    "McpListedTool",
]


class McpListedTool(Struct):
    """A tool of an MCP server."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    annotations: dict[str, Any] | None = None


class McpListTools(Struct, tag_field="type", tag="mcp_list_tools"):
    """The tools of an MCP server. `error` tells of those that cannot be used."""

    id: str
    server_label: str
    tools: list[McpListedTool]
    error: str | None = None


class McpCall(Struct, tag_field="type", tag="mcp_call"):
    """A call of a tool. `error` has the shape of one of OpenAI's three kinds."""

    id: str
    server_label: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete", "calling", "failed"]
    output: str | None = None
    error: dict[str, Any] | None = None
    approval_request_id: str | None = None


class McpApprovalRequest(Struct, tag_field="type", tag="mcp_approval_request"):
    """A call that waits for a person."""

    id: str
    server_label: str
    name: str
    arguments: str


class McpApprovalResponse(Struct, tag_field="type", tag="mcp_approval_response"):
    """The decision of a person."""

    id: str
    approval_request_id: str
    approve: bool
    reason: str | None = None


class McpEvent(Struct):
    """`response.mcp_list_tools.*` and `response.mcp_call.*`: `in_progress`, `completed` and `failed`."""

    type: str
    item_id: str
    output_index: int
    sequence_number: int


class McpArgumentsDelta(Struct):
    """`response.mcp_call_arguments.delta`."""

    type: str
    item_id: str
    output_index: int
    delta: str
    sequence_number: int


class McpArgumentsDone(Struct):
    """`response.mcp_call_arguments.done`."""

    type: str
    item_id: str
    output_index: int
    arguments: str
    sequence_number: int
