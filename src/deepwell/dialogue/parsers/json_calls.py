"""Calls that are written as JSON objects, `{"name": ..., "arguments": {...}}`, read character by character."""

from __future__ import annotations

import json
import string
from collections.abc import Collection
from typing import Literal

from deepwell.dialogue.parsers.machine import Machine

__all__ = ["JsonCalls", "JsonValue"]

_BLANK = frozenset(" \t\n\r")
_OUTSIDE_STRINGS = frozenset(string.ascii_letters + string.digits + '+-.,:{}[]"') | _BLANK
_ARGUMENTS = ("arguments", "parameters")
_KEYS = frozenset({"name", "id", "type", *_ARGUMENTS})

# "raw": broken inside of arguments.
State = Literal["between", "key?", "key", "colon", "value", "name", "arguments", "skip", "broken", "raw"]


class JsonValue:
    """Finds the end of one JSON value, given its characters from the first on.

    It balances brackets and tracks strings. All other validation is left to the reader of the value.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._kind: Literal["", "scalar", "string", "container"] = ""

    def feed(self, char: str) -> Literal["inside", "last", "behind", "illegal"]:
        """Classifies a character: inside the value, its last one, the first behind a scalar, or illegal in JSON there."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
                return "inside" if self._depth else "last"
            return "inside"
        if char not in _OUTSIDE_STRINGS:
            return "illegal"
        if self._kind == "scalar" and (char in ",}]" or char in _BLANK):
            return "behind"
        if char == '"':
            self._in_string = True
            self._kind = self._kind or "string"
        elif char in "{[":
            self._depth += 1
            self._kind = self._kind or "container"
        elif char in "}]":
            self._depth -= 1
            if self._depth < 0:
                return "illegal"
            return "inside" if self._depth else "last"
        elif not self._kind:
            self._kind = "scalar"
        return "inside"


class JsonCalls:
    """Reads calls and passes them to a machine.

    Args:
        machine: the machine that emits the calls.
        names: functions that may be called, or None for any. If given, an object with another name, or with a key that calls
            do not have, is not a call. This is for text that is not marked as a call.
    """

    def __init__(self, machine: Machine, names: Collection[str] | None = None) -> None:
        self.state: State = "between"
        self.done = 0  # number of calls read to their end
        self.index: int | None = None  # of the call that is being read, once its name is known
        self.held = ""  # characters that belong to no call so far
        self._machine = machine
        self._names = names
        self._key = ""
        self._raw = ""  # the string that is being read
        self._escaped = False
        self._value = JsonValue()
        self._early = ""  # arguments that came before the name
        self._encoded = ""  # arguments that may be JSON inside a string, or null
        self._given = False  # whether a part of the arguments has come

    def feed(self, char: str) -> bool:
        """Takes a character. Returns False if it fits nothing. Then it is not taken, and `state` is "broken" or "raw"."""
        done = self.done
        fits = self._feed(char)
        if self.index is not None or self.done != done:
            self.held = ""
        elif fits:
            self.held += char
        return fits

    def _feed(self, char: str) -> bool:
        match self.state:
            case "between":
                if char == "{":
                    self.state, self.index, self._given, self._early = "key?", None, False, ""
                elif char not in _BLANK and char not in "[],;":
                    self.state = "broken"
            case "key?":
                if char == '"':
                    self._open("key")
                elif char == "}":
                    self._close()
                elif char not in _BLANK and char != ",":
                    self.state = "broken"
            case "key":
                if self._string(char):
                    self._key = _decoded(self._raw)
                    unknown = self._names is not None and self._key not in _KEYS
                    self.state = "broken" if unknown else "colon"
            case "colon":
                if char == ":":
                    self.state = "value"
                elif char not in _BLANK:
                    self.state = "broken"
            case "value":
                if char not in _BLANK:
                    return self._begin_value(char)
            case "name":
                if self._string(char):
                    self._named(_decoded(self._raw))
            case "arguments" | "skip":
                return self._in_value(char)
            case "broken" | "raw":
                return False
        return self.state not in ("broken", "raw")

    def finish(self) -> None:
        """Emits the held back arguments of a call that has begun, when no more text comes."""
        if self.index is not None and self._encoded:
            self._machine.arguments(self.index, self._encoded)
            self._encoded = ""

    def _open(self, state: State) -> None:
        self.state, self._raw, self._escaped = state, '"', False

    def _string(self, char: str) -> bool:
        """Takes a character of a string. Returns True if it ends the string."""
        self._raw += char
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            return True
        return False

    def _begin_value(self, char: str) -> bool:
        if self._key == "name" and self.index is None:
            if char == '"':
                self._open("name")
            else:
                self.state = "broken"
            return char == '"'
        self.state = "arguments" if self._key in _ARGUMENTS and not self._given else "skip"
        self._value = JsonValue()
        self._encoded = ""
        return self._in_value(char)

    def _in_value(self, char: str) -> bool:
        place = self._value.feed(char)
        if place == "illegal":
            held = self.state == "arguments" and self.index is not None
            self.finish()
            self.state = "raw" if held else "broken"
            return False
        if self.state == "skip":
            if place in ("last", "behind"):
                self.state = "key?"
            return self._feed(char) if place == "behind" else True
        if place != "behind":
            if self._encoded or (not self._given and char in '"n'):
                self._encoded += char
            else:
                self._give(char)
        if place in ("last", "behind"):
            if self._encoded:
                self._give(_unwrapped(self._encoded))
                self._encoded = ""
            self.state = "key?"
        return self._feed(char) if place == "behind" else True

    def _give(self, text: str) -> None:
        if not text:
            return
        self._given = True
        if self.index is None:
            self._early += text
        else:
            self._machine.arguments(self.index, text)

    def _named(self, name: str) -> None:
        if not name or (self._names is not None and name not in self._names):
            self.state = "broken"
            return
        self.index = self._machine.call(name)
        if self._early:
            self._machine.arguments(self.index, self._early)
        self.state = "key?"

    def _close(self) -> None:
        if self.index is None:
            self.state = "broken"
            return
        if not self._given:
            self._machine.arguments(self.index, "{}")
        self.done += 1
        self.index = None
        self.state = "between"


def _decoded(raw: str) -> str:
    try:
        text = json.loads(raw, strict=False)
    except ValueError:
        return raw[1:-1]
    return text if isinstance(text, str) else raw


def _unwrapped(value: str) -> str:
    """Returns arguments that were written as a string of JSON as that JSON, and null as no text."""
    if value == "null":
        return ""
    inner = _decoded(value) if value.startswith('"') else value
    try:
        return inner if isinstance(json.loads(inner), dict) else value
    except (ValueError, RecursionError):
        return value
