"""Steps of a run: the rows of its log, in the order in which they came to pass.

A run is what its steps say, and nothing else: `RunState` is folded from them, so that a run goes on after a crash where its
log ends, and is shown and replayed without a model or a tool. Each step is kept before the next one begins.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from deepwell.agents.loop.budget import Budget, Limit
from deepwell.agents.loop.model import ToolCall
from deepwell.agents.loop.options import LoopOptions

__all__ = [
    "OUTCOMES",
    "CallEnded",
    "CallStarted",
    "Decided",
    "EndStatus",
    "Ended",
    "Entry",
    "Guidance",
    "Noted",
    "OfferedTool",
    "Outcome",
    "Started",
    "Step",
    "Turned",
    "WorkedCall",
    "decode_entry",
    "encode_entry",
    "kind_of",
]

EndStatus = Literal["completed", "incomplete", "cancelled", "failed"]

Outcome = Literal[
    "ok",  # the tool did what was asked
    "failed",  # the tool says why it did not
    "invalid",  # the tool was not called: unknown name, or arguments that do not fit
    "repeated",  # the tool was not called: the same call was made before
    "denied",  # the tool was not called: a person said no
    "skipped",  # the tool was not called: the budget of calls is used up
    "timeout",  # the tool took too long
    "fault",  # the tool broke
    "unknown",  # the call may have been made, and is not made again
    "cancelled",  # the run was cancelled meanwhile
    "withheld",  # the guard kept the result from the model
]
OUTCOMES: tuple[Outcome, ...] = Outcome.__args__  # pyright: ignore[reportAttributeAccessIssue]


class WorkedCall(msgspec.Struct, frozen=True):
    """A worked example of a call; see `deepwell.agents.tools.Example`."""

    known: str
    task: str
    arguments: dict[str, Any]
    result: str


class Guidance(msgspec.Struct, frozen=True):
    """The advice of a tool's guide on the task.

    Attributes:
        weight: how strongly the words of the task call for the tool.
        mentions: words of the task that belong into its arguments.
        advice: how to call it, in English and in Chinese.
        examples: calls to learn from.
        source: see `deepwell.agents.tools.Guide`.
        fills: the argument that a mention is the value of.
        computes: see `deepwell.agents.tools.Guide`.
    """

    weight: float = 0.0
    mentions: tuple[str, ...] = ()
    advice: tuple[str, str] = ("", "")
    examples: tuple[WorkedCall, ...] = ()
    source: Literal["", "files", "tables", "documents"] = ""
    fills: str = ""
    computes: Literal["", "numbers", "rows"] = ""


class OfferedTool(msgspec.Struct, frozen=True):
    """A tool as it was when the run began.

    Attributes:
        is_client: whether whoever asked for the run makes its calls.
        guidance: what its guide says of the task; None: it has none, or the run has no checks.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool
    effects: Literal["reads", "writes"] = "reads"
    approval: Literal["never", "always"] = "never"
    is_client: bool = False
    guidance: Guidance | None = None


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The run began.

    Attributes:
        model: name of the model.
        messages: what the model reads first, in OpenAI's shape, the instructions included.
        tools: tools that it may call.
        budget: what it may use.
        options: how it is driven.
    """

    model: str
    messages: list[dict[str, Any]]
    tools: list[OfferedTool]
    budget: Budget
    options: LoopOptions


class Turned(msgspec.Struct, frozen=True, tag="turn"):
    """The model answered. `written`: its calls stood in its text, not in the native form."""

    text: str
    calls: list[ToolCall]
    finish: str
    prompt_tokens: int
    completion_tokens: int
    reasoning: str = ""
    written: bool = False


class Noted(msgspec.Struct, frozen=True, tag="note"):
    """A check told the model something, as a message of the user."""

    check: str
    text: str


class CallStarted(msgspec.Struct, frozen=True, tag="call"):
    """A call begins. From here on it may have been made."""

    call_id: str
    name: str
    arguments: dict[str, Any]
    effects: Literal["reads", "writes"]


class CallEnded(msgspec.Struct, frozen=True, tag="result"):
    """A call has its result, or the reason why it was not made.

    Attributes:
        call_id: the call.
        outcome: how it ended.
        text: what the model reads.
        characters: length of the result before it was cut; 0: it was not.
        seconds: time that the call took.
        data: the result as JSON, where the tool gives it.
    """

    call_id: str
    outcome: Outcome
    text: str
    characters: int = 0
    seconds: float = 0.0
    data: Any = None


class Decided(msgspec.Struct, frozen=True, tag="decision"):
    """A person allowed or denied a call."""

    call_id: str
    is_approved: bool
    reason: str = ""


class Ended(msgspec.Struct, frozen=True, tag="end"):
    """The run is over.

    Attributes:
        status: how it ended.
        text: the answer, or the last text that there was.
        reason: why it ended, where it was not by an answer.
        limit: the limit that was reached, if one was.
    """

    status: EndStatus
    text: str = ""
    reason: str = ""
    limit: Limit | None = None


Step = Started | Turned | Noted | CallStarted | CallEnded | Decided | Ended


class Entry(msgspec.Struct, frozen=True):
    """A row of the log.

    Attributes:
        number: its place, from 0.
        at: Unix time.
        clock: seconds that the run had been at work.
        step: what happened.
    """

    number: int
    at: float
    clock: float
    step: Step


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """Returns a row as JSON."""
    return _encoder.encode(entry)


def decode_entry(raw: bytes | str) -> Entry:
    """Returns a row from its JSON.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decoder.decode(raw)


def kind_of(step: Step) -> str:
    """Returns the name of a step's kind: started, turn, note, call, result, decision or end."""
    return str(type(step).__struct_config__.tag)
