"""`Layout`: the parts of a conversation: what always stays whole, turns that may go, and texts that may be shortened.

system messages             stay whole, wherever they stand
turns before the question   a user message with what follows it up to the next; they go as a whole, the oldest first
the last user message       stays whole, apart from a long document in it
what follows it             calls and their results stay; the texts of results may be shortened
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepwell.knowledge.context.fitting.question import TurnParts, read_turn

__all__ = ["Layout", "Message", "text_of"]

Message = Mapping[str, Any]

_SYSTEM: Final = ("system", "developer")


def text_of(message: Message) -> str | None:
    """Returns the text of a message; None if it has none."""
    content = message.get("content")
    return content if isinstance(content, str) else None


@dataclass(frozen=True, slots=True)
class Layout:
    """The numbers of the messages of each part.

    Attributes:
        system: those that stay whole.
        turns: turns in front of the last user message, the oldest first.
        last: the last user message; None: there is none, and everything after the system messages may be shortened.
        trail: what follows it.
        parts: the question and the document of the last user message.
    """

    system: tuple[int, ...]
    turns: tuple[tuple[int, ...], ...]
    last: int | None
    trail: tuple[int, ...]
    parts: TurnParts

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Layout:
        """Returns the layout of a conversation."""
        system = tuple(at for at, one in enumerate(messages) if one["role"] in _SYSTEM)
        users = [at for at, one in enumerate(messages) if one["role"] == "user"]
        last = users[-1] if users else None
        turns: list[list[int]] = []
        trail: list[int] = []
        for at, one in enumerate(messages):
            if one["role"] in _SYSTEM or at == last:
                continue
            if last is None or at > last:
                trail.append(at)
            elif one["role"] == "user" or not turns:
                turns.append([at])
            else:
                turns[-1].append(at)
        parts = TurnParts("", 0, 0) if last is None else read_turn(text_of(messages[last]) or "")
        return cls(system, tuple(map(tuple, turns)), last, tuple(trail), parts)

    def query(self, messages: Sequence[Message]) -> str:
        """Returns the text by which others are chosen; see `query_of`."""
        return (
            "" if self.last is None else query_of(self.parts, self._asked_before(messages, len(self.turns)))
        )

    def query_of_turn(self, messages: Sequence[Message], number: int) -> tuple[int, str]:
        """Returns the number of the user message that opens a turn, and the text by which others were recalled for it then.

        The text is empty if no user message opens it, or if that is a long text which asks nothing.
        """
        at = self.turns[number][0]
        parts = read_turn(_user_text(messages[at]))
        return at, query_of(parts, self._asked_before(messages, number)) if parts.asks else ""

    def _asked_before(self, messages: Sequence[Message], number: int) -> str:
        """Returns the user message in front of a turn; empty: there is none."""
        before = (_user_text(messages[turn[0]]) for turn in reversed(self.turns[:number]))
        return next(filter(None, before), "")


def query_of(parts: TurnParts, before: str) -> str:
    """Returns the question of a user turn, behind the one of the turn before it if it leans on that."""
    from deepwell.knowledge.answer.rewrite import needs_rewrite

    query = parts.query
    if parts.has_document or not query or not before:
        return query
    asked = read_turn(before).query
    leans = needs_rewrite([{"role": "user", "content": one} for one in (asked, query)])
    return f"{asked}\n{query}" if leans else query


def _user_text(message: Message) -> str:
    return (text_of(message) or "").strip() if message["role"] == "user" else ""
