"""Calls of Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

from __future__ import annotations

from deepwell.dialogue.parsers.json_calls import JsonCalls
from deepwell.dialogue.parsers.machine import Machine, ReasoningTags

__all__ = ["HermesParser"]

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesParser(Machine):
    """Parses one call, or a list of calls, in each pair of tags. Tags around anything else are content."""

    def __init__(self, reasoning: ReasoningTags = "off") -> None:
        super().__init__(reasoning, (OPEN,))
        self._json = JsonCalls(self)

    def opened(self, marker: str) -> None:
        self._json = JsonCalls(self)
        self.state = self._in_call

    def _in_call(self) -> bool:
        text, calls = self.text, self._json
        for at, char in enumerate(text):
            rest = text[at : at + len(CLOSE)]
            if calls.state == "between" and char == "<" and CLOSE.startswith(rest):
                self.take(at)
                if rest == CLOSE or self.ended:
                    self._leave()
                return rest == CLOSE or self.ended
            if not calls.feed(char):
                self.take(at)
                self._leave()
                return True
        self.take(len(text))
        if self.ended:
            calls.finish()
            if calls.index is None and not calls.done:
                self._leave()
                return True
        return False

    def _leave(self) -> None:
        """Chooses the next state after the JSON, which has ended or is not JSON."""
        calls = self._json
        if calls.state == "raw":
            self.state = self._in_raw
        elif calls.done or calls.index is not None:
            self.state = self._behind
        else:
            self.state = self.in_content
            self.content(OPEN + calls.held)

    def _in_raw(self) -> bool:
        """Passes on arguments that are not JSON, unchanged, up to the closing tag."""
        text, marker = self.take_until((CLOSE,))
        assert self._json.index is not None
        if text:
            self.arguments(self._json.index, text)
        if marker is not None:
            self.state = self.in_content
        return marker is not None

    def _behind(self) -> bool:
        """Skips the text between a finished call and its closing tag. It belongs to nothing."""
        _, marker = self.take_until((CLOSE, OPEN))
        if marker == OPEN:
            self.opened(OPEN)
        elif marker is not None:
            self.state = self.in_content
        return marker is not None
