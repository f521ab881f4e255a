"""Guidance of a run whose model goes round: which tool the task still needs, and a short prompt in place of the dialogue.

A small model repeats the newest call of a dialogue whatever it is told, and reads a plain question well. So once it has
repeated a call, each turn is either one call of the tool that the words of the task ask for, or the answer from what is
known. All of this is a pure function of the run so far: what the guides of the tools say of the task lies in its first step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from deepwell.agents.loop.clean import canonical, numbers_in, read_json
from deepwell.agents.loop.model import Message, ToolCall
from deepwell.agents.loop.state import PastTurn, RunState, same_call
from deepwell.agents.loop.steps import CallEnded, Noted, OfferedTool
from deepwell.dialogue.tools import FunctionTool
from deepwell.models.text.shipped import shipped

__all__ = [
    "Need",
    "answer_prompt",
    "call_prompt",
    "computed",
    "first_need",
    "first_prompt",
    "has_guides",
    "is_chinese",
    "is_stuck",
    "known_paths",
    "missing",
    "narrowed",
    "next_best",
    "task_of",
    "unread",
]

_NAMED: Final = 0.5  # from here on a task names what a tool gives, above it the tool has to be used
_MOST_ASKED: Final = 2  # times that one call is asked for
_MOST_FAULT: Final = 600  # characters of a fault in a short prompt
_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")
_PLAIN: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_PATH: Final = re.compile(r"(?<![\w/.-])[\w.-]+(?:/[\w.-]+)*\.[A-Za-z]\w{0,5}(?![\w/])")
_MOST_PATHS: Final = 5
_MOST_KNOWN: Final = 1500  # characters of one result in a short prompt

# What the loop asks for, by whether the task is in Chinese.
_CALL: Final = {
    False: shipped("Call {tool} with {how}.{mention}"),
    True: shipped("调用 {tool}，{how}。{mention}"),
}
_CALL_ANOTHER: Final = {False: shipped("Call another tool."), True: shipped("再调用一个工具。")}
_ANSWER_PATH: Final = {
    False: shipped("Answer with one of these paths: {paths}"),
    True: shipped("用其中一个路径回答：{paths}"),
}
_SAY_RESULT: Final = {
    False: shipped("Say in one short sentence that the result is {value}."),
    True: shipped("用一句话说出结果：{value}"),
}
_GIVE_RESULT: Final = {
    False: shipped("The result of {how} is {value}. Give this result as the answer, in one short sentence."),
    True: shipped("算式 {how} 的结果是 {value}。用这个结果回答，一句话。"),
}
_ANSWER: Final = {
    False: shipped("Answer from the text above, in one short sentence."),
    True: shipped("根据以上内容，用一句话回答。"),
}


class Need(NamedTuple):
    """Tools of which one has to be called next, the words that say how, and values that arguments have to have."""

    tools: list[str]
    text: str
    fills: Mapping[str, Sequence[str]]


def task_of(messages: Sequence[Message]) -> str:
    """Returns the text of the newest message of the user."""
    said = [one.get("content") for one in messages if one.get("role") == "user"]
    if not said:
        return ""
    if isinstance(said[-1], str):
        return said[-1]
    parts: list[Any] = list(said[-1] or ())
    return "\n".join(str(one["text"]) for one in parts if isinstance(one, dict) and "text" in one)


def first_need(state: RunState, reading: Sequence[str]) -> Need | None:
    """Returns the tool of the first turn, if the task names one."""
    best = max(_clued(state, reading), key=_weight, default=None)
    if best is None or best.guidance is None or _weight(best) <= _NAMED:
        return None
    return _need(state, best, next(iter(best.guidance.mentions), "") if best.guidance.fills else "")


def is_stuck(state: RunState) -> bool:
    """Returns whether the model has repeated a call, or brings nothing new. A call that broke is no fault of the model's."""
    barren = state.turns[len(state.turns) - state.stalls :]
    idle = sum(not _broke(one) for one in barren)
    return idle > 1 or any(result.outcome == "repeated" for _, result in state.results())


def _broke(past: PastTurn) -> bool:
    results = past.results.values()
    return bool(results) and all(one.outcome in ("fault", "timeout") for one in results)


def missing(state: RunState, reading: Sequence[str]) -> Need | None:
    """Returns what the task names and no call has brought yet, the surest first; None: nothing.

    What was asked for twice is not asked for again.
    """
    for tool in sorted(_clued(state, reading), key=lambda one: -_weight(one)):
        need = _need_of(state, tool)
        if need is not None and _times(state, need.text) < _MOST_ASKED:
            return need
    return None


def unread(state: RunState, reading: Sequence[str]) -> Need | None:
    """Returns a file or a value that the task names and no call had in its arguments; None: there is none."""
    for tool in _clued(state, reading):
        assert tool.guidance is not None
        if tool.guidance.computes != "numbers":
            for mention in tool.guidance.mentions:
                if not _is_used(state, mention):
                    return _need(state, tool, mention)
    return None


