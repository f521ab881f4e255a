"""The parts of calls on MCP servers on their way into a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepwell.server.families.responses.mcp.bodies import McpListedTool

__all__ = ["McpAsked", "McpBegun", "McpEnded", "McpListed", "McpPart"]


@dataclass(frozen=True, slots=True)
class McpListed:
    """The tools of a server."""

    label: str
    tools: list[McpListedTool]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class McpBegun:
    """A call that is about to be made. `cut`: the answer ended within its arguments, so that it is not made."""

    label: str
    name: str
    arguments: str
    approval_request_id: str | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class McpEnded:
    """The end of the call that was begun last: its output or its error."""

    output: str | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class McpAsked:
    """A call for which a person is asked."""

    label: str
    name: str
    arguments: str


McpPart = McpListed | McpBegun | McpEnded | McpAsked
