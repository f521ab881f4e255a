"""Answers without markup of calls: an answer that is the JSON of a call, as Llama writes it, or one without calls."""

from __future__ import annotations

from collections.abc import Collection

from deepwell.dialogue.parsers.json_calls import JsonCalls
from deepwell.dialogue.parsers.machine import Machine, ReasoningTags

__all__ = ["PlainJsonParser", "TextParser"]

_TAG = "<|python_tag|>"


class TextParser(Machine):
    """Parses content, and reasoning if the model tags it. It serves requests without tools."""

    def __init__(self, reasoning: ReasoningTags = "off") -> None:
        super().__init__(reasoning)


class PlainJsonParser(Machine):
    """Parses calls if the answer begins with a call, or a list of calls, of a function that was offered."""

    def __init__(self, names: Collection[str], reasoning: ReasoningTags = "off") -> None:
        super().__init__(reasoning)
        self._names = frozenset(names)
        self._json = JsonCalls(self, self._names)
        self._tag = ""
        self._begun = False

    def in_content(self) -> bool:
        if not self._begun:
            self._begun = True
            self.state = self._at_start
            return True
        return super().in_content()

    def _at_start(self) -> bool:
        bare = self.text.lstrip()
        if not bare.startswith(_TAG) and _TAG.startswith(bare) and not self.ended:
            return False
        if bare.startswith(_TAG):
            self._tag = self.take(len(self.text) - len(bare) + len(_TAG))
        elif not bare.startswith(("{", "[")):
            self.state = self.in_content
            return True
        self.state = self._in_call
        return True

    def _in_call(self) -> bool:
        text, calls = self.text, self._json
        for at, char in enumerate(text):
            if not calls.feed(char):
                self.take(at)
                self._leave()
                return True
        self.take(len(text))
        if self.ended:
            calls.finish()
            if calls.index is None:
                self._leave()
                return True
        return False

    def _leave(self) -> None:
        """Chooses the next state after the JSON, which has ended or is not JSON.

        Text that belongs to no call is content, and so is all that follows.
        """
        calls = self._json
        if calls.state == "raw":
            self.state = self._in_raw
            return
        self.state = self.in_content
        if calls.index is not None:
            return
        if not calls.done:
            self.content(self._tag + calls.held)
        elif (behind := calls.held.lstrip(" ,;[]")) and not (self.ended and behind.isspace()):
            self.content(behind)

    def _in_raw(self) -> bool:
        assert self._json.index is not None
        if self.text:
            self.arguments(self._json.index, self.take(len(self.text)))
        return False
