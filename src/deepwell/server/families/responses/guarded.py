"""`guarded`: an answer from files as the guard lets it leave.

The model's words are replaced by checked sentences and by quotations of passages, so that the guard reads what comes of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import msgspec

from deepwell.dialogue.dialogue import Turn
from deepwell.dialogue.parsers.events import CallStart, Content
from deepwell.server.families.responses.bodies import FileCitation
from deepwell.server.families.responses.citing import Found, OutputPart
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.guard import ServerGuard

__all__ = ["guarded"]


async def guarded(
    guard: ServerGuard, checked: Checked | None, parts: AsyncGenerator[OutputPart, None]
) -> AsyncGenerator[OutputPart, None]:
    """Yields the parts of an answer, read by the guard. A citation leaves behind the text that it belongs to, or not at all.

    Raises:
        NotChecked: the guard was not asked about the request.
    """
    cited: list[FileCitation] = []
    searches: list[Found] = []

    async def turns() -> AsyncGenerator[Turn, None]:
        async for part in parts:
            if isinstance(part, Turn):
                yield part
            elif isinstance(part, Found):
                searches.append(part)
            elif isinstance(part, FileCitation):
                cited.append(part)

    shown = _Shown(cited)
    async with aclosing(parts), aclosing(guard.turns(checked, turns())) as read:
        async for turn in read:
            while searches and checked is not None:
                found = searches.pop(0)
                yield replace(found, queries=[await guard.written(query, checked) for query in found.queries])
            for part in shown.split(turn):
                yield part


@dataclass(slots=True)
class _Shown:
    """The text of the open message that has left, and the citations that wait for theirs."""

    waiting: list[FileCitation]
    told: int = field(default=0, init=False)  # characters

    def split(self, turn: Turn) -> list[OutputPart]:
        """Returns the parts of a turn, with the citations that may leave behind each."""
        if turn.finish_reason == "content_filter":
            self.waiting.clear()  # their text may not have left
        parts: list[OutputPart] = []
        for event in turn.events:
            if not isinstance(event, Content):
                parts += self._cited(over=True)
            if isinstance(event, CallStart):
                self.told = 0
            parts.append(replace(turn, events=(event,), entries=(), finish_reason=None))
            if isinstance(event, Content):
                self.told += len(event.text)
                parts += self._cited(over=False)
        if turn.finish_reason is not None:
            parts += self._cited(over=True)
        # Entries belong to the first text of their step.
        if parts and isinstance(parts[0], Turn):
            parts[0] = replace(parts[0], entries=turn.entries)
            return [*parts, replace(turn, events=(), entries=())]
        return [*parts, replace(turn, events=())]

    def _cited(self, *, over: bool) -> list[FileCitation]:
        """Returns the citations whose mark has left. A text that is over may be shorter than it was, by what was redacted."""
        if not self.told:
            return []
        ready = [one for one in self.waiting if over or one.index < self.told]
        self.waiting[:] = [one for one in self.waiting if one not in ready]
        return [msgspec.structs.replace(one, index=min(one.index, self.told)) for one in ready]
