"""`History`: the text that left a conversation's window, indexed as it leaves, and recalled by the turn that needs it.

NOTE: time. A turn is cut into overlapping chunks, which are embedded when it is added, that is when it is evicted. A recall
embeds the question alone and compares it with every chunk and sentence: those of 64k tokens take tens of milliseconds.

NOTE: ranking. A sentence has its own words and the vector of the nearest chunk that it is in; both are fused as in `scores`.
Sentences are chosen as in `select`, so that each part of a question that asks for several facts finds its own. On the
development haystacks, 1,000 tokens of whole chunks hold 92 % of the facts of such questions, and of sentences 99 %. The
statistics of words are those of the sentences that are there, so the same history gives the same ranking whatever was forgotten
before.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.chunk import chunk_document
from deepwell.knowledge.context.compress import ELLIPSIS
from deepwell.knowledge.context.pieces import Source, cut, leans
from deepwell.knowledge.context.scores import EMBEDDED, EmbeddingScorer, best, fused, nearness
from deepwell.knowledge.context.select import CHOICE, Choice, choose, evidence, spare, surrounded
from deepwell.knowledge.context.terms import coverage, facets_of, terms_of
from deepwell.knowledge.context.tokens import Tokens, tokens_between
from deepwell.knowledge.documents import Document, Section
from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.protocols import Embedder

__all__ = ["History", "HistoryOptions", "Recalled", "RecalledPassage", "on_a_line"]

_BREAK: Final = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_SENTENCE_TOKENS = 240
"""A longer sentence is recalled clause by clause, as `pieces` cuts it."""
_VECTORS: Final = 256  # of sentences that a history keeps: 0.4 MB at 384 dimensions


@dataclass(frozen=True, slots=True)
class HistoryOptions:
    """Sizes of a history.

    Attributes:
        chunk_tokens: most tokens of a chunk, by the embedder's tokenizer.
        overlap_tokens: most tokens that two chunks of a turn share.
        most_tokens: tokens that are remembered. The oldest turns beyond them are forgotten, and counted.
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
    """Passages that a question brings back, in the order in which they were said.

    Attributes:
        passages: stretches that do not overlap.
        text: the passages of each turn behind its number, with an ellipsis where something of the turn is left out.
        tokens: tokens of `text`.
        sentences: numbers of the sentences in it, for later calls.
        standing: share of the least covered part of the question that one sentence has, where a few stand out for each part and
            only those, with what is around them, were recalled; 0: the budget was filled.
    """

    passages: tuple[RecalledPassage, ...]
    text: str
    tokens: int
    sentences: frozenset[int] = frozenset()
    standing: float = 0.0

    @property
    def passage_tokens(self) -> int:
        """Tokens of the history that were recalled, without turn numbers and ellipses."""
        return sum(one.tokens for one in self.passages)


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """A turn, or a part of one, that is remembered.

    Attributes:
        source: its text, with tokens and sentences.
        begin: offset in front of which its text was forgotten when it was added.
        tokens: tokens from there on.
        chunks, sentences: numbers of each.
    """

    number: int
    role: str
    source: Source
    begin: int
    tokens: int
    chunks: int
    sentences: int


@dataclass(frozen=True, slots=True, eq=False)
class _Sentence:
    """A sentence of a turn, its words, and the keys of the first and the last chunk that hold some of it."""

    turn: _Turn
    start: int
    end: int
    tokens: int
    terms: Counter[str]
    chunks: tuple[int, int]


_Span = tuple[_Turn, int, int]  # start and end in the text of a turn


