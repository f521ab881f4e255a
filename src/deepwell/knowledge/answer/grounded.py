"""`answer`, `stream_answer`: a conversation to an answer that rests on found passages, with checked citations, or to none.

The way of a question: rewritten to stand alone, searched, candidates judged, declined if none is relevant. Then either the
prompt is assembled from the best ones, the model writes, and every sentence is checked; or the best passage's own words are
quoted, a sentence or two, if it is sure enough that it answers. They are quoted for writers that were measured to write
worse answers than that, and where no written sentence passes its check.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

from deepwell.errors import InvalidRequest
from deepwell.knowledge.answer.cite import (
    AnswerText,
    Checked,
    Citation,
    CitationChecker,
    Dropped,
    GroundedAnswer,
    SentenceStream,
    Unsupported,
)
from deepwell.knowledge.answer.decline import judge, prefers_quotation, quotable, relevant
from deepwell.knowledge.answer.ledger import GroundedPrompt, assemble
from deepwell.knowledge.answer.rewrite import rewrite
from deepwell.knowledge.answer.support import Support
from deepwell.knowledge.answer.text import AnswerLanguage, Sentence, language_of, sentences, without_marks
from deepwell.knowledge.answer.wording import WORDING
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.protocols import Embedder, Writer

__all__ = [
    "AnswerDelta",
    "AnswerOptions",
    "Search",
    "answer",
    "asked_words",
    "by_turns",
    "quotation",
    "stream_answer",
]

_QUOTED = 400  # the most characters of a quotation of two sentences

Search = Callable[[str, int], Awaitable[list[Passage]]]
"""Finds passages for a query, best first, and at most as many as asked for."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """Options of a grounded answer.

    Attributes:
        candidates: number of passages to ask the search for. More of them judge better which words matter.
        passages: the most passages that the model reads; only relevant ones are among them.
        answer_tokens: the most tokens that the model writes.
        style: "written": by the model, and checked; "quoted": a sentence or two of the best passage, without the model;
            "auto": quoted for a writer that was measured to answer worse than a quotation, written for every other.
        quotations: the most passages that a quoted answer shows, best first, a sentence or two of each.
        lenience: log-odds by which the chance that a quotation answers may lie below the least that counts. Above 0, more
            questions are answered, and fewer declined that the passages do not answer.
        unsupported: treatment of a written sentence that no passage supports.
        declining: "relevance": declines unless a passage is relevant enough; "empty": only if the search finds nothing.
        temperature: of the model.
        turns: earlier turns that the model reads: "newest": those that fit beside the passages; "all": all of them, and the
            last message in its own words beside the rewritten question. Passages give way to them.
    """

    candidates: int = 20
    passages: int = 3
    answer_tokens: int = 200
    style: Literal["auto", "written", "quoted"] = "auto"
    quotations: int = 1
    lenience: float = 0.0
    unsupported: Unsupported = "drop"
    declining: Literal["relevance", "empty"] = "relevance"
    temperature: float = 0.0
    turns: Literal["newest", "all"] = "newest"


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """A checked sentence of an answer under way.

    Attributes:
        text: text to append.
        citations: the citations in it; their offsets count from the start of the answer.
    """

    text: str
    citations: tuple[Citation, ...] = ()


@dataclass(slots=True)
class _Course:
    """State of one answer before the model is asked."""

    question: str
    language: AnswerLanguage
    relevant: list[Passage] = field(default_factory=list[Passage])
    prompt: GroundedPrompt | None = None


async def answer(
    messages: Sequence[Mapping[str, str]],
    search: Search,
    writer: Writer,
    embedder: Embedder,
    options: AnswerOptions | None = None,
) -> GroundedAnswer:
    """Answers the last user message from found passages, or declines.

    Args:
        messages: a conversation whose messages have `role` and `content`.
        search: finds passages.
        writer: writes the answer, and rewrites the question.
        embedder: judges relevance and support; the one of the search knows its thresholds.

    Raises:
        InvalidRequest: the conversation does not end with a question.
        ContextLengthExceeded: the question and the best passage do not fit the writer's context.
    """
    last: GroundedAnswer | None = None
    async for part in stream_answer(messages, search, writer, embedder, options):
        if isinstance(part, GroundedAnswer):
            last = part
    assert last is not None
    return last


async def stream_answer(
    messages: Sequence[Mapping[str, str]],
    search: Search,
    writer: Writer,
    embedder: Embedder,
    options: AnswerOptions | None = None,
    *,
    given: Sequence[Passage] = (),
    assembled: Callable[[GroundedPrompt], None] | None = None,
) -> AsyncGenerator[AnswerDelta | GroundedAnswer, None]:
    """Yields an answer sentence by sentence, each checked before it is shown, and at the end the whole. Raises as `answer`.

    Args:
        given: passages that came with the question. The model reads them beside the found ones, by turns.
        assembled: called with the prompt before the model is asked. It is not called for an answer without the model.
    """
    options = options or AnswerOptions()
    course = await _prepared(messages, search, writer, embedder, options, given)
    if course.prompt is not None and assembled is not None:
        assembled(course.prompt)
    if not course.relevant:
        yield _declined(course)
        return
    passages = course.prompt.passages if course.prompt else tuple(course.relevant)
    text = AnswerText(passages, course.language)
    dropped: list[Dropped] = []
    if course.prompt is not None:
        checker = CitationChecker(course.question, passages, embedder, unsupported=options.unsupported)
        async for sentence, gap in _written(course.prompt, writer, options):
            checked = await checker.check(sentence)
            if checked.dropped is not None:
                dropped.append(checked.dropped)
            if checked.stays:
                yield AnswerDelta(*_frozen(text.add(checked, gap)))
    quoted = not text.citations and not text.text
    if quoted:
        for number, passage in enumerate(passages[: options.quotations], 1):
            checked = await quotation(course.question, passage, embedder, number)
            yield AnswerDelta(*_frozen(text.add(checked, "\n")))
    yield GroundedAnswer(
        text.text,
        tuple(text.citations),
        False,
        passages,
        course.question,
        course.prompt.ledger if course.prompt else None,
        tuple(dropped),
        quoted,
    )


async def _prepared(
    messages: Sequence[Mapping[str, str]],
    search: Search,
    writer: Writer,
    embedder: Embedder,
    options: AnswerOptions,
    given: Sequence[Passage],
) -> _Course:
    if not messages or messages[-1]["role"] != "user":
        raise InvalidRequest(
            "there is no question", fix="end the conversation with a user message", param="messages"
        )
    last = messages[-1]["content"]
    query = (await rewrite(messages, writer)).query
    course = _Course(query, language_of(last))
    found = await search(query, options.candidates)
    style = options.style
    if given:  # a quotation is of one passage alone
        style = "written"
    elif style == "auto":
        style = "quoted" if prefers_quotation(writer) else "written"
    if options.declining == "empty":
        course.relevant = found[: options.passages]
    else:
        course.relevant = (
            await quotable(query, found, writer, embedder, options.lenience)
            if style == "quoted"
            else await relevant(query, found, writer, embedder)
        )
    course.relevant = by_turns(course.relevant[: options.passages], given) if given else course.relevant
    if course.relevant and style == "written":
        course.prompt = assemble(
            asked_words(last, query) if options.turns == "all" else query,
            course.relevant,
            writer,
            language=course.language,
            answer_tokens=options.answer_tokens,
            max_passages=options.passages + len(given),
            turns=messages[:-1],
            keep=options.turns,
        )
    return course


def by_turns(found: Sequence[Passage], given: Sequence[Passage]) -> list[Passage]:
    """Returns passages of a search and those that came with the question by turns, so that both are read where few fit."""
    known = {one.key for one in found}
    left = [one for one in given if one.key not in known]
    return [one for pair in zip_longest(found, left) for one in pair if one is not None]


def asked_words(last: str, query: str) -> str:
    """Returns a question in which the last message stands as it is, in front of what it was rewritten to."""
    if query == last.strip():
        return last
    return query if last in query else f"{last}\n{query}"


async def _written(
    prompt: GroundedPrompt, writer: Writer, options: AnswerOptions
) -> AsyncIterator[tuple[Sentence, str]]:
    """Yields the sentences that the model writes, with the white space in front of each."""
    cut = SentenceStream()
    pieces = writer.stream(prompt.messages, max_tokens=options.answer_tokens, temperature=options.temperature)
    async for piece in pieces:
        for one in cut.push(piece):
            yield one
    for one in cut.finish():
        yield one


async def quotation(question: str, best: Passage, embedder: Embedder, number: int = 1) -> Checked:
    """Returns the words of a passage that are nearest to the question, bound to their place as passage `number`.

    They are a sentence and the better one of its neighbours in the same paragraph, if both together are short: the words of
    a question often stand in one sentence, and the answer in the next. Headings repeat the question, and are not quoted.
    """
    parts = _said(best) or [Sentence(best.text.strip(), 0, len(best.text))]
    cuts = [Passage(at, "", "", 0.0, one.text, place=best.place) for at, one in enumerate(parts)]
    ranked = [one.passage.key for one in await judge(question, cuts, embedder, count=len(cuts), ranked=False)]
    chosen = parts[ranked[0]]
    for at in ranked[1:]:
        if abs(at - ranked[0]) == 1 and (both := _joined(best.text, chosen, parts[at])) is not None:
            chosen = both
            break
    support = Support(1.0, 1.0, (), False, False, chosen)
    return Checked(chosen, ((number, support),))


def _said(passage: Passage) -> list[Sentence]:
    """Returns the sentences of a passage without its headings; with them, if it has nothing else."""
    found = sentences(passage.text)
    headings = {" ".join(one.split()) for one in passage.place.headings}

    def is_heading(one: Sentence) -> bool:
        return one.text.startswith("#") or " ".join(one.text.split()) in headings

    return [one for one in found if one.code or not is_heading(one)] or found


def _joined(text: str, one: Sentence, other: Sentence) -> Sentence | None:
    """Returns two neighbours as one; None if they are code, stand in different lines, or are too long together."""
    start, end = min(one.start, other.start), max(one.end, other.end)
    whole = text[start:end]
    if one.code or other.code or "\n" in whole or end - start > _QUOTED:
        return None
    return Sentence(without_marks(whole), start, end)


def _declined(course: _Course) -> GroundedAnswer:
    return GroundedAnswer(WORDING[course.language].declines, (), True, (), course.question)


def _frozen(added: tuple[str, list[Citation]]) -> tuple[str, tuple[Citation, ...]]:
    return added[0], tuple(added[1])
