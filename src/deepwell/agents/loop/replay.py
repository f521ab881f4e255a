"""`replay`: a run played again from its log, without its model and without its tools.

Each step is compared with what `next_action` does after the steps before it. What models, tools, people and clocks decided is
taken from the log; everything else has to come out the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from deepwell.agents.loop.actions import Action, Append, Ask, Call, ClientTool, Wait
from deepwell.agents.loop.budget import Spent
from deepwell.agents.loop.deciding import next_action
from deepwell.agents.loop.model import Message
from deepwell.agents.loop.state import RunState
from deepwell.agents.loop.steps import (
    CallEnded,
    CallStarted,
    Decided,
    Ended,
    Entry,
    Noted,
    Started,
    Step,
    Turned,
)
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput
from deepwell.errors import DeepwellError, InvalidRequest

__all__ = ["Replay", "replay"]

_BY_LOOP = ("invalid", "repeated", "denied", "skipped", "unknown")


@dataclass(frozen=True, slots=True)
class Replay:
    """A run as its log tells it.

    Attributes:
        messages: the conversation, as the model read it last, with its last answer.
        spent: what the run used.
        ended: its end, if it has one.
        diverged_at: number of the first entry that does not follow from those before it; None: all do.
        why: what would have followed there.
    """

    messages: Sequence[Message]
    spent: Spent
    ended: Ended | None
    diverged_at: int | None = None
    why: str = ""


def replay(entries: Sequence[Entry]) -> Replay:
    """Plays a run again.

    Raises:
        InvalidRequest: the log does not begin with the start of a run, or entries are missing.
    """
    if not entries or not isinstance(entries[0].step, Started):
        raise InvalidRequest("the log does not begin with the start of a run", fix="export the whole run")
    if [one.number for one in entries] != list(range(len(entries))):
        raise InvalidRequest("entries of the log are missing", fix="export the whole run")
    tools = _tools(entries[0].step)
    state = RunState.folded(entries[:1])
    group: set[str] = set()
    diverged: tuple[int, str] | None = None
    for before, entry in pairwise(entries):
        state.spent.seconds = max(state.spent.seconds, entry.clock)
        action = next_action(state, tools)
        if isinstance(action, Call):
            group |= {one.id for one in action.calls}
        if diverged is None and not _follows(entry.step, before.step, action, state, group):
            diverged = entry.number, f"{type(action).__name__}: {action}"[:500]
        state.apply(entry)
    number, why = diverged or (None, "")
    return Replay(state.messages(), state.spent, state.ended, number, why)


def _follows(step: Step, before: Step, action: Action, state: RunState, group: set[str]) -> bool:
    """Returns whether a step may follow where `action` is what the loop does next."""
    if isinstance(action, Append) and action.step == step:
        return True
    match step:
        case Ended():
            return state.ended is None and (
                step.status == "cancelled" or step.limit == "seconds" or isinstance(action, Ask)
            )
        case Turned():
            return isinstance(action, Ask)
        case Noted():
            return step.check == "many_calls" and isinstance(before, Turned)
        case CallStarted():
            outputs = action.outputs if isinstance(action, Wait) else []
            return step.call_id in group or any(one.id == step.call_id for one in outputs)
        case CallEnded():
            if step.outcome == "withheld":
                return isinstance(action, Ask) or isinstance(before, CallEnded)
            return step.call_id in state.begun and (step.outcome not in _BY_LOOP or step.outcome == "unknown")
        case Decided():
            return isinstance(action, Wait) and any(one.id == step.call_id for one in action.approvals)
        case _:
            return False


def _tools(started: Started) -> Mapping[str, Tool | ClientTool]:
    """Returns the tools of a run, which cannot be called."""
    return {
        one.name: ClientTool(one.name, one.description, one.parameters, one.strict)
        if one.is_client
        else Tool(one.name, one.description, one.parameters, _refused, one.effects, one.approval, one.strict)
        for one in started.tools
    }


async def _refused(_arguments: Mapping[str, object], _context: ToolCallContext) -> ToolOutput:
    raise DeepwellError("a replayed run calls no tool", fix="read its result from the log")
