"""`recalled`: the passages of forgotten turns that stand in front of the questions of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from deepwell.knowledge.answer.text import language_of
from deepwell.knowledge.context.compress import ELLIPSIS
from deepwell.knowledge.context.fitting.layout import Message, text_of
from deepwell.knowledge.context.fitting.memories import Forgotten, Memories, MemoryKey
from deepwell.knowledge.context.fitting.policy import FitOptions
from deepwell.knowledge.context.history import Recalled, on_a_line
from deepwell.knowledge.context.terms import facets_of
from deepwell.knowledge.context.tokens import Tokens
from deepwell.knowledge.protocols import Embedder
from deepwell.models.text.shipped import shipped

__all__ = ["Asked", "Note", "Recalling", "asked", "focused", "looked_up", "recalled"]

_SPARE: Final = 8  # tokens that the seams of a note may take
_HEADS: Final = {
    "en": shipped("From earlier in this conversation:"),
    "zh": shipped("本次对话中先前的内容："),
}
_FOCUSED: Final = {
    "en": (shipped("Answer the question from these excerpts of a longer text.\n"), "Question: "),
    "zh": (shipped("请根据以下长文摘录回答问题。\n"), "问题："),
}
# In front of a question for one fact, which small models otherwise repeat now and then; of several they then tell one alone.
_ONE_FACT: Final = {
    "en": shipped("Answer the question in a sentence, from these excerpts of a longer text.\n"),
    "zh": shipped("请根据以下长文摘录，用一句话回答问题。\n"),
}


def focused(query: str) -> tuple[str, str]:
    """Returns the words in front of the few sentences that stand out for a question, and those in front of the question."""
    language = language_of(query)
    head, label = _FOCUSED[language]
    return (_ONE_FACT[language] if len(facets_of(query)) == 1 else head), label


@dataclass(frozen=True, slots=True)
class Recalling:
    """Means to recall passages: the memories of a process, the owner's key, and the embedder."""

    memories: Memories
    key: MemoryKey
    embedder: Embedder


@dataclass(frozen=True, slots=True)
class Asked:
    """A user message, the question in it, the tokens that passages for it may have, and those that may suffice."""

    index: int
    query: str
    budget: int
    focus: int | None = None


def asked(index: int, query: str, room: int, options: FitOptions) -> Asked:
    """Returns a question with the tokens that its passages may have."""
    parts = max(1, len(facets_of(query)) - 1)
    return Asked(
        index, query, min(options.recall_tokens, options.part_tokens * parts, room // 4), options.focus_tokens
    )


@dataclass(frozen=True, slots=True)
class Note:
    """Text in front of a user message.

    Attributes:
        index: number of that message.
        text: a head and the passages.
        stretches: number of a forgotten message, start and end of each passage.
        tokens: tokens of `text`, about.
        label: words between it and the message's own text.
    """

    index: int
    text: str
    stretches: tuple[tuple[int, int, int], ...]
    tokens: int
    label: str = ""


class _Past:
    """Messages to recall from, those with text."""

    def __init__(
        self, recalling: Recalling, tokens: Tokens, messages: Sequence[Message], at: Sequence[int]
    ) -> None:
        self._recalling = recalling
        self._tokens = tokens
        self._said = [(index, text) for index in at if (text := text_of(messages[index])) and text.strip()]
        self._forgotten = [Forgotten(str(messages[index]["role"]), text) for index, text in self._said]

    async def note(
        self, one: Asked, head: str, shown: frozenset[int] = frozenset()
    ) -> tuple[Note, Recalled] | None:
        """Returns the passages for a question behind a head, or None if there is nothing to recall or no room."""
        size = self._tokens.count(head) + _SPARE
        if not self._said or one.budget <= size:
            return None
        found = await self._recalling.memories.recall(
            self._recalling.key,
            self._forgotten,
            one.query,
            one.budget - size,
            tokens=self._tokens,
            embedder=self._recalling.embedder,
            focus=one.focus,
            shown=shown,
        )
        stretches = tuple((self._said[part.turn][0], part.start, part.end) for part in found.passages)
        return Note(one.index, f"{head}\n{found.text}", stretches, size + found.tokens), found


async def recalled(
    recalling: Recalling,
    tokens: Tokens,
    messages: Sequence[Message],
    gone: Sequence[int],
    questions: Sequence[Asked],
) -> list[Note]:
    """Returns the notes of questions, in order. A passage that stands in front of one question is not repeated for the next.

    Args:
        gone: numbers of the messages that are forgotten.
        questions: those to recall for, the oldest first.
    """
    history = _Past(recalling, tokens, messages, gone)
    notes: list[Note] = []
    shown: frozenset[int] = frozenset()
    for one in questions:
        made = await history.note(one, _HEADS[language_of(one.query)], shown)
        if made is None:
            continue
        note, found = made
        shown |= found.sentences
        if note.stretches:
            notes.append(note)
    return notes


async def looked_up(
    recalling: Recalling,
    tokens: Tokens,
    messages: Sequence[Message],
    before: Sequence[int],
    one: Asked,
    least: float,
) -> Note | None:
    """Returns the few sentences of a conversation that stand out for a question; None: there are none.

    The note says that it is excerpts, and its label that the message's own text is the question: small models then answer it.

    Args:
        before: numbers of the messages in front of the question.
        least: share of each part of the question that one sentence has to cover.
    """
    head, label = focused(one.query)
    made = await _Past(recalling, tokens, messages, before).note(one, head)
    if made is None:
        return None
    note, found = made
    if not found.passages or found.standing < least:
        return None
    # What others said stands behind their role: a result of a tool is foreign here too.
    heads = ("" if one.role == "user" else f"[{one.role}] " for one in found.passages)
    shown = (f"{ELLIPSIS} {on_a_line(one.text, one.role)} {ELLIPSIS}" for one in found.passages)
    text = "\n".join((head, *map("".join, zip(heads, shown, strict=True))))
    return replace(note, text=text, tokens=tokens.count(text), label=label)
