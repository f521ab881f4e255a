"""`next_action`: what a run does next. A pure function of its steps and its tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepwell.agents.loop.actions import Action, Append, Ask, Call, ClientTool, Done, ReadyCall, Wait
from deepwell.agents.loop.arguments import (
    InvalidArguments,
    nearest,
    outline,
    parse_arguments,
    without_unknown,
)
from deepwell.agents.loop.budget import Budget, Limit
from deepwell.agents.loop.checks import (
    ANSWER_NOW,
    earlier_result,
    failed_before,
    invented_numbers,
    objection,
    reading_tools,
    reminder,
)
from deepwell.agents.loop.guiding import (
    answer_prompt,
    call_prompt,
    first_need,
    first_prompt,
    is_stuck,
    missing,
    next_best,
)
from deepwell.agents.loop.model import Choice, ToolCall
from deepwell.agents.loop.state import PastTurn, RunState, same_call
from deepwell.agents.loop.steps import CallEnded, Ended, Noted, Outcome, Step
from deepwell.agents.tools.tool import Tool
from deepwell.models.text.shipped import shipped

__all__ = ["budget_end", "next_action"]


def next_action(state: RunState, tools: Mapping[str, Tool | ClientTool]) -> Action:
    """Returns what to do next. `state` is that of a run that has started, and of which nothing is being done."""
    assert state.started is not None
    if state.ended is not None:
        return Done(state.ended)
    budget, options = state.started.budget, state.started.options
    for call in state.pending:
        begun = state.begun.get(call.id)
        if begun is not None and begun.effects == "writes":
            return Append(CallEnded(call.id, "unknown", _UNKNOWN))
    if (answer := state.answer) is not None:
        return Append(_judged(state, answer))
    if limit := _reached(state, budget):
        return Append(budget_end(state, limit))
    if state.pending:
        return _of_calls(state, tools)
    if options.checks and state.stalls >= options.most_stalls:
        reason = f"nothing came of the last {state.stalls} turns: {state.spent.shown()}"
        return Append(Ended("incomplete", state.last_text, reason))
    return _ask(state, tools)


_ANSWER_AFTER = 3
"""Turns that brought nothing, after which the model is to answer from what it has."""

_UNKNOWN = shipped(
    "It is not known whether this call was made: the run was interrupted meanwhile. It is not made again by itself. "
    "Look at what it would have changed before you call it once more."
)
_INVENTED = shipped(
    "This call was not made: neither the task nor a result gives {numbers}. "
    "Get the numbers from another tool first, and compute with those."
)
_DELAYING = ("unsupported", "declined", "no_path", "left_out")
"""Checks that speak about the answer of a model that was told to answer."""
_MOST_REFUSALS = 2
"""Times that one computation with numbers of the model's own is refused; then it is believed."""
_NO_CALLS_LEFT = shipped(
    "This call was not made: the budget of calls is used up. Answer from the results that you have."
)
_NOT_MADE = shipped("This call was not made: {reason}")
_DENIED = shipped("This call was not made: a person denied it{reason}.")
_REPEATED = shipped(
    "You made this call before. Its result was:\n{result}\nGo on with the next step, or answer."
)
_FAILED_BEFORE = shipped(
    "This call failed before, so it was not made again: {error}\nChange the arguments, or use another tool."
)
_NO_TOOL = shipped("There is no tool {name}.")
_DID_YOU_MEAN = shipped(" Did you mean {name}, which takes {arguments}?")


def budget_end(state: RunState, limit: Limit) -> Ended:
    """Returns the end of a run that has used up its budget, with what it reached."""
    assert state.started is not None
    most = getattr(state.started.budget, limit)
    reason = f"the budget of {most:g} {limit} is used up: {state.spent.shown()}"
    if limit == "tokens" and state.spent.tokens < most:
        reason = f"{reason}, and the next turn reads at least {state.spent.context_tokens} tokens"
    if pending := state.pending:
        reason = f"{reason}; {len(pending)} calls of the last turn were not made"
    return Ended("incomplete", state.last_text, reason, limit)


def _reached(state: RunState, budget: Budget) -> Limit | None:
    limit = state.spent.reached(budget)
    if limit is None and state.pending and state.spent.calls >= budget.calls and _is_told(state):
        return "calls"
    return limit


def _is_told(state: RunState) -> bool:
    """Returns whether the model was told that no call is left, or is not to be told."""
    assert state.started is not None
    return not state.started.options.checks or any(
        result.outcome == "skipped" for _, result in state.results()
    )


def _has_room(state: RunState) -> bool:
    assert state.started is not None
    return state.spent.reached(state.started.budget) is None


