"""`Material`: the attachments of a conversation as passages, which an answer from a knowledge base rests on as well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from deepwell.server.attachments.wording import attachments_in, own_words

if TYPE_CHECKING:
    from deepwell.knowledge.documents import Passage
    from deepwell.knowledge.protocols import Embedder

__all__ = ["Material"]

_MOST: Final = 3
"""Passages of attachments that an answer reads. More of them confuse a small model, as those of a search do."""


@dataclass(frozen=True, slots=True)
class Material:
    """A conversation with attachments.

    Attributes:
        question: the last message of the user in its own words.
        new: passages of the attachments of that message. An answer reads the nearest ones, however little they are like it.
        earlier: passages of the attachments before it. They are candidates like those that a search finds.
    """

    question: str
    new: tuple[Passage, ...] = ()
    earlier: tuple[Passage, ...] = ()

    @classmethod
    async def of(cls, messages: Sequence[Mapping[str, Any]], embedder: Embedder) -> Material:
        """Returns the attachments of a conversation whose last message of a user has text."""
        texts = [str(one["content"]) for one in messages if one["role"] == "user" and one.get("content")]
        question = own_words(texts[-1])
        new = await asyncio.to_thread(_passages, texts[-1:], embedder, 0)
        earlier = await asyncio.to_thread(_passages, texts[:-1], embedder, len(new))
        return cls(
            question,
            await _nearest(question, new, embedder),
            await _nearest(question, earlier, embedder),
        )


def _passages(texts: Sequence[str], embedder: Embedder, before: int) -> list[Passage]:
    """Returns the windows of all attachments of some messages. Keys below 0 are those of no chunk in the database."""
    from deepwell.knowledge.chunk import chunk_document
    from deepwell.knowledge.documents import Document, Passage, Section

    found: list[Passage] = []
    for name, body in chain.from_iterable(map(attachments_in, texts)):
        document = Document(body, (Section(0, len(body)),), "text/plain")
        for chunk in chunk_document(document, embedder):
            key = -1 - before - len(found)
            found.append(Passage(key, "", name, 1.0, chunk.text, chunk.start, chunk.end, chunk.place))
    return found


async def _nearest(question: str, passages: Sequence[Passage], embedder: Embedder) -> tuple[Passage, ...]:
    if len(passages) <= _MOST:
        return tuple(passages)
    (asked,) = await embedder.embed([question], "query")
    vectors = await embedder.embed([one.text for one in passages], "passage")
    order = sorted(range(len(passages)), key=lambda at: -float(vectors[at] @ asked))
    return tuple(passages[at] for at in order[:_MOST])
