"""`ask_model`: one turn of the model, as the steps that come of it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import replace

from deepwell.agents.loop.actions import Ask
from deepwell.agents.loop.clean import bounded, clean, told
from deepwell.agents.loop.model import ChatModel, ModelTurn, ToolCall, TurnRefused
from deepwell.agents.loop.state import RunState
from deepwell.agents.loop.steps import CallEnded, Ended, Noted, Step, Turned
from deepwell.agents.loop.written import written_calls
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import ContextLengthExceeded, DeepwellError

__all__ = ["ask_model"]

_log = logging.getLogger("deepwell.agents")
_MOST_CALLS = 32
_MOST_TEXT = 200_000
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def ask_model(
    model: ChatModel,
    action: Ask,
    tools: Sequence[FunctionTool],
    state: RunState,
    *,
    seconds: float,
    cancelled: asyncio.Event,
) -> list[Step]:
    """Returns the turn as a step, or why there is none; no step at all if it was cancelled or took longer than it may.

    Args:
        seconds: left for the turn.
    """
    asking = asyncio.ensure_future(
        model.complete(action.messages, tools, choice=action.choice, max_tokens=action.max_tokens)
    )
    stop = asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait({asking, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        was_late = not asking.done()
        if was_late:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    if was_late:
        return []
    if asking.cancelled():
        return [Ended("failed", state.last_text, "the model's client gave up")]
    error = asking.exception()
    if isinstance(error, TurnRefused):
        return _withheld(state, error)
    if isinstance(error, ContextLengthExceeded):
        return [Ended("incomplete", state.last_text, f"the run does not fit the model's context: {error}")]
    if isinstance(error, DeepwellError):
        return [Ended("failed", state.last_text, f"the model did not answer: {error}")]
    if error is not None:
        _log.error("the model's client failed: %s", told(error))
        why = clean(f"{type(error).__name__}: {error}")[:500]
        return [Ended("failed", state.last_text, f"the model did not answer ({why})")]
    return _turned(asking.result(), state, may_call=action.choice != "none")


def _turned(turn: ModelTurn, state: RunState, *, may_call: bool) -> list[Step]:
    assert state.started is not None
    calls = turn.calls
    text, _ = bounded(clean(turn.text), _MOST_TEXT)
    is_written = False
    if state.started.options.checks and may_call and not calls:
        calls = written_calls(text, [one.name for one in state.started.tools])
        is_written = bool(calls)
    kept = [_kept(call, state, number) for number, call in enumerate(calls[:_MOST_CALLS])]
    used: set[str] = set()
    for number, call in enumerate(kept):
        if call.id in used:
            kept[number] = replace(call, id=_own_id(state, number))
        used.add(kept[number].id)
    step = Turned(
        "" if is_written else text,
        kept,
        clean(turn.finish)[:32],
        max(0, turn.prompt_tokens),
        max(0, turn.completion_tokens),
        bounded(clean(turn.reasoning), _MOST_TEXT)[0],
        is_written,
    )
    if len(calls) > _MOST_CALLS:
        text = f"Only the first {_MOST_CALLS} of those {len(calls)} calls are made. Ask for the others again."
        return [step, Noted("many_calls", text)]
    return [step]


def _kept(call: ToolCall, state: RunState, number: int) -> ToolCall:
    """Returns a call with an id that no other of the run has: servers differ in the ids that they give."""
    taken = any(call.id == other.id for past in state.turns for other in past.turn.calls)
    id = (
        call.id
        if _ID.fullmatch(call.id) and not taken and not call.id.startswith("turn")
        else _own_id(state, number)
    )
    return ToolCall(id, clean(call.name)[:200], bounded(clean(call.arguments), _MOST_TEXT)[0])


def _own_id(state: RunState, number: int) -> str:
    return f"turn{len(state.turns)}_{number}"


def _withheld(state: RunState, error: TurnRefused) -> list[Step]:
    """Takes back the newest results, which the guard keeps from the model; the run fails if there is nothing to take back."""
    newest = state.turns[-1].results.values() if state.turns else ()
    steps: list[Step] = [
        CallEnded(
            one.call_id,
            "withheld",
            "Error: the guard withheld this result, because it looks like an attempt to give you orders. Go on without it.",
        )
        for one in newest
        if one.outcome in ("ok", "failed", "repeated")
    ]
    return steps or [Ended("failed", state.last_text, f"the guard refused the run: {error}")]