class History:
    """Text that was evicted from one conversation. It belongs to one event loop, and needs no server and no files.

    Args:
        tokens: counts as the model that reads what is recalled.
        embedder: embeds chunks and questions.

    Attributes:
        tokens: tokens that are remembered.
        forgotten_tokens: tokens that were added, and are no longer remembered.
    """

    def __init__(
        self, tokens: Tokens, embedder: Embedder, options: HistoryOptions = HistoryOptions()
    ) -> None:
        self._tokens = tokens
        self._embedder = embedder
        self._options = options
        self._dense = EmbeddingScorer(embedder, most=_VECTORS)
        self._index = FlatIndex.open(embedder.dimensions)
        self._turns: deque[_Turn] = deque()
        self._sentences: list[_Sentence] = []
        self._first = 0  # key of the first chunk that is there
        self._begun = 0  # number of the first sentence that is there
        self._adding = asyncio.Lock()
        self._last_turn: int | None = None
        self.tokens = 0
        self.forgotten_tokens = 0

    def __len__(self) -> int:
        """Returns the number of chunks."""
        return len(self._index)

    async def add(self, turn: int, text: str, role: str = "") -> None:
        """Adds a turn, or the next part of one, as it leaves the window. Its chunks are embedded here.

        Raises:
            ValueError: turns are not added in their order.
        """
        async with self._adding:
            if self._last_turn is not None and turn < self._last_turn:
                raise ValueError(f"turn {turn} comes after turn {self._last_turn}")
            self._last_turn = turn
            source = Source.read(text, self._tokens)
            begin = self._begin(source)
            chunks = self._chunked(text, begin)
            lost = tokens_between(source.starts, 0, begin) if chunks else len(source.starts)
            self.forgotten_tokens += lost
            if not chunks:  # nothing but space: there is nothing to remember
                return
            vectors = await self._embedder.embed([text[a:b] for a, b in chunks], "passage")
            pieces = [one for one in cut([source], _SENTENCE_TOKENS) if one.start >= begin]
            added = _Turn(turn, role, source, begin, len(source.starts) - lost, len(chunks), len(pieces))
            key = self._first + len(self._index)
            self._index.add(np.arange(key, key + len(chunks), dtype=np.int64), vectors)
            edges = np.array(chunks, np.int64)  # [chunks, 2], both columns ascending
            for one in pieces:
                start, end = _trimmed(text, one.start, one.end)
                held = np.searchsorted(edges[:, 1], start, "right"), np.searchsorted(edges[:, 0], end) - 1
                near = (key + min(int(held[0]), len(chunks) - 1), key + max(int(held[1]), 0))
                words = terms_of(text[start:end])
                self._sentences.append(_Sentence(added, start, end, one.tokens, words, near))
            self._turns.append(added)
            self.tokens += added.tokens
            self._forget()

    async def recall(
        self,
        query: str,
        budget: int,
        *,
        choice: Choice = CHOICE,
        focus: int | None = None,
        before: int | None = None,
        shown: Set[int] = frozenset(),
    ) -> Recalled:
        """Returns the sentences that a question needs, within a budget of tokens, in the order in which they were said.

        Neighbouring ones are joined to a passage. An empty history, or a budget too small for any sentence, recalls nothing.

        Args:
            focus: tokens that suffice where a few sentences stand out; see `compress`.
            before: number of the first turn that is not looked at; None: all are.
            shown: numbers of sentences that the reader has before it. They take their part of the budget if the question needs
                them, and are not repeated.
        """
        turns = [one for one in self._turns if before is None or one.number < before]
        sentences = self._sentences[: sum(one.sentences for one in turns)]
        if not sentences or not query.strip():
            return Recalled((), "", 0)
        first, count = self._first, sum(one.chunks for one in turns)
        facets = facets_of(query)
        covered = coverage([terms_of(one) for one in facets], [one.terms for one in sentences])
        cosines = np.zeros((len(facets), count))
        edges = np.array([one.chunks for one in sentences], np.int64) - first
        allowed = np.arange(first, first + count, dtype=np.int64)
        for row, vector in enumerate(await self._embedder.embed(facets, "query")):
            hits = self._index.search(vector, count, allowed=allowed)
            cosines[row, hits.keys - first] = hits.scores
        near = nearness(np.maximum(cosines[:, edges[:, 0]], cosines[:, edges[:, 1]]))
        costs = np.array([one.tokens for one in sentences], np.int64)
        scores = fused(near, covered)
        known = frozenset(one - self._begun for one in shown)
        precise = scores if focus is None else await self._by_sentence(facets, sentences, covered)
        found = evidence(precise) if focus is not None else []
        if focus is not None and found and int(costs[found].sum()) <= budget:

            def leaning(index: int) -> bool:
                one = sentences[index]
                return leans(one.turn.source.text[one.start : one.end])

            numbers = [one.turn.number for one in sentences]
            left = spare(precise, found, focus - int(costs[found].sum()))
            order = surrounded(found, numbers, costs, leaning, left)
            standing = float(covered[1 if len(facets) > 1 else 0 :, found].max(1).min())
            return replace(self._fitted(sentences, order, budget, known), standing=standing)
        head = self._tokens.count(_head(sentences[-1].turn)) + 1
        order = choose(scores, costs, budget, choice, extra=_Seams(sentences, head))
        return self._fitted(sentences, order, budget, known)

    async def _by_sentence(
        self, facets: Sequence[str], sentences: Sequence[_Sentence], covered: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Returns scores, [facets, sentences], with vectors of the sentences themselves, of the best by words.

        Vectors of chunks do not tell two sentences of one chunk apart.
        """
        chosen = best(covered, EMBEDDED)
        texts = [one.turn.source.text[one.start : one.end] for one in (sentences[index] for index in chosen)]
        near = np.zeros_like(covered)
        near[:, chosen] = await self._dense.score(facets, texts)
        return fused(near, covered)

    def _begin(self, source: Source) -> int:
        """Returns the offset from which a turn is remembered: 0, or a sentence of one that alone is too long."""
        over = len(source.starts) - self._options.most_tokens
        if over <= 0:
            return 0
        least = int(source.starts[over])
        return next((start for start, _ in source.sentences if start >= least), len(source.text))

    def _chunked(self, text: str, begin: int) -> list[tuple[int, int]]:
        document = Document(text, (Section(begin, len(text)),), "text/plain")
        most = min(self._options.chunk_tokens, self._embedder.max_tokens)
        overlap = min(self._options.overlap_tokens, most // 2)
        found = chunk_document(document, self._embedder, max_tokens=most, overlap_tokens=overlap)
        return [(one.start, one.end) for one in found]

    def _forget(self) -> None:
        """Forgets the oldest turns while there are too many tokens."""
        chunks = sentences = 0
        while self.tokens > self._options.most_tokens and len(self._turns) > 1:
            gone = self._turns.popleft()
            self.tokens -= gone.tokens
            self.forgotten_tokens += gone.tokens
            chunks += gone.chunks
            sentences += gone.sentences
        if sentences:
            self._index.remove(np.arange(self._first, self._first + chunks, dtype=np.int64))
            del self._sentences[:sentences]
            self._first += chunks
            self._begun += sentences

    def _fitted(
        self, sentences: Sequence[_Sentence], order: Sequence[int], budget: int, shown: Set[int]
    ) -> Recalled:
        """Returns the most of the chosen sentences that fits when it is counted as a whole, without those that are shown."""
        kept = len(order)
        while kept:
            found = self._shown(_joined([sentences[index] for index in sorted(order[:kept])]))
            over = found.tokens - budget
            if over <= 0:
                new = sorted(index for index in order[:kept] if index not in shown)
                if len(new) < kept:
                    found = self._shown(_joined([sentences[index] for index in new]))
                return replace(found, sentences=frozenset(self._begun + index for index in new))
            while kept and over > 0:
                kept -= 1
                over -= max(sentences[order[kept]].tokens, 1)
        return Recalled((), "", 0)

    def _shown(self, spans: Sequence[_Span]) -> Recalled:
        """Returns stretches of turns, in order, as they are shown."""
        lines: list[str] = []
        for number, (turn, start, end) in enumerate(spans):
            text = turn.source.text
            if not number or spans[number - 1][0] is not turn:
                lines.append(f"{_head(turn)} {f'{ELLIPSIS} ' if text[:start].strip() else ''}")
            lines[-1] += on_a_line(text[start:end], turn.role)
            goes_on = number + 1 < len(spans) and spans[number + 1][0] is turn
            if text[end:].strip():
                lines[-1] += f" {ELLIPSIS} " if goes_on else f" {ELLIPSIS}"
        shown = "\n".join(lines)
        passages = tuple(
            RecalledPassage(
                turn.number, turn.role, a, b, turn.source.text[a:b], tokens_between(turn.source.starts, a, b)
            )
            for turn, a, b in spans
        )
        return Recalled(passages, shown, self._tokens.count(shown))


class _Seams:
    """Tokens that a sentence costs besides its own: the number of its turn, and the ellipses that it adds or saves."""

    def __init__(self, sentences: Sequence[_Sentence], head: int) -> None:
        self._sentences = sentences
        self._head = head

    def __call__(self, index: int, taken: set[int]) -> int:
        turn = self._sentences[index].turn
        last = len(self._sentences) - 1
        near = sum(
            not 0 <= one <= last or one in taken or self._sentences[one].turn is not turn
            for one in (index - 1, index + 1)
        )
        if not any(self._sentences[one].turn is turn for one in taken):
            return self._head + 2 - near
        return 1 - near


def _joined(sentences: Sequence[_Sentence]) -> list[_Span]:
    """Returns the stretches that sentences in order cover; those with but space between them are one."""
    spans: list[_Span] = []
    for one in sentences:
        turn = one.turn
        if spans and spans[-1][0] is turn and not turn.source.text[spans[-1][2] : one.start].strip():
            spans[-1] = (turn, spans[-1][1], one.end)
        else:
            spans.append((turn, one.start, one.end))
    return spans


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Returns a stretch without the space around it."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def on_a_line(passage: str, role: str) -> str:
    """Returns a passage as it is shown. What a tool returned has no line break: none of its lines can pass for a turn."""
    return passage if role in ("", "user", "assistant") else _BREAK.sub(" ", passage)


def _head(turn: _Turn) -> str:
    return f"[{turn.number}{f' {turn.role}' if turn.role else ''}]"
