"""Calls that a model wrote as text: small models know the tools, but not always the native form of a call."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from typing import Any

from deepwell.agents.loop.clean import canonical
from deepwell.agents.loop.model import ToolCall

__all__ = ["looks_like_a_call", "written_calls"]

_MOST_CALLS = 3  # what a model writes behind those is mostly guessed results
_MOST_TEXT = 20_000
_FENCE = re.compile(r"```[a-z_]*\n?|```")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_CLOSINGS = ("}", "}}", '"}}')
_NAMED = re.compile(r'"(?:name|function|tool)"\s*:\s*"([A-Za-z0-9_-]{1,64})"')
_NAMES = ("name", "function", "tool")


def written_calls(text: str, names: Collection[str]) -> tuple[ToolCall, ...]:
    """Returns the calls of known tools in a text, without ids; none where the text says more than it calls.

    A text that is nothing but a call is one whatever its name, so that the model hears of a name that does not exist.
    A call is a JSON object with name and arguments, or `name(argument=value)` with plain values on a line of its own. Both may
    stand in code fences or tags. An object inside of a longer answer is an example, not a call.
    """
    if len(text) > _MOST_TEXT:
        return ()
    bare = re.sub(r"</?[a-z_]{1,20}>", " ", _FENCE.sub(" ", text)).strip()
    if calls := _nothing_else(bare):
        return calls
    found: list[ToolCall] = []
    prose = 0
    place = 0
    decoder = json.JSONDecoder()
    while place < len(bare) and len(found) < _MOST_CALLS:
        if bare[place] in "{[":
            value, end = _value(decoder, bare, place)
            calls = [one for one in _of_json(value, names) if one not in found]
            if calls or (value is not None and _of_json(value, names)):
                found += calls
                place = end
                continue
        line = bare[place:].split("\n", 1)[0]
        starts_line = place == 0 or bare[place - 1] in "\n "
        if starts_line and (call := _of_python(line.strip(), names)):
            found.append(call)
            place += len(line)
            continue
        prose += not bare[place].isspace() and bare[place] not in ",;[]"
        place += 1
    called = sum(len(one.arguments) for one in found)
    # One sentence may lead to a call; an explanation with an example in it is an answer.
    return tuple(found[:_MOST_CALLS]) if found and prose <= max(200, called) else ()


def _nothing_else(text: str) -> tuple[ToolCall, ...]:
    """Returns the calls of a text that is one JSON value."""
    if not text.startswith(("{", "[")):
        return ()
    value, end = _value(json.JSONDecoder(), text, 0)
    return () if text[end:].strip() else tuple(_of_json(value, None)[:_MOST_CALLS])


def _value(decoder: json.JSONDecoder, text: str, place: int) -> tuple[Any, int]:
    """Returns the value that begins at a place, and its end. A text that is nothing but a value may lack its last brackets."""
    try:
        return decoder.raw_decode(text, place)
    except (ValueError, RecursionError):
        pass
    if place == 0 or not text[:place].strip():
        for closing in _CLOSINGS:
            try:
                return decoder.decode(text[place:] + closing), len(text)
            except (ValueError, RecursionError):
                continue
    return None, place + 1


def looks_like_a_call(text: str, names: Collection[str]) -> bool:
    """Returns whether a text names a tool where a call has its name, although it is no call that can be read."""
    return any(found[1] in names for found in _NAMED.finditer(text[:_MOST_TEXT]))


def _of_json(value: Any, names: Collection[str] | None) -> list[ToolCall]:
    if isinstance(value, list):
        every = [_of_json(one, names) for one in value[:_MOST_CALLS]]
        return [call for calls in every for call in calls] if all(every) else []
    if not isinstance(value, dict):
        return []
    inner = value.get("function")
    if isinstance(inner, dict):
        value = inner
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    key = next((key for key in _ARGUMENTS if key in value), None)
    if not name or (names is not None and name not in names) or key is None:
        return []
    arguments = value[key]
    if not isinstance(arguments, str | dict):
        return []
    return [ToolCall("", name, arguments if isinstance(arguments, str) else canonical(arguments))]


def _of_python(line: str, names: Collection[str]) -> ToolCall | None:
    """Returns a call as Python writes it: plain values, by name. Nothing is executed."""
    name = line.split("(", 1)[0]
    if name not in names or not line.endswith(")") or len(line) > 2000:
        return None
    try:
        tree = ast.parse(line, mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args or any(one.arg is None for one in tree.keywords):
            return None
        arguments = {str(one.arg): ast.literal_eval(one.value) for one in tree.keywords}
        return ToolCall("", name, canonical(arguments))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
