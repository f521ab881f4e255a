"""`Draft`: a conversation while it is fitted: what becomes of each message, and of every character of its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deepwell.knowledge.context.fitting.layout import Message, text_of
from deepwell.knowledge.context.fitting.ledger import Fate, Fates, LedgerRow
from deepwell.knowledge.context.fitting.notes import Note
from deepwell.knowledge.context.fitting.placing import Placed, PromptMap

__all__ = ["Draft", "Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """Characters of a message's text that have the same fate."""

    start: int
    end: int
    fate: Fate


class Draft:
    """The changes to a conversation. Messages without a change stay as they are."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self._texts: dict[int, str | None] = {}
        self._ranges: dict[int, list[Range]] = {}
        self._notes: dict[int, Note] = {}

    def remove(self, index: int) -> None:
        """Leaves a message out."""
        self._texts[index] = None
        self._ranges[index] = []

    def replace(self, index: int, text: str, ranges: Sequence[Range]) -> None:
        """Gives a message another text, made of `ranges` of its own and of marks. What no range covers is dropped."""
        self._texts[index] = text
        self._ranges[index] = list(ranges)

    def note(self, note: Note) -> None:
        """Puts passages of messages that are left out in front of another."""
        self._notes[note.index] = note
        for index, start, end in note.stretches:
            self._ranges[index].append(Range(start, end, "recalled"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the model is to read it."""
        found: list[dict[str, Any]] = []
        for index, message in enumerate(self._messages):
            text = self._texts.get(index, text_of(message))
            if text is None and index in self._texts:
                continue
            made = dict(message)
            if index in self._texts:
                made["content"] = text
            if (note := self._notes.get(index)) is not None:
                made["content"] = f"{note.text}\n\n{note.label}{made['content']}"
            found.append(made)
        return found

    def rows(self, prompt: PromptMap) -> tuple[LedgerRow, ...]:
        """Returns the fates of the texts of all messages, by the tokens of the original prompt."""
        return tuple(
            LedgerRow(index, index, str(message["role"]), self._fates(index, prompt.placed[index]))
            for index, message in enumerate(self._messages)
        )

    def _fates(self, index: int, placed: Placed) -> Fates:
        ranges = self._ranges.get(index)
        if ranges is None:
            return Fates(kept=placed.tokens)
        counts: dict[Fate, int] = dict.fromkeys(("kept", "compressed", "recalled"), 0)
        for one in ranges:
            counts[one.fate] += placed.between(one.start, one.end)
        return Fates(**counts, dropped=placed.tokens - sum(counts.values()))
