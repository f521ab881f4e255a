"""The base of all parsers: reasoning, content, and the search for the marker that opens a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Event, Reasoning, join

__all__ = ["Machine", "ReasoningTags", "first_of", "overlap"]

# "tagged": the text may begin with <think>. "begun": the prompt has opened the tag. "off": tags are text.
ReasoningTags = Literal["off", "tagged", "begun"]
_THINK, _END_THINK = "<think>", "</think>"


def overlap(text: str, markers: Sequence[str]) -> int:
    """Returns the length of the longest end of `text` that is a proper prefix of a marker."""
    longest = max(map(len, markers), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(len(marker) > length and marker.startswith(tail) for marker in markers):
            return length
    return 0


def first_of(text: str, markers: Sequence[str]) -> tuple[int, str] | None:
    """Returns the position of the first marker in `text`, and that marker (the longest of several at one position)."""
    found = [(at, -len(marker), marker) for marker in markers if (at := text.find(marker)) >= 0]
    if not found:
        return None
    at, _, marker = min(found)
    return at, marker


class Machine:
    """Splits reasoning from content. A family of calls adds its states, of which `opened` sets the first.

    A state looks at the text that is not taken yet and returns whether it has taken, or decided, something. It must decide
    nothing that later text could change. So the result does not depend on how the text is cut.

    Args:
        reasoning: whether the text may hold `<think>` tags, and whether the first is open already.
        opens: markers that open calls.
    """

    def __init__(self, reasoning: ReasoningTags = "off", opens: Sequence[str] = ()) -> None:
        self.text = ""  # not taken yet
        self.ended = False
        self.cut = False  # ended inside markup, which is then nobody's text
        self.calls = 0  # number begun so far
        self.opens = tuple(opens)
        self.state: Callable[[], bool] = {
            "off": self.in_content,
            "tagged": self._before_reasoning,
            "begun": self._in_reasoning,
        }[reasoning]
        self._events: list[Event] = []
        self._blank = ""  # white space that is emitted before more content, but dropped before a call
        self._reasoned = False
        self._strip = False  # set behind reasoning, until content begins

    def push(self, text: str) -> list[Event]:
        """Returns the events that `text` makes certain."""
        self.text += text
        return self._run()

    def finish(self, *, cut: bool = False) -> list[Event]:
        """Returns the events that were held back, when no more text comes.

        `cut` means that the answer had to be calls and was cut off: what is held back is markup, and is dropped.
        """
        self.ended, self.cut = True, cut
        events = self._run()
        if cut:
            return [event for event in events if not isinstance(event, Content)]
        if self._blank and not self.calls and not self._strip:
            events = join([*events, Content(self._blank)])
        return events

    def opened(self, marker: str) -> None:
        """Sets the state that reads on after a marker that opens calls was taken."""
        raise NotImplementedError

    def content(self, text: str) -> None:
        """Emits content. White space at its end waits for what follows."""
        text = self._blank + text
        if self._strip:
            text = text.lstrip()
        bare = text.rstrip()
        self._blank = text[len(bare) :]
        if bare:
            self._strip = False
            self._events.append(Content(bare))

    def call(self, name: str) -> int:
        """Begins a call and returns its number."""
        self._blank = ""
        index = self.calls
        self.calls += 1
        self._events.append(CallStart(index, name))
        return index

    def arguments(self, index: int, text: str) -> None:
        """Emits a part of a call's arguments."""
        self._events.append(CallArguments(index, text))

    def take(self, length: int) -> str:
        """Removes and returns the next `length` characters."""
        taken, self.text = self.text[:length], self.text[length:]
        return taken

    def take_until(self, markers: Sequence[str]) -> tuple[str, str | None]:
        """Removes the text up to a marker, and the marker. Without a marker, removes all text that cannot begin one.

        Returns the text, and the marker or None.
        """
        found = first_of(self.text, markers)
        if found is not None:
            at, marker = found
            before = self.take(at)
            self.take(len(marker))
            return before, marker
        held = 0 if self.ended and not self.cut else overlap(self.text, markers)
        return self.take(len(self.text) - held), None

    def in_content(self) -> bool:
        """Emits content, up to a marker that opens calls."""
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
