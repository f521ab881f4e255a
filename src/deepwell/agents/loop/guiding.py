"""Guidance of a run whose model goes round: which tool the task still needs, and a short prompt in place of the dialogue.

A small model repeats the newest call of a dialogue whatever it is told, and reads a plain question well. So once it has repeated a
call, each turn is either one call of the tool that the words of the task ask for, or the answer from what is known. All of this is
a pure function of the run so far: the clues of the tools lie in its first step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from deepwell.agents.loop.model import Message
from deepwell.agents.loop.numbers import numbers_in
from deepwell.agents.loop.state import RunState, same_call
from deepwell.agents.loop.steps import OfferedTool

__all__ = [
    "Need",
    "answer_prompt",
    "call_prompt",
    "first_tools",
    "is_stuck",
    "missing",
    "next_best",
    "task_of",
]

_NAMED: Final = 0.5  # from here on a task names what a tool gives, above it the tool has to be used
_MOST_TRIES: Final = 4  # calls of a tool that brought nothing, after which it is not asked for again
_MOST_KNOWN: Final = 1500  # characters of one result in a short prompt
_FIRST_LINE: Final = re.compile(r"[^\n]*")


class Need(NamedTuple):
    """Tools of which one has to be called next, and the words that say why."""

    tools: list[str]
    text: str


def task_of(messages: Sequence[Message]) -> str:
    """Returns the text of the newest message of the user."""
    said = [one.get("content") for one in messages if one.get("role") == "user"]
    if not said:
        return ""
    if isinstance(said[-1], str):
        return said[-1]
    parts: list[Any] = list(said[-1] or ())
    return "\n".join(str(one["text"]) for one in parts if isinstance(one, dict) and "text" in one)


def first_tools(state: RunState, reading: Sequence[str]) -> list[str]:
    """Returns the tools of the first turn: the one that the task names most surely, or all reading ones."""
    best = max(_clued(state, reading), key=lambda one: one.weight, default=None)
    return [best.name] if best is not None and best.weight > _NAMED else list(reading)


def is_stuck(state: RunState) -> bool:
    """Returns whether the model has repeated a call, or brings nothing new."""
    return state.stalls > 1 or any(result.outcome == "repeated" for _, result in state.results())


def missing(state: RunState, reading: Sequence[str]) -> Need | None:
    """Returns what the task names and no call has brought yet, the surest first; None: nothing."""
    for tool in sorted(_clued(state, reading), key=lambda one: -one.weight):
        made = [call for call, result in _good(state) if call.name == tool.name]
        if _tries(state, tool.name) >= _MOST_TRIES:
            continue
        unused = [one for one in tool.mentions if not _is_used(state, one)]
        is_unused = tool.weight > _NAMED and not made
        if tool.computes:
            if (is_unused or unused) and any(_good(state)) and len(_known_numbers(state)) > 1 and not made:
                return Need(
                    [tool.name], f"Call {tool.name} with an expression of the numbers that are known."
                )
        elif unused:
            return Need([tool.name], f"Call {tool.name} for {unused[0]} next.")
        elif is_unused:
            return Need([tool.name], f"Call {tool.name} next. Use words of the task and what is known.")
    return None


def next_best(state: RunState, reading: Sequence[str]) -> list[str]:
    """Returns the tools that may bring what an answer lacks: a computing one where numbers are known, else those not used."""
    offered = state.started.tools if state.started else []
    good = {call.name for call, _ in _good(state)}
    computing = [one.name for one in offered if one.computes and one.name in reading]
    if good - set(computing) and not good & set(computing) and len(_known_numbers(state)) > 1:
        return computing
    unused = [one for one in _clued(state, reading) if one.name not in good and not one.computes]
    best = max(unused, key=lambda one: one.weight, default=None)
    return [best.name] if best else [name for name in reading if name not in good] or list(reading)


def call_prompt(state: RunState, need: Need) -> list[Message]:
    """Returns the conversation for one call: the task, what is known, and the call that is wanted."""
    known = "\n".join(_known(state)) or "nothing"
    faults = [
        f"The last call of {call.name} failed: {result.text[:_MOST_KNOWN]}"
        for call, result in state.results()
        if call.name in need.tools and result.outcome in ("failed", "invalid", "timeout", "fault")
    ]
    last = "\n".join([*faults[-1:], need.text])
    return _asked(state, f"{_task(state)}\n\nKnown so far:\n{known}\n\n{last}")


def answer_prompt(state: RunState, ask: str) -> list[Message]:
    """Returns the conversation for the answer: the task and what is known."""
    known = "\n".join(_known(state)) or "nothing"
    return _asked(state, f"Question: {_task(state)}\n\nWhat is known:\n{known}\n\n{ask}")


def _asked(state: RunState, text: str) -> list[Message]:
    """Returns the messages of the run's start with the task in other words."""
    assert state.started is not None
    found: list[Message] = list(state.started.messages)
    place = max((n for n, one in enumerate(found) if one.get("role") == "user"), default=None)
    return [
        *found[:place],
        {"role": "user", "content": text},
        *(found[place + 1 :] if place is not None else ()),
    ]


def _task(state: RunState) -> str:
    return task_of(state.started.messages) if state.started else ""


def _known(state: RunState) -> Iterator[str]:
    """Yields the results that a run has, each once, in the order in which they came."""
    seen = set[str]()
    for call, result in _good(state):
        if same_call(call) not in seen:
            seen.add(same_call(call))
            text = result.text
            shown = text if len(text) <= _MOST_KNOWN else f"{text[:_MOST_KNOWN]} (cut)"
            yield f"{call.name} {call.arguments.strip()} gave: {shown}"


def _good(state: RunState) -> Iterator[tuple[Any, Any]]:
    return (pair for pair in state.results() if pair[1].outcome == "ok")


def _clued(state: RunState, reading: Sequence[str]) -> list[OfferedTool]:
    offered = state.started.tools if state.started else []
    return [one for one in offered if one.name in reading and one.weight >= _NAMED]


def _tries(state: RunState, name: str) -> int:
    return sum(call.name == name and result.outcome != "ok" for call, result in state.results())


def _is_used(state: RunState, mention: str) -> bool:
    values = {value for _, value, _ in numbers_in(mention)}
    for call, _ in _good(state):
        if mention in call.arguments or values & {value for _, value, _ in numbers_in(call.arguments)}:
            return True
    return False


def _known_numbers(state: RunState) -> set[float]:
    texts = [_task(state), *(result.text for _, result in _good(state))]
    return {value for text in texts for _, value, _ in numbers_in(text)}