def _judged(state: RunState, answer: str) -> Step:
    assert state.started is not None
    is_forced = len(state.turns) > 1 and any(one.check == "answer_now" for one in state.turns[-2].notes)
    if state.started.options.checks and _has_room(state):
        # A model that was told to answer has nothing else to say; figures of its own are the one thing worth a further call.
        note = objection(state, answer)
        if note is not None and (not is_forced or note.check in _DELAYING):
            return note
    last = state.turns[-1].turn
    if last.finish == "length":
        return Ended("incomplete", answer, "the answer was cut at the limit of one turn's tokens", "tokens")
    if last.finish == "content_filter":
        refusal = answer.strip().rpartition("\n\n")[2]  # behind what had left of an answer
        return Ended("failed", answer, f"the guard stopped the answer: {refusal}")
    if not answer.strip():
        return Ended("incomplete", state.last_text, "the model gave no answer")
    return Ended("completed", answer)


def _of_calls(state: RunState, tools: Mapping[str, Tool | ClientTool]) -> Action:
    """Makes the next calls of the turn in the model's order: reads beside each other, a write by itself."""
    assert state.started is not None
    left = state.started.budget.calls - state.spent.calls
    ready: list[ReadyCall] = []
    approvals: list[ToolCall] = []
    outputs: list[ToolCall] = []
    for call in state.pending:
        judged = _prepared(state, call, tools)
        if isinstance(judged, CallEnded):
            return Append(judged) if not ready else Call(ready)
        tool, arguments, note = judged
        if len(ready) + len(approvals) + len(outputs) >= left:
            return Call(ready) if ready else Append(CallEnded(call.id, "skipped", _NO_CALLS_LEFT))
        if isinstance(tool, ClientTool):
            outputs.append(call)
        elif tool.approval == "always" and call.id not in state.decisions:
            approvals.append(call)
        elif approvals or outputs:  # a later call may build on those
            continue
        elif tool.effects == "writes":
            return Call(ready or [ReadyCall(call.id, tool, arguments, note)])
        else:
            ready.append(ReadyCall(call.id, tool, arguments, note))
    return Call(ready) if ready else Wait(approvals, outputs)


def _prepared(
    state: RunState, call: ToolCall, tools: Mapping[str, Tool | ClientTool]
) -> CallEnded | tuple[Tool | ClientTool, dict[str, Any], str]:
    """Returns the tool of a call, arguments that fit and a note about them, or the result of a call that is not made."""
    assert state.started is not None
    checks = state.started.options.checks
    tool = tools.get(call.name)
    if tool is None:
        return _not_made(call, "invalid", _unknown_name(call.name, tools, checks))
    note, schema = "", tool.function().schema()
    try:
        arguments = parse_arguments(call.arguments, schema, explain=checks)
    except InvalidArguments as error:
        # What a write is not to do may stand in an argument that it does not know.
        may_leave_out = checks and isinstance(tool, Tool) and tool.effects == "reads"
        left = without_unknown(call.arguments, schema) if may_leave_out else None
        if left is None:
            return _not_made(call, "invalid", _NOT_MADE.format(reason=error))
        arguments, unknown = left
        note = f"[{call.name} has no argument {', '.join(unknown)[:100]}: left out]\n"
    decision = state.decisions.get(call.id)
    if decision is not None and not decision.is_approved:
        said = f": {decision.reason}" if decision.reason else ""
        return _not_made(call, "denied", _DENIED.format(reason=said))
    if checks and decision is None:

        def is_write(name: str) -> bool:
            return getattr(tools.get(name), "effects", "reads") == "writes"

        before = earlier_result(state, call, is_write=is_write)
        if before is not None:
            return _not_made(call, "repeated", _REPEATED.format(result=before))
        if (error := failed_before(state, call, is_write=is_write)) is not None:
            return _not_made(call, "repeated", _FAILED_BEFORE.format(error=error))
        invented = invented_numbers(state, call)
        if invented and _refusals(state, call) < _MOST_REFUSALS:
            return _not_made(call, "invalid", _INVENTED.format(numbers=", ".join(invented[:5])))
    return tool, arguments, note


def _refusals(state: RunState, call: ToolCall) -> int:
    return sum(
        same_call(before) == same_call(call) and result.outcome == "invalid"
        for before, result in state.results()
    )


def _not_made(call: ToolCall, outcome: Outcome, text: str) -> CallEnded:
    return CallEnded(call.id, outcome, text)


def _unknown_name(name: str, tools: Mapping[str, Tool | ClientTool], checks: bool) -> str:
    said = _NO_TOOL.format(name=repr(name[:64]))
    if not checks:
        return said
    near = nearest(name, tools.keys())
    takes = outline(tools[near].function().schema()) if near else ""
    hint = _DID_YOU_MEAN.format(name=repr(near), arguments=takes) if near else ""
    return f"{said}{hint} Tools: {', '.join(tools) or 'none'}."


