"""`McpItems`: the items and events that the parts of calls on MCP servers become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from deepwell.server.families.responses.mcp.bodies import (
    McpApprovalRequest,
    McpArgumentsDelta,
    McpArgumentsDone,
    McpCall,
    McpEvent,
    McpListTools,
)
from deepwell.server.families.responses.mcp.parts import McpAsked, McpBegun, McpEnded, McpListed, McpPart

__all__ = ["McpItem", "McpItems", "Output"]

McpItem = McpListTools | McpCall | McpApprovalRequest


class Output(Protocol):
    """The output of a response that is being built."""

    def add(self, prefix: str, make: Callable[[str], McpItem]) -> int:
        """Adds an item with a new id, and returns its index."""
        ...

    def tell(self, make: Callable[[int], Any]) -> None:
        """Adds the event that is made of its number."""
        ...

    def tell_item(self, type: str, index: int, item: McpItem) -> None:
        """Adds an event of an item as it is now."""
        ...


class McpItems:
    """Adds parts to the output of one response."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._call: tuple[int, McpCall] | None = None

    def take(self, part: McpPart) -> None:
        """Adds a part, and the events that it causes."""
        match part:
            case McpListed():
                self._list(part)
            case McpBegun():
                self._begin(part)
            case McpEnded():
                self._end(part)
            case McpAsked():
                self._ask(part)

    def abandon(self) -> None:
        """Marks a call as incomplete if the answer ends before it does."""
        if self._call is not None:
            self._call[1].status = "incomplete"
            self._call = None

    def _list(self, part: McpListed) -> None:
        made: list[McpListTools] = []

        def make(id: str) -> McpListTools:
            made.append(McpListTools(id, part.label, []))
            return made[0]

        index = self._output.add("mcpl", make)
        item = made[0]
        self._tell("response.mcp_list_tools.in_progress", item.id, index)
        item.tools, item.error = part.tools, part.error
        self._tell("response.mcp_list_tools.completed", item.id, index)
        self._output.tell_item("response.output_item.done", index, item)

    def _begin(self, part: McpBegun) -> None:
        made: list[McpCall] = []

        def make(id: str) -> McpCall:
            request = part.approval_request_id
            made.append(McpCall(id, part.label, part.name, "", "in_progress", approval_request_id=request))
            return made[0]

        index = self._output.add("mcp", make)
        item, text = made[0], part.arguments
        self._tell("response.mcp_call.in_progress", item.id, index)
        delta, done = "response.mcp_call_arguments.delta", "response.mcp_call_arguments.done"
        if text:
            self._output.tell(lambda number: McpArgumentsDelta(delta, item.id, index, text, number))
        item.arguments = text
        if part.cut:
            item.status = "incomplete"
            self._output.tell_item("response.output_item.done", index, item)
            return
        self._output.tell(lambda number: McpArgumentsDone(done, item.id, index, text, number))
        item.status = "calling"
        self._call = index, item

    def _end(self, part: McpEnded) -> None:
        assert self._call is not None
        index, item = self._call
        self._call = None
        item.output, item.error = part.output, part.error
        item.status = "completed" if part.error is None else "failed"
        self._tell(f"response.mcp_call.{item.status}", item.id, index)
        self._output.tell_item("response.output_item.done", index, item)

    def _ask(self, part: McpAsked) -> None:
        made: list[McpApprovalRequest] = []

        def make(id: str) -> McpApprovalRequest:
            made.append(McpApprovalRequest(id, part.label, part.name, part.arguments))
            return made[0]

        index = self._output.add("mcpr", make)
        self._output.tell_item("response.output_item.done", index, msgspec.structs.replace(made[0]))

    def _tell(self, type: str, id: str, index: int) -> None:
        self._output.tell(lambda number: McpEvent(type, id, index, number))
