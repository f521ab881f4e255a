"""`History`: the text that left a conversation's window, indexed as it leaves, and recalled by the turn that needs it.

NOTE: time. Chunks are embedded when they are added, which is when their turn is evicted. A recall embeds the question alone and
compares it with every chunk: 700 of them, of 64k tokens, take milliseconds.

NOTE: ranking. Words and vectors are fused as in `scores`, over all chunks of the conversation; chunks are then chosen as in
`select`, so that each part of a question that asks for several facts finds its own. The statistics of words are those of the
chunks that are there, so the same history gives the same ranking whatever was forgotten before and however it was added.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.chunk import chunk_document
from deepwell.knowledge.context.compress import ELLIPSIS
from deepwell.knowledge.context.scores import fused, nearness
from deepwell.knowledge.context.select import CHOICE, Choice, choose
from deepwell.knowledge.context.terms import coverage, facets_of, terms_of
from deepwell.knowledge.context.tokens import Tokens, tokens_between
from deepwell.knowledge.documents import Document, Section
from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.protocols import Embedder

__all__ = ["History", "HistoryOptions", "Recalled", "RecalledPassage"]


@dataclass(frozen=True, slots=True)
class HistoryOptions:
    """Sizes of a history.

    Attributes:
        chunk_tokens: most tokens of a chunk, by the embedder's tokenizer.
        overlap_tokens: most tokens that two chunks of a turn share.
        most_tokens: tokens that are remembered; the oldest chunks beyond them are forgotten, and counted.
    """

    chunk_tokens: int = 120
    overlap_tokens: int = 24
    most_tokens: int = 1 << 18


@dataclass(frozen=True, slots=True)
class RecalledPassage:
    """A stretch of a turn.

    Attributes:
        turn: number of the turn.
        role: who spoke, as it was added.
        start, end: offsets in the turn's text.
        text: the text between them.
        tokens: tokens of the turn that begin in it.
    """

    turn: int
    role: str
    start: int
    end: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a question brings back, in the order in which it was said.

    Attributes:
        passages: stretches that do not overlap.
        text: one line or more a passage, behind the number of its turn, with an ellipsis where the turn goes on.
        tokens: tokens of `text`.
    """

    passages: tuple[RecalledPassage, ...]
    text: str
    tokens: int

    @property
    def passage_tokens(self) -> int:
        """Tokens of the history that were recalled, without turn numbers and ellipses."""
        return sum(one.tokens for one in self.passages)


@dataclass(slots=True)
class _Turn:
    number: int
    role: str
    text: str
    starts: NDArray[np.int32]
    begin: int = 0  # offset in front of which all is forgotten


@dataclass(frozen=True, slots=True)
class _Chunk:
    turn: _Turn
    start: int
    end: int
    terms: Counter[str]