def _need_of(state: RunState, tool: OfferedTool) -> Need | None:
    assert tool.guidance is not None
    unused = [one for one in tool.guidance.mentions if not _is_used(state, one)]
    good = [call.name for call, _ in _good(state)]
    is_named = _weight(tool) > _NAMED
    if tool.guidance.computes == "numbers":
        if not good or good[-1] == tool.name or len(_known_numbers(state)) < 2:
            return None
        was_computed = computed(state) is not None  # by a query
        return _need(state, tool) if unused or (is_named and not was_computed) or _joins(state) else None
    if unused:
        return _need(state, tool, unused[0])
    return _need(state, tool) if is_named and tool.name not in good else None


def _need(state: RunState, tool: OfferedTool, mention: str = "") -> Need:
    assert tool.guidance is not None
    english, chinese = tool.guidance.advice
    name = tool.guidance.fills
    values = [mention] if mention else known_paths(state) if name == "path" else []
    fills = {name: values} if name and values else {}
    said = "" if fills else mention
    is_zh = is_chinese(_task(state))
    if is_zh:
        how = f"参数为 {' 或 '.join(values)}" if fills else f"写出{chinese}"
    else:
        how = " or ".join(values) if fills else english
        said = f" {said}" if said else ""
    text = _CALL[is_zh].format(tool=tool.name, how=how, mention=said)
    return Need([tool.name], text, fills)


def next_best(state: RunState, reading: Sequence[str]) -> Need:
    """Returns the tools that may bring what an answer lacks: a computing one where numbers are known, else those not used."""
    offered = [one for one in (state.started.tools if state.started else []) if one.name in reading]
    good = {call.name for call, _ in _good(state)}
    computing = [one for one in offered if one.guidance is not None and one.guidance.computes == "numbers"]
    if good - {one.name for one in computing} and len(_known_numbers(state)) > 1:
        for one in computing:
            if one.name not in good:
                return _need(state, one)
    unused = [one for one in _clued(state, reading) if one.name not in good and one not in computing]
    best = max(unused, key=_weight, default=None)
    if best is not None:
        return _need(state, best)
    left = [name for name in reading if name not in good] or list(reading)
    return Need(left, _CALL_ANOTHER[is_chinese(_task(state))], {})


def narrowed(tool: FunctionTool, fills: Mapping[str, Sequence[str]] | None) -> FunctionTool:
    """Returns a tool with its required arguments alone, some of which have few values, for a call that the loop asks for."""
    if fills is None:
        return tool
    schema = tool.schema()
    required = list(schema.get("required", ()))
    properties = {
        name: {**one, "enum": list(fills[name])} if name in fills else one
        for name, one in schema.get("properties", {}).items()
        if name in required
    }
    return replace(tool, parameters={**schema, "properties": properties})


def first_prompt(state: RunState, need: Need) -> list[Message]:
    """Returns the conversation of the first turn, with the call that is wanted."""
    return [*state.messages(), {"role": "user", "content": need.text}]


def call_prompt(state: RunState, need: Need) -> list[Message]:
    """Returns a conversation for one call: worked ones, what is known, the task, and the call that is wanted.

    The worked ones are left out where a call failed before: the model would make the same call again.
    """
    faults = [
        result.text[:_MOST_FAULT]
        for call, result in state.results()
        if call.name in need.tools and result.outcome in ("failed", "invalid", "timeout", "fault")
    ]
    guides = [one.guidance for one in state.started.tools if one.name in need.tools] if state.started else []
    examples = [] if faults or len(guides) != 1 or guides[0] is None else guides[0].examples
    worked = [one for one in examples if is_chinese(one.task) == is_chinese(_task(state))]
    shown: list[Message] = []
    for number, one in enumerate(worked):
        call = {
            "id": f"example_{number}",
            "type": "function",
            "function": {"name": need.tools[0], "arguments": canonical(one.arguments)},
        }
        shown += [
            {"role": "user", "content": _question(one.known, one.task, need.text)},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"example_{number}", "content": one.result},
            {"role": "assistant", "content": one.result},
        ]
    known = "\n".join(text for _, text in _known(state))
    last = "\n".join([*faults[-1:], need.text])
    return _asked(state, [*shown, {"role": "user", "content": _question(known, _task(state), last)}])


def answer_prompt(state: RunState, again: Noted | None) -> list[Message]:
    """Returns a conversation for the answer: the result of the newest computation alone, else all that is known.

    Args:
        again: what was wrong with the last answer.
    """
    task = _task(state)
    is_zh = is_chinese(task)
    if again is not None and again.check == "no_path":
        paths = ", ".join(known_paths(state))
        ask = _ANSWER_PATH[is_zh].format(paths=paths)
        return _asked(state, [_user(_question(_known_text(state), task, ask))])
    if (found := computed(state)) is not None:
        how, value = found
        if again is not None and again.check == "left_out":
            # With the question before it the model would compute once more.
            return _asked(state, [_user(_SAY_RESULT[is_zh].format(value=value))])
        ask = _GIVE_RESULT[is_zh].format(how=how, value=value)
        return _asked(state, [_user(_question("", task, ask))])
    return _asked(state, [_user(_question(_known_text(state), task, _ANSWER[is_zh]))])


