"""The tool `mcp` in requests, and its items that clients send back."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from deepwell.server.http.schema import Strict, crossed, refuse

__all__ = [
    "McpApprovalRequestInput",
    "McpApprovalResponseInput",
    "McpCallInput",
    "McpChoice",
    "McpListToolsInput",
    "McpSpec",
    "ToolFilter",
]

_Label = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,31}$")]
_Id = Annotated[str, Field(min_length=1, max_length=128)]
_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=128)]
_CONNECTORS = (
    "there are no connectors here: send a server_url, or the label of a server that the operator has named"
)


class ToolFilter(Strict):
    """Some of a server's tools: those with these names, or those that the server says change nothing."""

    tool_names: _Names | None = None
    read_only: bool | None = None


class ApprovalFilter(Strict):
    """The tools whose calls a person must approve, and those whose calls need no approval."""

    always: ToolFilter | None = None
    never: ToolFilter | None = None


class McpSpec(Strict):
    """Tools of an MCP server, which the server lists and calls for the model.

    Without `server_url`, the label is that of a server that the operator has named in the setting `mcp_servers`.
    """

    type: Literal["mcp"]
    server_label: _Label
    server_url: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        None, description="Address of the server; its host must be one of the setting `mcp_hosts`."
    )
    server_description: Annotated[str, Field(max_length=1024)] | None = None
    headers: dict[str, str] | None = Field(
        None, repr=False, description="Headers for the server. They are neither kept nor shown."
    )
    authorization: Annotated[str, Field(min_length=1, max_length=8192)] | None = Field(
        None, repr=False, description="Access token for the server. It is neither kept nor shown."
    )
    allowed_tools: _Names | ToolFilter | None = None
    require_approval: Literal["always", "never"] | ApprovalFilter | None = Field(
        None, description="`always` if it is left out."
    )
    connector_id: Annotated[Any, refuse(_CONNECTORS)] = None
    tunnel_id: Annotated[Any, refuse("there are no tunnels here: send a server_url")] = None
    allowed_callers: Annotated[Any, refuse("only the model calls: leave allowed_callers out", ["direct"])] = (
        None
    )
    defer_loading: Annotated[Any, refuse("tools are all shown: leave defer_loading out", False)] = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.server_url is None and (self.headers or self.authorization):
            raise crossed(
                "server_url",
                "headers and authorization need a server_url: the operator's servers have their own",
            )
        if self.authorization and any(name.lower() == "authorization" for name in self.headers or ()):
            raise crossed("headers", "send authorization or a header Authorization, not both")
        return self


class McpChoice(Strict):
    """The server of which a tool must be called, and perhaps which one."""

    type: Literal["mcp"]
    server_label: str = Field(min_length=1, max_length=32)
    name: _Id | None = None


class ListedToolInput(Strict):
    """A tool of a list that came before."""

    name: _Id
    input_schema: dict[str, Any]
    description: str | None = None
    annotations: dict[str, Any] | None = None


class McpListToolsInput(Strict):
    """A list of tools that came before. The server is not asked for it again."""

    type: Literal["mcp_list_tools"]
    server_label: _Label
    tools: list[ListedToolInput] = Field(max_length=128)
    id: _Id | None = None
    error: str | None = None


class McpCallInput(Strict):
    """A call that was made before."""

    type: Literal["mcp_call"]
    server_label: _Label
    name: _Id
    arguments: str
    id: _Id | None = None
    output: str | None = None
    error: dict[str, Any] | str | None = None
    status: Literal["in_progress", "completed", "incomplete", "calling", "failed"] | None = None
    approval_request_id: _Id | None = None


class McpApprovalRequestInput(Strict):
    """A call that waits for a person."""

    type: Literal["mcp_approval_request"]
    id: _Id
    server_label: _Label
    name: _Id
    arguments: str


class McpApprovalResponseInput(Strict):
    """The decision of a person on a call."""

    type: Literal["mcp_approval_response"]
    approval_request_id: _Id
    approve: bool
    id: _Id | None = None
    reason: Annotated[str, Field(max_length=4096)] | None = None
