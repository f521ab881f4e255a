"""Actions of a run: what `next_action` decides, and the driver does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepwell.agents.loop.model import Choice, Message, ToolCall
from deepwell.agents.loop.steps import Ended, Step
from deepwell.agents.tools.tool import Tool
from deepwell.dialogue.tools import FunctionTool

__all__ = ["Action", "Append", "Ask", "Call", "ClientTool", "Done", "ReadyCall", "Wait"]


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A tool whose calls are made by whoever asked for the run, which waits for their results."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = True

    def function(self) -> FunctionTool:
        """Returns the tool in the shape that a request offers to a model."""
        return FunctionTool(self.name, self.description, self.parameters, self.strict)


@dataclass(frozen=True, slots=True)
class Append:
    """Keep a step that needs no model and no tool."""

    step: Step


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the model for its next turn, with the tools of some names.

    Attributes:
        fills: values that arguments have to have, in a call that needs its required arguments alone; None: it may have any.
    """

    messages: list[Message]
    choice: Choice
    offered: list[str]
    max_tokens: int
    fills: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class ReadyCall:
    """A call that may be made, with arguments that fit. `note`: what its result says first."""

    id: str
    tool: Tool
    arguments: dict[str, Any]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """Make calls beside each other."""

    calls: list[ReadyCall]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for people: calls to approve or deny, and calls whose results the client gives."""

    approvals: list[ToolCall]
    outputs: list[ToolCall]


@dataclass(frozen=True, slots=True)
class Done:
    """The run has ended."""

    end: Ended


Action = Append | Ask | Call | Wait | Done
