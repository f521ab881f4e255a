"""The turns of a grounded answer: every sentence is checked before it is sent, and cites the file that it rests on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deepwell.dialogue.dialogue import Turn
from deepwell.dialogue.parsers.events import CallStart, Content
from deepwell.server.families.responses.bodies import FileCitation, FileSearchResult
from deepwell.server.families.responses.file_search import Searched
from deepwell.server.families.responses.image_parts import ImageBegun, ImageEnded, ImageShown
from deepwell.server.families.responses.mcp.parts import McpPart

if TYPE_CHECKING:
    from deepwell.knowledge.answer.cite import Citation, Dropped, GroundedAnswer
    from deepwell.knowledge.answer.text import Sentence

__all__ = ["Found", "OutputPart", "cited_parts"]


@dataclass(frozen=True, slots=True)
class Found:
    """A search that was made. `results` are None if the request does not include them."""

    queries: list[str]
    results: list[FileSearchResult] | None


OutputPart = Turn | FileCitation | Found | ImageBegun | ImageShown | ImageEnded | McpPart
"""A part that a response is built of. A citation belongs to the text of the turn before it."""


async def cited_parts(
    turns: AsyncGenerator[Turn, None],
    search: Searched,
    results: list[FileSearchResult] | None,
    *,
    prose: bool,
    answered: Callable[[GroundedAnswer], None],
) -> AsyncGenerator[OutputPart, None]:
    """Yields a search and the answer that rests on it.

    Args:
        turns: the model's answer, which is not begun if the answer declines.
        results: what the response shows of the found passages.
        prose: whether the text is made of sentences, which are then checked.
        answered: called with a checked answer when it has ended.
    """
    from deepwell.knowledge.answer.cite import GroundedAnswer

    async with aclosing(turns):
        yield Found([search.query], results)
        if search.declines:
            answered(GroundedAnswer(search.declines, (), declined=True, query=search.query))
            yield Turn(0, (Content(search.declines),), finish_reason="stop")
            return
        answer = _CitedAnswer(search) if prose and search.passages else None
        if answer is not None and not search.asks_model(prose=prose):
            for one in await answer.quoted(Turn(0, ())):
                yield one
            yield Turn(0, (), finish_reason="stop")
            answered(answer.whole())
            return
        async for turn in turns:
            if answer is None:
                yield turn
                continue
            for one in await answer.take(turn):
                yield one
            if turn.finish_reason is not None:
                answered(answer.whole())


class _CitedAnswer:
    """Replaces the model's text by checked sentences."""

    def __init__(self, search: Searched) -> None:
        from deepwell.knowledge.answer.cite import CitationChecker

        assert search.embedder is not None
        self._search = search
        self._checker = CitationChecker(search.query, search.passages, search.embedder)
        self._called = False
        self._said = False
        self._quotes = False
        self._dropped: list[Dropped] = []
        self._begin()

    def _begin(self) -> None:
        """Begins the text of a message, from whose start offsets are counted."""
        from deepwell.knowledge.answer.cite import AnswerText, SentenceStream
        from deepwell.knowledge.answer.text import language_of

        self._cut = SentenceStream()
        self._text = AnswerText(self._search.passages, language_of(self._search.query))

    async def take(self, turn: Turn) -> list[OutputPart]:
        """Returns what a turn becomes: text that passed, its citations, and everything that is no text."""
        found: list[OutputPart] = []
        for event in turn.events:
            if isinstance(event, Content):
                found += await self._checked(turn, self._cut.push(event.text))
                continue
            if isinstance(event, CallStart):
                found += await self._checked(turn, self._cut.finish())
                self._called = True
                self._begin()
            found.append(replace(turn, events=(event,), entries=(), finish_reason=None))
        if turn.finish_reason is not None:
            found += await self._checked(turn, self._cut.finish())
            if not self._said and not self._called:
                found += await self.quoted(turn)
        found.append(replace(turn, events=(), entries=()))
        return found

    def whole(self) -> GroundedAnswer:
        """Returns the answer so far."""
        from deepwell.knowledge.answer.cite import GroundedAnswer

        return GroundedAnswer(
            self._text.text,
            tuple(self._text.citations),
            declined=False,
            passages=self._search.passages,
            query=self._search.query,
            dropped=tuple(self._dropped),
            quoted=self._quotes,
        )

    async def _checked(self, turn: Turn, ready: Sequence[tuple[Sentence, str]]) -> list[OutputPart]:
        found: list[OutputPart] = []
        for sentence, gap in ready:
            checked = await self._checker.check(sentence)
            if checked.dropped is not None:
                self._dropped.append(checked.dropped)
            if checked.stays:
                found += self._told(turn, *self._text.add(checked, gap))
        return found

    async def quoted(self, turn: Turn) -> list[OutputPart]:
        """Returns the words of the best passage that are nearest to the question, in place of the model's."""
        from deepwell.knowledge.answer.grounded import quotation

        search, self._quotes = self._search, True
        assert search.embedder is not None
        return self._told(
            turn, *self._text.add(await quotation(search.query, search.passages[0], search.embedder))
        )

    def _told(self, turn: Turn, text: str, citations: Sequence[Citation]) -> list[OutputPart]:
        self._said = True
        shown = replace(turn, events=(Content(text),), entries=(), finish_reason=None)
        return [shown, *(FileCitation(one.file_id, one.filename, one.index) for one in citations)]