def computed(state: RunState) -> tuple[str, str] | None:
    """Returns the newest computation and its value, if the newest result is one number."""
    good = list(_good(state))
    offered = state.started.tools if state.started else []
    if not good or not any(
        one.guidance is not None and one.guidance.computes and one.name == good[-1][0].name for one in offered
    ):
        return None
    call, result = good[-1]
    *header, value = result.text.strip().splitlines() or [""]
    if len(header) > 1 or not _PLAIN.fullmatch(value.strip()):
        return None
    try:
        given = [one for one in read_json(call.arguments).values() if isinstance(one, str)]
    except (ValueError, AttributeError):
        return None
    return (given[0] if given else call.name), value.strip()


def known_paths(state: RunState, most: int | None = _MOST_PATHS) -> list[str]:
    """Returns the paths of files that results name, the first few; with None all."""
    texts = [result.text for _, result in _good(state)]
    return list(dict.fromkeys(path for text in texts for path in _PATH.findall(text)))[:most]


def has_guides(state: RunState) -> bool:
    """Returns whether a tool of the run has a guide. No run that began before there were guides has one."""
    return state.started is not None and any(one.guidance is not None for one in state.started.tools)


def _known_text(state: RunState) -> str:
    return "\n".join(f"{call} -> {text}" for call, text in _known(state))


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def is_chinese(text: str) -> bool:
    """Returns whether a text has Chinese characters."""
    return _CHINESE.search(text) is not None


def _question(known: str, task: str, ask: str) -> str:
    label = "问题：" if is_chinese(task) else "Question: "
    return f"{known}\n\n{label}{task}\n{ask}" if known else f"{label}{task}\n{ask}"


def _asked(state: RunState, messages: list[Message]) -> list[Message]:
    """Returns the messages of the run's start with others in place of the task."""
    assert state.started is not None
    found: list[Message] = list(state.started.messages)
    place = max((n for n, one in enumerate(found) if one.get("role") == "user"), default=len(found))
    return [*found[:place], *messages, *found[place + 1 :]]


def _task(state: RunState) -> str:
    return task_of(state.started.messages) if state.started else ""


def _known(state: RunState) -> Iterator[tuple[str, str]]:
    """Yields the calls and the results that a run has, each once, in the order in which they came."""
    seen = set[str]()
    for call, result in _good(state):
        if same_call(call) not in seen:
            seen.add(same_call(call))
            text = result.text
            shown = text if len(text) <= _MOST_KNOWN else f"{text[:_MOST_KNOWN]} (cut)"
            yield f"{call.name} {call.arguments.strip()}", shown


def _good(state: RunState) -> Iterator[tuple[ToolCall, CallEnded]]:
    return (pair for pair in state.results() if pair[1].outcome == "ok")


def _weight(tool: OfferedTool) -> float:
    return tool.guidance.weight if tool.guidance is not None else 0.0


def _clued(state: RunState, reading: Sequence[str]) -> list[OfferedTool]:
    offered = state.started.tools if state.started else []
    return [
        one
        for one in offered
        if one.name in reading
        and one.guidance is not None
        and (_weight(one) >= _NAMED or one.guidance.computes == "numbers")
    ]


def _times(state: RunState, text: str) -> int:
    return sum(note.text == text for past in state.turns[:-1] for note in past.notes)


def _joins(state: RunState) -> bool:
    """Returns whether results of several kinds of sources, all named by the task, are known and wait to be computed with."""
    offered = state.started.tools if state.started else []
    named = {
        one.name: one.guidance.source for one in offered if one.guidance is not None and _weight(one) > _NAMED
    }
    computing = {
        one.name for one in offered if one.guidance is not None and one.guidance.computes == "numbers"
    }
    good = [call.name for call, _ in _good(state)]
    sources = {named[name] for name in good if named.get(name)}
    return len(sources) > 1 and not computing & set(good)


def _is_used(state: RunState, mention: str) -> bool:
    """Returns whether a word of the task stands in a call, or a number of it in one that computes."""
    offered = state.started.tools if state.started else []
    computing = {one.name for one in offered if one.guidance is not None and one.guidance.computes}
    values = {value for _, value, _ in numbers_in(mention)} if _PLAIN.fullmatch(mention) else set[float]()
    for call, _ in _good(state):
        if not values and mention in call.arguments:
            return True
        if call.name in computing and values & {value for _, value, _ in numbers_in(call.arguments)}:
            return True
    return False


def _known_numbers(state: RunState) -> set[float]:
    texts = [_task(state), *(result.text for _, result in _good(state))]
    return {value for text in texts for _, value, _ in numbers_in(text)}
