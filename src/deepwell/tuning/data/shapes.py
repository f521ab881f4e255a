"""The shapes of training files: each is parsed into OpenAI chat messages, and the first wrong field is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, cast

import msgspec

from deepwell.messages import Note

__all__ = [
    "Format",
    "Shape",
    "ShapeError",
    "decode_object",
    "decoded",
    "parse",
    "parse_messages",
    "parse_tools",
]

Format = Literal["chat", "sharegpt", "alpaca", "text"]

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# Names that ShareGPT files use for the roles.
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
_MOST_MESSAGES = 10_000
_MOST_LEVELS = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """Content of a line, as chat messages. The fields are those of `Record`."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    label: str | None
    format: Format
    extra: dict[str, Any] = field(default_factory=dict[str, Any])


class ShapeError(ValueError):
    """Raised for a line that is no record. `field` is the path of what is wrong, and `note` says it."""

    def __init__(self, field: str, note: Note) -> None:
        super().__init__(f"{field}: {note.said('en')}")
        self.field = field
        self.note = note


def parse(raw: bytes, format: Literal["auto", "chat", "sharegpt", "alpaca", "text"]) -> Shape:
    """Returns what one JSON object holds.

    Raises:
        ShapeError: it is not JSON in UTF-8, or not of the format; `auto`: of no known one.
    """
    fields = decode_object(raw)
    found = _format_of(fields) if format == "auto" else format
    label = _label(fields)
    messages, tools, used = _PARSERS[found](fields)
    extra = {name: one for name, one in fields.items() if name not in used and name != "label"}
    return Shape(messages, tools, label, found, extra)


def decode_object(raw: bytes) -> dict[str, Any]:
    """Returns the JSON object of a line.

    Raises:
        ShapeError: it is none, or is nested too deeply.
    """
    value = decoded(raw)
    if not isinstance(value, dict):
        _wrong("", "data_type", expected="an object", expected_zh="对象", found=_kind(value))
    return cast("dict[str, Any]", value)


def parse_messages(fields: Mapping[str, Any], name: str, path: str = "") -> tuple[dict[str, Any], ...]:
    """Returns the chat messages that stand under a name.

    Args:
        path: path of `fields` in the line, such as `input.`, for errors.

    Raises:
        ShapeError: there are none, or one of them is no message.
    """
    _expect(fields.get(name), list, path + name, "a list", "列表")
    entries = _list(fields, name)
    for number, one in enumerate(entries):
        _check_message(one, f"{path}{name}[{number}]")
    return tuple(entries)