def _ask(state: RunState, tools: Mapping[str, Tool | ClientTool]) -> Action:
    assert state.started is not None
    budget, spent = state.started.budget, state.spent
    choice: Choice = "auto"
    offered = list(tools)
    if state.started.options.checks and tools and not state.turns:
        # Small models write their first call as text, of a tool that they make up, unless a grammar holds it.
        if reading := _reading(tools):
            if (need := first_need(state, reading)) is not None:
                return Ask(first_prompt(state, need), "required", need.tools, _most_tokens(state), need.fills)
            # The functions of a client are what its task is about, and it is not for the loop to have them called.
            if not _has_client(tools):
                choice, offered = "required", reading
    elif state.started.options.checks and _may_guide(state, tools):
        return _guided(state)
    elif state.started.options.checks and tools:
        notes = state.turns[-1].notes
        last_note = notes[-1].check if notes else ""
        is_last = budget.turns - spent.turns == 1
        if not is_last and _wants_another(state, last_note) and (others := _others(state, tools)):
            choice, offered = "required", others
        elif is_last or spent.calls >= budget.calls or _goes_round(state):
            if last_note != "answer_now":
                return Append(Noted("answer_now", ANSWER_NOW))
            choice = "none"
        elif last_note in ("no_call", "broken_call") and (reading := _reading(tools)):
            choice, offered = "required", reading
        elif wanted := _misspelt(state, tools):
            choice, offered = "required", wanted
        elif state.turns[-1].results and not last_note:
            return Append(reminder(state))
    return Ask(state.messages(), choice, offered, _most_tokens(state))


def _most_tokens(state: RunState) -> int:
    assert state.started is not None
    spent, budget = state.spent, state.started.budget
    left = budget.tokens - spent.tokens - spent.context_tokens
    return max(1, min(state.started.options.turn_tokens, left))


def _may_guide(state: RunState, tools: Mapping[str, Tool | ClientTool]) -> bool:
    """Returns whether the model goes round and the tools, which only read, say what the task needs."""
    assert state.started is not None
    is_reading = state.started.options.guidance and len(_reading(tools)) == len(tools)
    return (
        is_reading
        and is_stuck(state)
        and any(one.guidance and one.guidance.weight for one in state.started.tools)
    )


def _guided(state: RunState) -> Append | Ask:
    """Returns the next turn of a model that goes round: one call that the task needs, or the answer from what is known."""
    assert state.started is not None
    budget, spent, notes = state.started.budget, state.spent, state.turns[-1].notes
    last_note = notes[-1].check if notes else ""
    reading = reading_tools(state)
    may_call = budget.turns - spent.turns > 1 and spent.calls < budget.calls and state.stalls <= _ANSWER_AFTER
    if may_call and last_note in ("unsupported", "declined"):
        need = next_best(state, reading)
        return Ask(call_prompt(state, need), "required", need.tools, _most_tokens(state), need.fills)
    need = missing(state, reading)
    if may_call and need is not None:
        if last_note not in ("guide", "unfinished"):
            return Append(Noted("guide", need.text))
        return Ask(call_prompt(state, need), "required", need.tools, _most_tokens(state), need.fills)
    if last_note not in ("answer_now", "no_path", "left_out"):
        return Append(Noted("answer_now", ANSWER_NOW))
    return Ask(answer_prompt(state, notes[-1]), "none", list(reading), _most_tokens(state))


def _reading(tools: Mapping[str, Tool | ClientTool]) -> list[str]:
    """Returns the tools that a model may be made to call: they change nothing and ask nobody."""
    return [
        name
        for name, one in tools.items()
        if isinstance(one, Tool) and one.effects == "reads" and one.approval == "never"
    ]


def _has_client(tools: Mapping[str, Tool | ClientTool]) -> bool:
    return any(isinstance(one, ClientTool) for one in tools.values())


def _misspelt(state: RunState, tools: Mapping[str, Tool | ClientTool]) -> list[str]:
    """Returns the tools that the newest turn meant, if it wrote none of its calls so that it could be made.

    A model that has to call writes under a grammar, where names and arguments come out right.
    """
    past = state.turns[-1]
    if not past.results or any(one.outcome != "invalid" for one in past.results.values()):
        return []
    names = [one.name if one.name in tools else nearest(one.name, tools.keys()) for one in past.turn.calls]
    return list(dict.fromkeys(name for name in names if name is not None)) or _reading(tools)


def _wants_another(state: RunState, last_note: str) -> bool:
    """Returns whether another tool is the way on: figures are missing, or a failing call is repeated and nothing is known."""
    if last_note == "unsupported":
        return True
    knows = any(result.outcome == "ok" for _, result in state.results())
    return not knows and _repeats(state) and state.stalls < _ANSWER_AFTER


def _others(state: RunState, tools: Mapping[str, Tool | ClientTool]) -> list[str]:
    """Returns the reading tools but those whose newest calls only repeated earlier ones."""
    called = next((past for past in reversed(state.turns) if past.turn.calls), None)
    repeated = (
        {call.name for call in called.turn.calls if _outcome(called, call) == "repeated"}
        if called
        else set[str]()
    )
    return [name for name in _reading(tools) if name not in repeated]


def _outcome(past: PastTurn, call: ToolCall) -> str:
    return past.results[call.id].outcome if call.id in past.results else ""


def _goes_round(state: RunState) -> bool:
    """Returns whether the newest turn called nothing but what was called before, or nothing came of the newest three."""
    return _repeats(state) or state.stalls >= _ANSWER_AFTER


def _repeats(state: RunState) -> bool:
    results = state.turns[-1].results.values()
    return bool(results) and all(result.outcome == "repeated" for result in results)
