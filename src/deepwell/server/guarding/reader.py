"""`Reader`: the scanners of one choice."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable

from deepwell.dialogue.dialogue import Turn
from deepwell.dialogue.parsers.events import CallArguments, Content, Event, Reasoning
from deepwell.dialogue.text import Entry
from deepwell.safety.findings import ACTIONS, Decision, Finding
from deepwell.safety.seams import REACH, tail
from deepwell.safety.streaming.released import Released
from deepwell.safety.streaming.rules import StreamRules
from deepwell.safety.streaming.scanner import StreamScanner

__all__ = ["Reader", "text_of"]


class _Strings:
    """The strings of a text in JSON, by the places of their quotation marks."""

    def __init__(self) -> None:
        self._marks: list[int] = []
        self._length = 0
        self._escaped = False

    def read(self, text: str) -> None:
        """Reads the next characters."""
        for at, character in enumerate(text, self._length):
            if character == '"' and not self._escaped:
                self._marks.append(at)
            self._escaped = character == "\\" and not self._escaped
        self._length += len(text)

    def replacement(self, words: Callable[[Finding], str]) -> Callable[[Finding], str]:
        """Returns what stands for a finding so that JSON stays JSON: a number becomes a string."""

        def replaced(finding: Finding) -> str:
            inside = bisect_left(self._marks, finding.start) % 2 == 1
            return words(finding) if inside else json.dumps(words(finding), ensure_ascii=False)

        return replaced


class Reader:
    """Reads one choice: its content, its reasoning and the arguments of its calls, each as a text of its own.

    A text that goes on behind another, such as content behind a call, is one text to who reads the answer, and to the scanner.
    Content is read right behind the reasoning, so that a term which begins there does not end in the content.
    """

    def __init__(self, rules: StreamRules, lacking: Decision | None) -> None:
        self._rules = rules
        self._lacking = lacking
        self._kind = ""
        self._scanner: StreamScanner | None = None
        self._scanners: dict[str, StreamScanner] = {}
        self._strings: dict[str, _Strings] = {}
        self._entries: list[Entry] = []
        self._said: list[str] = []
        self._thoughts = ""
        self._parsing = (
            False  # tokens have come whose text the parser keeps, such as arguments that are not over
        )
        self.ended = False
        self.altered = False
        self.wrote = False

    @property
    def text(self) -> str:
        """All that the model wrote."""
        return "".join(self._said)

    def take(self, turn: Turn) -> tuple[list[Event], Decision | None]:
        """Returns what may leave of a turn, and the strictest decision about it. `ended` tells that it blocks."""
        events: list[Event] = []
        decisions: list[Decision] = []
        if self._lacking is not None:
            decisions.append(self._lacking)
            self.ended = self._lacking.action == "block"
            self._lacking = None
        for event in () if self.ended else turn.events:
            kind, text = text_of(event)
            if kind != self._kind:
                self._pause(events, decisions)
                self._kind = kind
                self._scanner = self._scanner_of(kind)
            if self.ended:
                break
            if self._scanner is None:
                events.append(event)
                continue
            self._said.append(text)
            if kind == "reasoning":
                self._thoughts = (self._thoughts + text)[-2 * REACH :]
            if (strings := self._strings.get(kind)) is not None:
                strings.read(text)
            self._release(self._scanner.push(text), events, decisions)
            if self.ended:
                break
        if turn.finish_reason is not None and not self.ended:
            self._pause(events, decisions)
        self._entries += turn.entries
        self._parsing = bool(turn.entries) and not turn.events and turn.finish_reason is None
        return events, max(decisions, key=lambda one: ACTIONS.index(one.action), default=None)

    def entries(self) -> tuple[Entry, ...]:
        """Returns the entries of the tokens whose text has left whole; none where something in it was replaced.

        Entries name the tokens as the model wrote them, so that they may not leave before their text.
        """
        if self.altered:
            self._entries = []
        if self._parsing or (self._scanner is not None and self._scanner.held):
            return ()
        ready, self._entries = tuple(self._entries), []
        return ready

    def _scanner_of(self, kind: str) -> StreamScanner | None:
        if kind and kind not in self._scanners:
            rules = self._rules
            if kind.startswith("call"):
                self._strings[kind] = strings = _Strings()
                rules = rules.replacing(strings.replacement(rules.replacement))
            self._scanners[kind] = StreamScanner(rules, tail(self._thoughts) if kind == "content" else "")
        return self._scanners.get(kind)

    def _pause(self, events: list[Event], decisions: list[Decision]) -> None:
        """Releases what the text so far held back: another begins, or the answer is over."""
        if self._scanner is not None and not self._scanner.ended:
            self._release(self._scanner.pause(), events, decisions)
        self._scanner, self._kind = None, ""

    def _release(self, released: Released, events: list[Event], decisions: list[Decision]) -> None:
        if released.text:
            events.append(_event(self._kind, released.text))
            self.wrote = self.wrote or self._kind == "content"
        if released.decision is not None:
            decisions.append(released.decision)
            self.altered = self.altered or released.decision.action in ("redact", "block")
            self.ended = self.ended or released.decision.action == "block"


def text_of(event: Event) -> tuple[str, str]:
    """Returns the text that an event belongs to, and its part of it; nothing for an event without text."""
    match event:
        case Content(text):
            return "content", text
        case Reasoning(text):
            return "reasoning", text
        case CallArguments(index, text):
            return f"call {index}", text
        case _:
            return "", ""


def _event(kind: str, text: str) -> Event:
    if kind == "content":
        return Content(text)
    return Reasoning(text) if kind == "reasoning" else CallArguments(int(kind.rpartition(" ")[2]), text)
