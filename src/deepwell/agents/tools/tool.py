"""`Tool`: something that a model may call by name, with arguments that fit a JSON schema."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deepwell.dialogue.tools import FunctionTool

__all__ = ["Clues", "Tool", "ToolCallContext", "ToolOutput"]


@dataclass(frozen=True, slots=True)
class ToolCallContext:
    """Facts of a call besides its arguments: tenant, ids and time.

    Attributes:
        tenant: whose data the call may read and write.
        run_id: id of the agent's run, or of the session of another caller.
        call_id: id of this call, the same when it is made again after a crash.
        timeout_s: seconds that the call may take; whoever calls ends it after them.
    """

    tenant: str
    run_id: str
    call_id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """The result of a call, or why it failed in words that let a model mend its arguments.

    Attributes:
        text: what the model reads.
        failed: whether the call did not do what was asked.
        data: the same as JSON, for programs; None: there is only text.
    """

    text: str
    failed: bool = False
    data: Any = None


@dataclass(frozen=True, slots=True)
class Clues:
    """Signs in the words of a task that it needs a tool.

    Attributes:
        weight: 0: there are none; above 0.5: the task names something that only such a tool can give; 1: it is certain.
        mentions: words of the task that belong into the arguments of a call, such as the path of a file that is there.
    """

    weight: float = 0.0
    mentions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool. Whoever calls it validates the arguments against `parameters` first, and bounds time and output.

    Attributes:
        name: 1 to 64 letters, digits, `_` and `-`.
        description: what it does and when to use it, as the model reads it.
        parameters: JSON schema of the arguments, an object.
        run: makes the call. A failure that the model can mend is a `ToolOutput` with `failed`; an exception is a fault.
        effects: "reads" may run beside other calls and again after a crash; "writes" runs alone and at most once.
        approval: "always" asks a person before each call.
        strict: whether the arguments that a model writes are held to the schema by a grammar.
        clues: returns the signs that a task needs this tool, for models that choose badly; None: nothing is known.
        computes: whether the tool only computes with numbers that come from the task or from other tools.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any], ToolCallContext], Awaitable[ToolOutput]]
    effects: Literal["reads", "writes"] = "reads"
    approval: Literal["never", "always"] = "never"
    strict: bool = True
    clues: Callable[[str], Clues] | None = None
    computes: bool = False

    def function(self) -> FunctionTool:
        """Returns the tool in the shape that a request offers to a model."""
        return FunctionTool(self.name, self.description, self.parameters, self.strict)
