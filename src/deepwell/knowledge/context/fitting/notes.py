"""`recalled`: the passages of forgotten turns that stand in front of the questions of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deepwell.knowledge.answer.text import language_of
from deepwell.knowledge.context.fitting.layout import Message, text_of
from deepwell.knowledge.context.fitting.memories import Forgotten, Memories, MemoryKey
from deepwell.knowledge.context.fitting.policy import FitOptions
from deepwell.knowledge.context.terms import facets_of
from deepwell.knowledge.context.tokens import Tokens
from deepwell.knowledge.protocols import Embedder

__all__ = ["Asked", "Note", "Recalling", "asked", "recalled"]

_SPARE: Final = 8  # tokens that the seams of a note may take
_HEADS: Final = {
    "en": "From earlier in this conversation:",
    "zh": "本次对话中先前的内容：",
}


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
    """

    index: int
    text: str
    stretches: tuple[tuple[int, int, int], ...]
    tokens: int


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
    said = [(at, text) for at in gone if (text := text_of(messages[at])) and text.strip()]
    if not said:
        return []
    forgotten = [Forgotten(str(messages[at]["role"]), text) for at, text in said]
    found: list[Note] = []
    shown: frozenset[int] = frozenset()
    for one in questions:
        head = _HEADS[language_of(one.query)]
        size = tokens.count(head) + _SPARE
        if one.budget <= size:
            continue
        passages = await recalling.memories.recall(
            recalling.key,
            forgotten,
            one.query,
            one.budget - size,
            tokens=tokens,
            embedder=recalling.embedder,
            focus=one.focus,
            shown=shown,
        )
        shown |= passages.sentences
        if passages.passages:
            stretches = tuple((said[part.turn][0], part.start, part.end) for part in passages.passages)
            found.append(Note(one.index, f"{head}\n{passages.text}", stretches, size + passages.tokens))
    return found
