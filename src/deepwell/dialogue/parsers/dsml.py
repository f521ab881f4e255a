"""DSML, the format of DeepSeek V3.2 and later: a call is an element that holds one element for each parameter.

    <｜DSML｜function_calls>
    <｜DSML｜invoke name="NAME">
    <｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>
    <｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜function_calls>

V4 names the block `tool_calls`. A parameter with string="true" is text, any other is JSON. Nothing is escaped.
"""

from __future__ import annotations

import json
import re

from deepwell.dialogue.parsers.machine import Machine, ReasoningTags

__all__ = ["MARKERS", "DsmlParser"]

_D = "｜DSML｜"
OPENS = (f"<{_D}function_calls>", f"<{_D}tool_calls>")
_CLOSES = (f"</{_D}function_calls>", f"</{_D}tool_calls>")
_INVOKE, _END_INVOKE = f"<{_D}invoke", f"</{_D}invoke>"
_PARAMETER, _END_PARAMETER = f"<{_D}parameter", f"</{_D}parameter>"
MARKERS = (*OPENS, *_CLOSES, _D)
_NAME = re.compile(r'\sname="([^"]*)"')
_STRING = re.compile(r'\sstring="([^"]*)"')


class DsmlParser(Machine):
    """Parses calls in DSML. The parameters of each call become one JSON object."""

    def __init__(self, reasoning: ReasoningTags = "off") -> None:
        super().__init__(reasoning, OPENS)
        self._seen = ""  # text of a block without a call so far
        self._tag = ""
        self._index = 0
        self._parameters = 0  # number in this call so far
        self._value = ""
        self._block_calls = 0

    def opened(self, marker: str) -> None:
        self._seen = marker
        self._block_calls = 0
        self.state = self._in_block

    def _in_block(self) -> bool:
        text, marker = self.take_until((_INVOKE, *_CLOSES))
        self._seen += text + (marker or "")
        if marker == _INVOKE:
            self.state, self._tag = self._in_invoke_tag, ""
            return True
        if marker is not None or (self.ended and self._seen):
            if not self._block_calls:
                self.content(self._seen)
            self._seen = ""
            self.state = self.in_content
        return marker is not None

    def _in_invoke_tag(self) -> bool:
        tag = self._take_tag()
        if tag is None:
            return False
        self._seen += tag + ">"
        name = _NAME.search(tag)
        if name is None or not name[1]:
            self.state = self._in_block
            return True
        self._index = self.call(name[1])
        self._block_calls += 1
        self._parameters = 0
        self.state = self._at_arguments
        return True

    def _at_arguments(self) -> bool:
        """Finds what follows the opening tag: parameters, or JSON in their place."""
        bare = self.text.lstrip()
        if not bare:
            return False
        self.take(len(self.text) - len(bare))
        self.state = self._in_object if bare[0] == "{" else self._in_invoke
        return True

    def _in_invoke(self) -> bool:
        """Skips the text between the parameters of a call."""
        text, marker = self.take_until((_PARAMETER, _END_INVOKE, *_CLOSES))
        del text  # white space
        if marker == _PARAMETER:
            self.state, self._tag = self._in_parameter_tag, ""
        elif marker is not None:
            self._close_call()
            self.state = self._in_block if marker == _END_INVOKE else self.in_content
        return marker is not None

    def _in_object(self) -> bool:
        """Reads arguments that are written as JSON, in place of parameters."""
        text, marker = self.take_until((_END_INVOKE,))
        value = self._value + text
        bare = value.rstrip()
        self._value = value[len(bare) :]
        if bare:
            self.arguments(self._index, bare)
        if marker is not None:
            self._value = ""
            self.state = self._in_block
        return marker is not None

    def _in_parameter_tag(self) -> bool:
        tag = self._take_tag()
        if tag is None:
            return False
        name, kind = _NAME.search(tag), _STRING.search(tag)
        key = json.dumps(name[1] if name else "", ensure_ascii=False)
        self.arguments(self._index, ("{" if not self._parameters else ", ") + key + ": ")
        self._parameters += 1
        self._value = ""
        if kind is not None and kind[1] == "true":
            self.arguments(self._index, '"')
            self.state = self._in_text
        else:
            self.state = self._in_json
        return True

    def _in_text(self) -> bool:
        text, marker = self.take_until((_END_PARAMETER,))
        if text:
            self.arguments(self._index, json.dumps(text, ensure_ascii=False)[1:-1])
        if marker is not None:
            self.arguments(self._index, '"')
            self.state = self._in_invoke
        return marker is not None

    def _in_json(self) -> bool:
        text, marker = self.take_until((_END_PARAMETER,))
        self._value += text
        if marker is None and not self.ended:
            return False
        if self._value or marker is not None:
            plain = self.cut or _is_json(self._value)
            self.arguments(self._index, self._value.strip() if plain else _text(self._value))
        self._value = ""
        if marker is not None:
            self.state = self._in_invoke
        return marker is not None

    def _close_call(self) -> None:
        self.arguments(self._index, "}" if self._parameters else "{}")

    def _take_tag(self) -> str | None:
        """Removes and returns the rest of an opening tag, without its bracket. Returns None while the tag is incomplete."""
        end = self.text.find(">")
        if end < 0:
            if self.ended and self.text and not self._block_calls:
                self._seen += self.take(len(self.text))
                self.content(self._seen)
                self._seen = ""
                self.state = self.in_content
            return None
        tag = self.take(end)
        self.take(1)
        return tag


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
