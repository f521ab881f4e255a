"""DeepSeek V3, R1 and V3.1: calls between control tokens.

V3 and R1 write the kind, the name and fenced JSON. V3.1 writes the name and bare JSON:

    <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\\n```json\\n{...}\\n```<｜tool▁call▁end｜>
    <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>
"""

from __future__ import annotations

from deepwell.dialogue.parsers.json_calls import JsonValue
from deepwell.dialogue.parsers.machine import Machine, ReasoningTags

__all__ = ["MARKERS", "DeepSeekParser"]

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END, SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
MARKERS = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEP)
_FENCE = "```"


class DeepSeekParser(Machine):
    """Parses an answer in which DeepSeek's calls stand in a block."""

    def __init__(self, reasoning: ReasoningTags = "off") -> None:
        super().__init__(reasoning, (CALLS_BEGIN, CALL_BEGIN))
        self._index = 0
        self._value = JsonValue()
        self._seen = ""  # text of a call whose name is not known yet

    def opened(self, marker: str) -> None:
        self._seen = marker
        self.state = self._before_call if marker == CALLS_BEGIN else self._in_header

    def _before_call(self) -> bool:
        """Skips the text between the start of a block and its first call. Nothing belongs there."""
        text, marker = self.take_until((CALL_BEGIN, CALLS_END))
        self._seen += text + (marker or "")
        if marker == CALL_BEGIN:
            self.state = self._in_header
        elif marker == CALLS_END:
            self.state = self.in_content
        elif self.ended and not self.calls:
            self._not_a_call()
        return marker is not None

    def _in_header(self) -> bool:
        text, marker = self.take_until((SEP, CALL_END, CALLS_END))
        self._seen += text
        if marker == SEP:
            kind = self._seen.rpartition(CALL_BEGIN)[2].strip()
            self._seen += marker
            if kind == "function":
                self.state = self._in_name
            else:
                self._begin(kind)
            return True
        if marker is not None:
            self._seen += marker
        if marker is not None or self.ended:
            self._not_a_call()
        return marker is not None

    def _in_name(self) -> bool:
        """Reads V3's name, which stands on a line of its own."""
        text, marker = self.take_until(("\n", CALL_END))
        self._seen += text
        if marker == CALL_END:
            self._seen += marker
            self._not_a_call()
            return True
        if marker is not None:
            self._begin(self._seen.rpartition(SEP)[2].strip())
            return True
        if self.ended:
            self._not_a_call()
        return False

    def _begin(self, name: str) -> None:
        self._seen = ""
        self._index = self.call(name)
        self._value = JsonValue()
        self.state = self._before_arguments

    def _before_arguments(self) -> bool:
        """Skips white space and the line of an opening fence."""
        bare = self.text.lstrip()
        if not bare.startswith(_FENCE):
            if _FENCE.startswith(bare) and (self.cut or not self.ended):
                return False
            self.state = self._at_arguments
            return True
        ends = [at for at in (bare.find("\n"), bare.find("{"), bare.find("<")) if at >= 0]
        if not ends and not self.ended:
            return False
        self.take(len(self.text) - len(bare) + min(ends, default=len(bare)))
        self.state = self._at_arguments
        return True

    def _at_arguments(self) -> bool:
        bare = self.text.lstrip()
        if bare.startswith(CALL_END):
            self.arguments(self._index, "{}")  # the model wrote none
            self.state = self._behind
            return True
        if CALL_END.startswith(bare) and (self.cut or not self.ended):
            return False
        self.take(len(self.text) - len(bare))
        self.state = self._in_arguments
        return True

    def _in_arguments(self) -> bool:
        for at, char in enumerate(self.text):
            place = self._value.feed(char)
            if place in ("illegal", "behind"):
                self._pass(self.take(at))
                self.state = self._in_raw if place == "illegal" else self._behind
                return True
            if place == "last":
                self._pass(self.take(at + 1))
                self.state = self._behind
                return True
        self._pass(self.take(len(self.text)))
        return False

    def _in_raw(self) -> bool:
        """Passes on arguments that are not JSON, unchanged, up to the end of the call."""
        text, marker = self.take_until((CALL_END, CALLS_END))
        self._pass(text)
        if marker is not None:
            self.state = self._between_calls if marker == CALL_END else self.in_content
        return marker is not None

    def _behind(self) -> bool:
        """Skips a closing fence, up to the next marker."""
        _, marker = self.take_until((CALL_END, CALLS_END, CALL_BEGIN))
        if marker is not None:
            self._seen = ""
            states = {CALL_END: self._between_calls, CALLS_END: self.in_content, CALL_BEGIN: self._in_header}
            self.state = states[marker]
        return marker is not None

    def _between_calls(self) -> bool:
        """Finds what follows a call: another call, the end of the block, or text if the block was left open."""
        bare = self.text.lstrip()
        for marker, state in ((CALL_BEGIN, self._in_header), (CALLS_END, self.in_content)):
            if bare.startswith(marker):
                self.take(len(self.text) - len(bare) + len(marker))
                self._seen = marker if marker == CALL_BEGIN else ""
                self.state = state
                return True
        if (CALL_BEGIN.startswith(bare) or CALLS_END.startswith(bare)) and not self.ended:
            return False
        self.state = self.in_content
        return True

    def _pass(self, text: str) -> None:
        if text:
            self.arguments(self._index, text)

    def _not_a_call(self) -> None:
        self.state = self.in_content
        seen, self._seen = self._seen, ""
        self.content(seen)
