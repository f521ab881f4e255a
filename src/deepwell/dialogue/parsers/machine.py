"""The part that all parsers share: reasoning, content, and the search for the marker that opens a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Event, Reasoning, join

__all__ = ["Machine", "ReasoningTags", "first_of", "overlap"]

# "tagged": the text may begin with <think>; "begun": the prompt has opened it; "off": tags are text.
ReasoningTags = Literal["off", "tagged", "begun"]
_THINK, _END_THINK = "<think>", "</think>"


def overlap(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` that is the beginning of a marker, and not all of it."""
    longest = max(map(len, markers), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(len(marker) > length and marker.startswith(tail) for marker in markers):
            return length
    return 0


def first_of(text: str, markers: Sequence[str]) -> tuple[int, str] | None:
    """Where the first marker stands in `text`, and which it is."""
    found = [(at, -len(marker), marker) for marker in markers if (at := text.find(marker)) >= 0]
    if not found:
        return None
    at, _, marker = min(found)
    return at, marker


class Machine:
    """Splits reasoning from content; a family of calls adds its states behind `opened`.

    A state looks at the text that is not taken yet and says whether it has taken, or decided, something. It must decide
    nothing that later text could change: that is what makes the result independent of how the text is cut.

    Args:
        reasoning: whether the text holds `<think>` tags.
        opens: markers that open calls.
    """

    def __init__(self, reasoning: ReasoningTags = "off", opens: Sequence[str] = ()) -> None:
        self.text = ""  # not taken yet
        self.ended = False
        self.calls = 0  # begun so far
        self.opens = tuple(opens)
        self.state: Callable[[], bool] = {
            "off": self.in_content,
            "tagged": self._before_reasoning,
            "begun": self._in_reasoning,
        }[reasoning]
        self._events: list[Event] = []
        self._blank = ""  # white space that goes out in front of more content, and not in front of a call
        self._reasoned = False
        self._strip = False  # content has yet to begin, behind reasoning

    def push(self, text: str) -> list[Event]:
        """What `text` makes certain."""
        self.text += text
        return self._run()

    def finish(self) -> list[Event]:
        """What was held back, when nothing more comes."""
        self.ended = True
        events = self._run()
        if self._blank and not self.calls and not self._strip:
            events = join([*events, Content(self._blank)])
        return events

    def opened(self, marker: str) -> None:
        """A marker that opens calls was taken: set the state that reads on."""
        raise NotImplementedError

    def content(self, text: str) -> None:
        """Give out content; white space at its end waits for what follows."""
        text = self._blank + text
        if self._strip:
            text = text.lstrip()
        bare = text.rstrip()
        self._blank = text[len(bare) :]
        if bare:
            self._strip = False
            self._events.append(Content(bare))

    def call(self, name: str) -> int:
        """Begin a call; returns its number."""
        self._blank = ""
        index = self.calls
        self.calls += 1
        self._events.append(CallStart(index, name))
        return index

    def arguments(self, index: int, text: str) -> None:
        """Give out a part of a call's arguments."""
        self._events.append(CallArguments(index, text))

    def take(self, length: int) -> str:
        """Remove the next `length` characters."""
        taken, self.text = self.text[:length], self.text[length:]
        return taken

    def take_until(self, markers: Sequence[str]) -> tuple[str, str | None]:
        """Remove the text up to a marker, and that too; without one, all that cannot belong to one."""
        found = first_of(self.text, markers)
        if found is not None:
            at, marker = found
            before = self.take(at)
            self.take(len(marker))
            return before, marker
        held = 0 if self.ended else overlap(self.text, markers)
        return self.take(len(self.text) - held), None

    def in_content(self) -> bool:
        """The state between calls."""
        text, marker = self.take_until(self.opens)
        if text:
            self.content(text)
        if marker is not None:
            self.opened(marker)
        return marker is not None

    def _run(self) -> list[Event]:
        while self.state():
            pass
        events, self._events = self._events, []
        return join(events)

    def _before_reasoning(self) -> bool:
        bare = self.text.lstrip()
        if bare.startswith(_THINK):
            self.take(len(self.text) - len(bare) + len(_THINK))
            self.state = self._in_reasoning
            return True
        if _THINK.startswith(bare) and not self.ended:
            return False
        self.state = self.in_content
        return True

    def _in_reasoning(self) -> bool:
        text, marker = self.take_until((_END_THINK,))
        if text:
            text = self._blank + text
            if not self._reasoned:
                text = text.lstrip()
            bare = text.rstrip()
            self._blank = text[len(bare) :]
            if bare:
                self._reasoned = True
                self._events.append(Reasoning(bare))
        if marker is None and not self.ended:
            return False
        self._blank = ""
        if marker is None:
            return False
        self._strip = True
        self.state = self.in_content
        return True
