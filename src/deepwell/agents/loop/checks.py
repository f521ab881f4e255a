"""Checks of the loop: what it tells a model that goes wrong in one of the ways in which small models do.

Each check is a pure function of the run so far. A check of answers speaks once in a run: a model that says the same again is
believed, so that a check can delay an answer and never prevent it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from deepwell.agents.loop.clean import numbers_in
from deepwell.agents.loop.guiding import computed, has_guides, is_stuck, known_paths, task_of, unread
from deepwell.agents.loop.model import ToolCall
from deepwell.agents.loop.plan import open_steps
from deepwell.agents.loop.state import RunState, same_call
from deepwell.agents.loop.steps import Noted
from deepwell.agents.loop.written import looks_like_a_call
from deepwell.models.text.shipped import shipped

__all__ = [
    "ANSWER_NOW",
    "earlier_result",
    "failed_before",
    "invented_numbers",
    "objection",
    "reading_tools",
    "reminder",
    "unsupported_numbers",
]

ANSWER_NOW = shipped("Give the final answer now, in plain words, from the results above. Do not call a tool.")
_REMIND = shipped(
    "If the results above hold the answer, give it now in plain words. If not, make the next call."
)
_THE_TASK = shipped("{ask} The task: {task}")
_EMPTY = shipped("That answer was empty. Call a tool, or give the final answer in plain words.")
_BROKEN = shipped(
    "That looks like a call, but it is incomplete: nothing was called. Make the call again, or answer in plain words."
)
_UNCALLED = shipped(
    "You have not used a tool yet. Tools: {names}. "
    "Call one to get or to check the facts that the answer needs."
)
_UNMENDED = shipped(
    "The last call of {name} did not work, so its result is missing. "
    "Call it again with other arguments, or another tool; if that is not possible, say so in the answer."
)
_UNPLANNED = shipped(
    "{count} steps of the plan are not done: {steps}. Do them first, or take them out of the plan."
)
_UNFINISHED = shipped("The task is not done yet. {need}")
_DECLINED = shipped("Another tool may know it: {names}. Call one. If none can know it, say so.")
_UNNAMED = shipped("The task asks for a file. The results name: {paths}")
_LEFT_OUT = shipped("The result of the last call is {value}, and the answer leaves it out. Give it.")
_UNSUPPORTED = shipped(
    "No tool returned {numbers}. Get such figures from a tool, and compute with a tool, "
    "not in your head. If the figure follows from the results, repeat the answer."
)

_MOST_FAULTS = 3  # of one call, each after attempts of its own
_MOST_NUMBERS = 5
_MOST_TASK = 400  # characters of the task that are said again


_UNITS = {10.0, 12.0, 24.0, 30.0, 52.0, 60.0, 100.0, 360.0, 365.0, 1000.0, 3600.0}
_DECLINES = re.compile(
    r"\b(?:not (?:known|provided|given|mentioned|specified|available|stated|found|contain|possible|enough)"
    r"|no information|unknown|cannot|can't|unable|doesn't (?:say|contain|mention)|does not (?:say|contain|mention))\b"
    r"|未知|不知道|没有提|未提|无法|没有相关|未找到",
    re.IGNORECASE,
)
# Behind an expression in JSON. It begins at the first of several blanks, else each of them would be one to begin at.
_RESULT = re.compile(r"(?<!\s)\s*=\s*-?[\d,.]+\s*\"")
_ASKS_PATH = re.compile(
    r"\b(?:(?:which|what) files?|paths?|name of the file)\b|(?:哪个|哪一个|什么)文件|路径|文件名",
    re.IGNORECASE,
)


class _Check(NamedTuple):
    name: str
    find: Callable[[RunState, str], str | None]


def objection(state: RunState, answer: str) -> Noted | None:
    """Returns what speaks against taking a text as the answer of the run; None: nothing that was not said before."""
    for check in _CHECKS:
        if not state.noted[check.name] and (text := check.find(state, answer)):
            return Noted(check.name, text)
    return None


def reminder(state: RunState) -> Noted:
    """Returns the task, said again behind results: small models lose it, and go on calling when they could answer."""
    assert state.started is not None
    task = task_of(state.started.messages)
    shown = task if len(task) <= _MOST_TASK else f"{task[:_MOST_TASK]} ..."
    return Noted("remind", _THE_TASK.format(ask=_REMIND, task=shown) if shown else _REMIND)


def failed_before(state: RunState, call: ToolCall, *, is_write: Callable[[str], bool]) -> str | None:
    """Returns the error that the same call gave before. A fault or a time-out may pass, a refusal stays."""
    wanted = same_call(call)
    faults = 0
    for before, result in reversed(list(state.results())):
        if result.outcome == "ok" and is_write(before.name):
            return None  # which may have mended it
        if same_call(before) == wanted and result.outcome in ("failed", "fault", "timeout"):
            faults += 1
            if result.outcome == "failed" or faults == _MOST_FAULTS:
                return result.text
    return None


def earlier_result(state: RunState, call: ToolCall, *, is_write: Callable[[str], bool]) -> str | None:
    """Returns the result of the same call made before, if nothing was written since; None: the call is new."""
    wanted = same_call(call)
    found: str | None = None
    for before, result in state.results():
        if result.outcome == "ok" and same_call(before) == wanted:
            found = result.text
        elif result.outcome in ("ok", "unknown", "timeout") and is_write(before.name):
            found = None
    return found


def unsupported_numbers(state: RunState, answer: str) -> list[str]:
    """Returns the numbers of an answer that neither the task nor a tool gave, rounded ones aside.

    Numbers of one digit are left out: they count and number things.
    """
    known = {value for text in _sources(state) for _, value, _ in numbers_in(text)}
    found: list[str] = []
    for shown, value, decimals in numbers_in(answer):
        is_small = value == int(value) and value < 10
        half = 0.5 * 10**-decimals + 1e-9
        if not is_small and not any(abs(one - value) <= half for one in known):
            found.append(shown)
    return list(dict.fromkeys(found))


def invented_numbers(state: RunState, call: ToolCall) -> list[str]:
    """Returns the numbers of a call that only computes that neither the task nor a tool gave, but those that convert units."""
    offered = {one.name: one.guidance for one in state.started.tools} if state.started else {}
    guidance = offered.get(call.name)
    if guidance is None or guidance.computes != "numbers":
        return []
    task = task_of(state.started.messages) if state.started else ""
    # A fault may quote the number that it refuses.
    texts = [task, *(result.text for _, result in state.results() if result.outcome == "ok")]
    known = {value for text in texts for _, value, _ in numbers_in(text)} | _UNITS
    written = _RESULT.sub('"', call.arguments)
    found = [shown for shown, value, _ in numbers_in(written) if value not in known]
    return [one for one in dict.fromkeys(found) if "." in one or abs(float(one.replace(",", ""))) >= 10]


def reading_tools(state: RunState) -> list[str]:
    """Returns the tools of a run that a model may be made to call: they change nothing and ask nobody."""
    offered = state.started.tools if state.started else []
    return [
        one.name
        for one in offered
        if one.effects == "reads" and one.approval == "never" and not one.is_client
    ]


def _sources(state: RunState) -> Iterator[str]:
    if state.started is not None:
        for message in state.started.messages:
            content = message.get("content")
            yield content if isinstance(content, str) else str(content)
    for call, result in state.results():
        yield result.text
        if result.outcome == "ok":
            yield call.arguments


def _empty(_state: RunState, answer: str) -> str | None:
    return None if answer.strip() else _EMPTY


def _broken(state: RunState, answer: str) -> str | None:
    names = [one.name for one in state.started.tools] if state.started else []
    return _BROKEN if looks_like_a_call(answer, names) else None


def _uncalled(state: RunState, _answer: str) -> str | None:
    """A task that comes with tools is seldom one that the model can do from memory."""
    if not state.started or not state.started.tools or any(state.results()):
        return None
    names = ", ".join(one.name for one in state.started.tools)
    return _UNCALLED.format(names=names)


def _unmended(state: RunState, _answer: str) -> str | None:
    """The newest call failed, and the model answers as if it had not."""
    last = next((pair for pair in reversed(list(state.results()))), None)
    if last is None or last[1].outcome not in ("failed", "invalid", "timeout", "fault"):
        return None
    return _UNMENDED.format(name=last[0].name)


def _unplanned(state: RunState, _answer: str) -> str | None:
    steps = open_steps(state)
    if not steps:
        return None
    return _UNPLANNED.format(count=len(steps), steps="; ".join(one[:80] for one in steps[:5]))


def _may_go_on(state: RunState) -> bool:
    """Returns whether another call is worth asking for: guidance is on, and nothing was kept from the model on purpose."""
    outcomes = {result.outcome for _, result in state.results()}
    if state.started is None or not has_guides(state):
        return False
    return state.started.options.guidance and not outcomes & {"withheld", "denied"}


def _unfinished(state: RunState, _answer: str) -> str | None:
    """The task names something that no call has brought, such as the path of a file that was not read."""
    if not _may_go_on(state):
        return None
    need = unread(state, reading_tools(state))
    return None if need is None else _UNFINISHED.format(need=need.text)


def _declined(state: RunState, answer: str) -> str | None:
    """The model says that it does not know, and there are tools that it has not used."""
    good = {call.name for call, result in state.results() if result.outcome == "ok"}
    unused = [name for name in reading_tools(state) if name not in good]
    if not _may_go_on(state) or not unused or not _DECLINES.search(answer):
        return None
    return _DECLINED.format(names=", ".join(unused))


def _unnamed(state: RunState, answer: str) -> str | None:
    """The task asks for a file, and the answer names none that a result holds."""
    if state.started is None or not has_guides(state):
        return None
    if not _ASKS_PATH.search(task_of(state.started.messages)):
        return None
    paths = known_paths(state, None)
    if not paths or any(path in answer for path in paths):
        return None
    return _UNNAMED.format(paths=", ".join(known_paths(state)))


def _left_out(state: RunState, answer: str) -> str | None:
    """The model goes round, its newest call computed a number, and the answer does not have it."""
    found = computed(state) if is_stuck(state) else None
    if found is None:
        return None
    wanted = float(found[1].replace(",", ""))
    if any(
        abs(abs(wanted) - value) <= 0.5 * 10**-decimals + 1e-9 for _, value, decimals in numbers_in(answer)
    ):
        return None
    return _LEFT_OUT.format(value=found[1])


def _unsupported(state: RunState, answer: str) -> str | None:
    if state.noted["left_out"]:  # it was given its figure
        return None
    missing = unsupported_numbers(state, answer)[:_MOST_NUMBERS]
    if not missing:
        return None
    return _UNSUPPORTED.format(numbers=", ".join(missing))


_CHECKS = (
    _Check("empty", _empty),
    _Check("broken_call", _broken),
    _Check("no_call", _uncalled),
    _Check("failed_call", _unmended),
    _Check("open_plan", _unplanned),
    _Check("unfinished", _unfinished),
    _Check("declined", _declined),
    _Check("no_path", _unnamed),
    _Check("left_out", _left_out),
    _Check("unsupported", _unsupported),
)