def parse_tools(fields: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Returns the tools of a line, or none.

    Raises:
        ShapeError: they are no list of objects.
    """
    return _tools(fields.get("tools"))


def decoded(raw: bytes, path: str = "") -> Any:
    """Returns the value of JSON text.

    Raises:
        ShapeError: it is none, or nested deeper than templates and other readers bear.
    """
    try:
        raw.decode("utf-8")
        value = msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        note = Note("data_encoding", {"byte": error.start + 1})
    except RecursionError:
        note = Note("data_nested")
    except msgspec.MsgspecError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        # msgspec says of half a surrogate pair that the input is truncated.
        note = Note("data_surrogate" if _has_lone_surrogate(raw) else "data_json", {"reason": reason})
    else:
        if raw.count(b"[") + raw.count(b"{") <= _MOST_LEVELS or not _is_deep(value):
            return value
        note = Note("data_nested")
    raise ShapeError(path, note)


def _is_deep(value: Any) -> bool:
    """Tells whether lists and objects lie in each other deeper than `_MOST_LEVELS`."""
    level: list[Any] = [value]
    for _ in range(_MOST_LEVELS + 1):
        level = [
            inner
            for one in level
            if isinstance(one, list | dict)
            for inner in (
                cast("dict[str, Any]", one).values() if isinstance(one, dict) else cast("list[Any]", one)
            )
        ]
        if not level:
            return False
    return True


def _has_lone_surrogate(raw: bytes) -> bool:
    try:
        value = json.loads(raw)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _format_of(fields: Mapping[str, Any]) -> Format:
    if "messages" in fields:
        return "chat"
    if "conversations" in fields:
        return "sharegpt"
    if "instruction" in fields:
        return "alpaca"
    if "text" in fields:
        return "text"
    shown = ", ".join(sorted(fields)[:8])[:120]
    raise ShapeError("", Note("data_format", {"found": shown or "-"}))


def _label(fields: Mapping[str, Any]) -> str | None:
    label = fields.get("label")
    if label is None or isinstance(label, str):
        return label
    if isinstance(label, bool | int | float):
        return json.dumps(label)
    expected = {"expected": "a string or a number", "expected_zh": "字符串或数字", "found": _kind(label)}
    raise ShapeError("label", Note("data_type", expected))


_Parsed = tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...], frozenset[str]]


def _chat(fields: Mapping[str, Any]) -> _Parsed:
    entries = parse_messages(fields, "messages")
    return entries, parse_tools(fields), frozenset({"messages", "tools"})


def _check_message(message: Any, path: str) -> None:
    _expect(message, dict, path, "an object", "对象")
    role = message.get("role")
    if role not in _ROLES:
        _wrong(f"{path}.role", "data_role", found=_shown(role), known=", ".join(_ROLES))
    calls = message.get("tool_calls")
    if calls is not None:
        _check_calls(calls, role, f"{path}.tool_calls")
    content = message.get("content")
    if isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(part, f"{path}.content[{number}]")
    elif content is None:
        speaks = role == "assistant" and (calls or message.get("refusal") or message.get("function_call"))
        if not speaks:
            _wrong(f"{path}.content", "data_missing")
    else:
        _expect(content, str, f"{path}.content", "a string", "字符串")
    if (name := message.get("name")) is not None:
        _expect(name, str, f"{path}.name", "a string", "字符串")
    weight = message.get("weight")
    if weight is not None and weight not in (0, 1):
        _wrong(f"{path}.weight", "data_weight", found=_shown(weight))


def _check_part(part: Any, path: str) -> None:
    _expect(part, dict, path, "an object", "对象")
    if part.get("type") not in ("text", "refusal"):
        _wrong(f"{path}.type", "data_part", found=_shown(part.get("type")))
    key = part["type"]
    _expect(part.get(key), str, f"{path}.{key}", "a string", "字符串")


def _check_calls(calls: Any, role: str, path: str) -> None:
    _expect(calls, list, path, "a list", "列表")
    if calls and role != "assistant":
        _wrong(path, "data_calls_role", role=role)
    for number, call in enumerate(calls):
        here = f"{path}[{number}]"
        _expect(call, dict, here, "an object", "对象")
        function = call.get("function")
        _expect(function, dict, f"{here}.function", "an object", "对象")
        _expect(function.get("name"), str, f"{here}.function.name", "a string", "字符串")
        arguments = function.get("arguments", "")
        if not isinstance(arguments, dict):
            _expect(arguments, str, f"{here}.function.arguments", "a string", "字符串")


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):  # ShareGPT files carry them as JSON text
        if not value.strip():
            return ()
        value = decoded(value.encode(), "tools")
    if value is None:
        return ()
    _expect(value, list, "tools", "a list", "列表")
    for number, tool in enumerate(value):
        _expect(tool, dict, f"tools[{number}]", "an object", "对象")
    return tuple(value)


def _sharegpt(fields: Mapping[str, Any]) -> _Parsed:
    messages: list[dict[str, Any]] = []
    if system := _optional(fields, "system"):
        messages.append({"role": "system", "content": system})
    calls = 0
    for number, turn in enumerate(_list(fields, "conversations")):
        path = f"conversations[{number}]"
        _expect(turn, dict, path, "an object", "对象")
        speaker = turn.get("from")
        role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            _wrong(f"{path}.from", "data_role", found=_shown(speaker), known=", ".join(_SPEAKERS))
        value = turn.get("value")
        _expect(value, str, f"{path}.value", "a string", "字符串")
        if speaker == "function_call":
            calls += 1
            messages.append(_call_message(value, calls, f"{path}.value"))
        elif role == "tool" and calls:
            messages.append({"role": role, "content": value, "tool_call_id": f"call_{calls}"})
        else:
            messages.append({"role": role, "content": value})
    used = {"conversations", "tools"} | ({"system"} if "system" in fields else set())
    return tuple(messages), _tools(fields.get("tools")), frozenset(used)


def _call_message(value: str, number: int, path: str) -> dict[str, Any]:
    call = decoded(value.encode(), path)
    _expect(call, dict, path, "an object", "对象")
    _expect(call.get("name"), str, f"{path}.name", "a string", "字符串")
    arguments = call.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }


def _alpaca(fields: Mapping[str, Any]) -> _Parsed:
    instruction, output = (_required(fields, name) for name in ("instruction", "output"))
    messages: list[dict[str, Any]] = []
    if system := _optional(fields, "system"):
        messages.append({"role": "system", "content": system})
    history = fields.get("history") or []
    _expect(history, list, "history", "a list", "列表")
    for number, pair in enumerate(history):
        path = f"history[{number}]"
        _expect(pair, list, path, "a list", "列表")
        if len(pair) != 2:
            _wrong(path, "data_pair", count=len(pair))
        for role, text, index in zip(("user", "assistant"), pair, (0, 1), strict=True):
            _expect(text, str, f"{path}[{index}]", "a string", "字符串")
            messages.append({"role": role, "content": text})
    given = _optional(fields, "input")
    question = f"{instruction}\n\n{given}" if given else instruction
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
    used = frozenset({"instruction", "input", "output", "system", "history"})
    return tuple(messages), (), used


def _text(fields: Mapping[str, Any]) -> _Parsed:
    return ({"role": "user", "content": _required(fields, "text")},), (), frozenset({"text"})


_PARSERS: dict[str, Callable[[Mapping[str, Any]], _Parsed]] = {
    "chat": _chat,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "text": _text,
}


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    _expect(value, list, name, "a list", "列表")
    if not value:
        _wrong(name, "data_empty")
    if len(value) > _MOST_MESSAGES:
        _wrong(name, "data_many", count=len(value), limit=_MOST_MESSAGES)
    return value


def _required(fields: Mapping[str, Any], name: str) -> str:
    _expect(fields.get(name), str, name, "a string", "字符串")
    return fields[name]


def _optional(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    _expect(value, str, name, "a string", "字符串")
    return value


def _expect(value: Any, kind: type, path: str, expected: str, expected_zh: str) -> None:
    if value is None:
        _wrong(path, "data_missing")
    if not isinstance(value, kind):
        _wrong(path, "data_type", expected=expected, expected_zh=expected_zh, found=_kind(value))


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str) else "null" if value is None else _kind(value)


def _wrong(path: str, key: str, **values: Any) -> NoReturn:
    raise ShapeError(path, Note(key, values))