class History:
    """Text that was evicted from one conversation. It belongs to one event loop, and needs no server and no files.

    Args:
        tokens: counts as the model that reads what is recalled.
        embedder: embeds chunks and questions.
    """

    def __init__(
        self, tokens: Tokens, embedder: Embedder, options: HistoryOptions = HistoryOptions()
    ) -> None:
        self._tokens = tokens
        self._embedder = embedder
        self._options = options
        self._index = FlatIndex.open(embedder.dimensions)
        self._chunks: list[_Chunk] = []
        self._first = 0  # key of the first chunk that is there
        self._adding = asyncio.Lock()
        self._last_turn: int | None = None
        self.tokens = 0
        """Tokens of the turns that are remembered."""
        self.forgotten_tokens = 0
        """Tokens that were added, and are no longer remembered."""

    def __len__(self) -> int:
        """Returns the number of chunks."""
        return len(self._chunks)

    async def add(self, turn: int, text: str, role: str = "") -> None:
        """Adds a turn, or the next part of one, as it leaves the window. Its chunks are embedded here.

        Raises:
            ValueError: turns are not added in their order.
        """
        async with self._adding:
            if self._last_turn is not None and turn < self._last_turn:
                raise ValueError(f"turn {turn} comes after turn {self._last_turn}")
            starts = self._tokens.starts(text).astype(np.int32)
            document = Document(text, (Section(0, len(text)),), "text/plain")
            options = self._options
            found = chunk_document(
                document,
                self._embedder,
                max_tokens=min(options.chunk_tokens, self._embedder.max_tokens),
                overlap_tokens=min(options.overlap_tokens, self._embedder.max_tokens // 2),
            )
            vectors = await self._embedder.embed([one.text for one in found], "passage")
            key = self._first + len(self._chunks)
            added = _Turn(turn, role, text, starts)
            self._chunks += [_Chunk(added, one.start, one.end, terms_of(one.text)) for one in found]
            self._index.add(np.arange(key, key + len(found), dtype=np.int64), vectors)
            self._last_turn = turn
            if found:
                self.tokens += len(starts)
            else:  # nothing but space: there is nothing to remember
                self.forgotten_tokens += len(starts)
            self._forget()

    async def recall(self, query: str, budget: int, *, choice: Choice = CHOICE) -> Recalled:
        """Returns the passages that a question needs, within a budget of tokens, in the order in which they were said.

        Passages of neighbouring chunks are joined. An empty history, or a budget too small for any chunk, recalls nothing.
        """
        chunks = list(self._chunks)
        if not chunks or not query.strip():
            return Recalled((), "", 0)
        first = self._first
        facets = facets_of(query)
        covered = coverage([terms_of(one) for one in facets], [one.terms for one in chunks])
        near = np.empty_like(covered)
        vectors = await self._embedder.embed(facets, "query")
        allowed = np.arange(first, first + len(chunks), dtype=np.int64)
        for row, vector in enumerate(vectors):
            hits = self._index.search(vector, len(chunks), allowed=allowed)
            near[row] = hits.scores.min() if len(hits) else 0.0
            near[row, hits.keys - first] = hits.scores
        scores = fused(nearness(near), covered)
        costs = np.array([_size(one.turn, one.start, one.end) for one in chunks], np.int64)
        heads = self._tokens.count(_head(chunks[-1].turn)) + 2
        order = choose(scores, costs, budget, choice, extra=_Joins(chunks, heads))
        return self._fitted(chunks, order, budget)

    def _fitted(self, chunks: Sequence[_Chunk], order: Sequence[int], budget: int) -> Recalled:
        kept = len(order)
        while kept:
            passages = _passages([chunks[index] for index in sorted(order[:kept])])
            text = "\n".join(_shown(turn, one) for turn, one in passages)
            tokens = self._tokens.count(text)
            if tokens <= budget:
                return Recalled(tuple(one for _, one in passages), text, tokens)
            over = tokens - budget
            while kept and over > 0:
                kept -= 1
                chunk = chunks[order[kept]]
                over -= max(_size(chunk.turn, chunk.start, chunk.end), 1)
        return Recalled((), "", 0)

    def _forget(self) -> None:
        """Forgets the oldest chunks while there are too many tokens. The newest chunk stays."""
        count = 0
        while self.tokens > self._options.most_tokens and count + 1 < len(self._chunks):
            chunk, behind = self._chunks[count], self._chunks[count + 1]
            turn = chunk.turn
            end = behind.start if behind.turn is turn else len(turn.text)
            lost = _size(turn, turn.begin, end)
            turn.begin = end
            self.tokens -= lost
            self.forgotten_tokens += lost
            count += 1
        if count:
            gone = np.arange(self._first, self._first + count, dtype=np.int64)
            self._index.remove(gone)
            del self._chunks[:count]
            self._first += count


class _Joins:
    """Tokens that a chunk costs besides its own: the head of its passage, unless it joins one, less the overlap."""

    def __init__(self, chunks: Sequence[_Chunk], head: int) -> None:
        self._chunks = chunks
        self._head = head

    def __call__(self, index: int, taken: set[int]) -> int:
        chunk = self._chunks[index]
        extra = self._head
        for near in (index - 1, index + 1):
            if near not in taken or self._chunks[near].turn is not chunk.turn:
                continue
            other = self._chunks[near]
            a, b = max(chunk.start, other.start), min(chunk.end, other.end)
            extra -= self._head + (_size(chunk.turn, a, b) if a < b else 0)
        return extra


def _passages(chunks: Sequence[_Chunk]) -> list[tuple[_Turn, RecalledPassage]]:
    """Returns the stretches that chunks in order cover; chunks that touch, or have but space between them, are one."""
    spans: list[tuple[_Turn, int, int]] = []
    for chunk in chunks:
        turn = chunk.turn
        if spans and spans[-1][0] is turn and not turn.text[spans[-1][2] : chunk.start].strip():
            spans[-1] = (turn, spans[-1][1], max(spans[-1][2], chunk.end))
        else:
            spans.append((turn, chunk.start, chunk.end))
    return [
        (turn, RecalledPassage(turn.number, turn.role, a, b, turn.text[a:b], _size(turn, a, b)))
        for turn, a, b in spans
    ]


def _shown(turn: _Turn, passage: RecalledPassage) -> str:
    before = f"{ELLIPSIS} " if turn.text[: passage.start].strip() else ""
    behind = f" {ELLIPSIS}" if turn.text[passage.end :].strip() else ""
    return f"{_head(turn)} {before}{passage.text}{behind}"


def _head(turn: _Turn) -> str:
    return f"[{turn.number}{f' {turn.role}' if turn.role else ''}]"


def _size(turn: _Turn, start: int, end: int) -> int:
    """Returns the tokens of a turn that begin in a stretch."""
    return tokens_between(turn.starts, start, end)
