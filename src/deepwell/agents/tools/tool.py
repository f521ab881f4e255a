"""`Tool`: something that a model may call by name, with arguments that fit a JSON schema."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deepwell.dialogue.tools import FunctionTool

__all__ = ["Clues", "Example", "Guide", "Tool", "ToolCallContext", "ToolOutput"]


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
class Example:
    """A worked example of one call.

    Attributes:
        known: what was known before it.
        task: what was asked.
        arguments: the arguments of the call.
        result: what it returned.
    """

    known: str
    task: str
    arguments: Mapping[str, Any]
    result: str


@dataclass(frozen=True, slots=True)
class Guide:
    """Help for models that choose badly among tools, and that write bad arguments.

    Attributes:
        clues: returns the signs that a task needs the tool.
        advice: how to call it, behind "Call NAME with", in English and in Chinese.
        examples: calls that a model reads before it makes one that the loop asked for: those in the language of its task.
        source: kind of thing that the tool reads. A task that needs several kinds is computed from them.
        fills: the argument that a mention of the clues is the value of; empty: none.
        computes: "numbers": the tool only computes with numbers of the task and of other tools; "rows": it finds and computes.
    """

    clues: Callable[[str], Clues]
    advice: tuple[str, str] = ("words of the task and what is known", "问题里的词和已知的内容")
    examples: tuple[Example, ...] = ()
    source: Literal["", "files", "tables", "documents"] = ""
    fills: str = ""
    computes: Literal["", "numbers", "rows"] = ""


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
        guide: what helps a model that chooses or calls it badly; None: nothing does.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any], ToolCallContext], Awaitable[ToolOutput]]
    effects: Literal["reads", "writes"] = "reads"
    approval: Literal["never", "always"] = "never"
    strict: bool = True
    guide: Guide | None = None

    def function(self) -> FunctionTool:
        """Returns the tool in the shape that a request offers to a model."""
        return FunctionTool(self.name, self.description, self.parameters, self.strict)
