"""`SentenceScorer` and its kinds: how much each sentence of a text has of what a question needs.

NOTE: fusion. relevance = 0.1 * nearness + 0.9 * coverage. Cosines of one embedder lie in a narrow band and are stretched over
the candidates of a question, while coverage is absolute, so that vectors decide among sentences that have the same words of the
question, or none. The weight was set on the development split of `bench/workloads/context`. There 0.3, which is best for
passages of documents in `knowledge.fuse`, loses a point of the facts: vectors hardly tell two places with a fact of one
form apart.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.context.terms import coverage, terms_of
from deepwell.knowledge.protocols import Embedder

__all__ = [
    "EMBEDDED",
    "CascadeScorer",
    "EmbeddingScorer",
    "FusedScorer",
    "LexicalScorer",
    "SentenceScorer",
    "best",
    "fused",
    "nearness",
]

DENSE_WEIGHT: Final = 0.1
EMBEDDED: Final = 64
"""Sentences of which vectors are made for a question, the best by words: more would cost more time than the answer."""
_REMEMBERED: Final = 16_384  # sentences: their vectors take 25 MB at 384 dimensions


T = TypeVar("T")


class _Remembered(Generic[T]):
    """Something of each of the texts that were used last. Texts are remembered by their hash alone."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, T] = OrderedDict()

    def get(self, text: str) -> T | None:
        key = _key(text)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, text: str, value: T) -> T:
        self._kept[_key(text)] = value
        return value

    def shrink(self) -> None:
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class SentenceScorer(Protocol):
    """Scores sentences by what each facet of a question needs."""

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns scores from 0 to 1, float64 [facets, texts]. The first facet is the whole question."""
        ...


class LexicalScorer:
    """A scorer by shared words, each weighted by its rarity among the texts themselves. It needs no model.

    Words of sentences are remembered as vectors are; see `EmbeddingScorer`.
    """

    def __init__(self) -> None:
        self._seen: _Remembered[Counter[str]] = _Remembered()

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        seen = self._seen
        found = [seen.get(text) or seen.keep(text, terms_of(text)) for text in texts]
        seen.shrink()
        return coverage([terms_of(one) for one in facets], found)


class EmbeddingScorer:
    """A scorer by the cosine of vectors.

    Vectors of sentences are remembered: a text that is asked about again costs its question alone.

    Args:
        most: vectors that are remembered.
    """

    def __init__(self, embedder: Embedder, *, most: int = _REMEMBERED) -> None:
        self._embedder = embedder
        self._seen: _Remembered[NDArray[np.float32]] = _Remembered(most)

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        vectors = await self.vectors(texts)
        queries = await self._embedder.embed(facets, "query")
        return nearness(np.einsum("fd,td->ft", queries, vectors).astype(np.float64))

    async def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the vectors of texts, float32 [texts, dimensions]. Those that were not seen before are computed."""
        if not texts:
            return np.empty((0, self._embedder.dimensions), np.float32)
        seen = self._seen
        found = {text: vector for text in texts if (vector := seen.get(text)) is not None}
        if missing := [text for text in dict.fromkeys(texts) if text not in found]:
            made = await self._embedder.embed(missing, "passage")
            found.update((text, seen.keep(text, one)) for text, one in zip(missing, made, strict=True))
        seen.shrink()
        return np.stack([found[text] for text in texts])


class FusedScorer:
    """A scorer by words and vectors together.

    Args:
        embedder: embeds the sentences.
        most: sentences that are embedded for one question, the best by words; None: all. The others count with their words
            alone. Embedding 64k tokens takes seconds where they were not embedded before.
    """

    def __init__(self, embedder: Embedder, *, most: int | None = None) -> None:
        self._lexical = LexicalScorer()
        self._dense = EmbeddingScorer(embedder)
        self._most = most

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        covered = await self._lexical.score(facets, texts)
        chosen = best(covered, self._most)
        near = np.zeros_like(covered)
        if chosen:
            near[:, chosen] = await self._dense.score(facets, [texts[index] for index in chosen])
        return fused(near, covered)


class CascadeScorer:
    """A scorer that asks a second, costly one about the best texts of the first.

    Both are stretched over those texts, facet by facet, and count the same. Texts that the second did not see keep their order
    behind all that it saw.

    Args:
        first: scores every text.
        second: scores the best ones.
        most: texts that the second is asked about.
    """

    def __init__(self, first: SentenceScorer, second: SentenceScorer, *, most: int) -> None:
        self._first = first
        self._second = second
        self._most = most

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        found = await self._first.score(facets, texts)
        chosen = best(found, self._most)
        if not chosen:
            return found
        again = await self._second.score(facets, [texts[index] for index in chosen])
        both = found / 2
        both[:, chosen] = 0.5 + (nearness(found[:, chosen]) + nearness(again)) / 4
        return both


def fused(near: NDArray[np.float64], covered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns nearness and coverage as one score, [facets, texts]."""
    return DENSE_WEIGHT * near + (1 - DENSE_WEIGHT) * covered


def nearness(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns scores stretched over the texts so that each facet's cover 0 to 1; all 1 where they are equal."""
    if not scores.shape[1]:
        return scores
    low, high = scores.min(1, keepdims=True), scores.max(1, keepdims=True)
    return np.where(high > low, (scores - low) / np.where(high > low, high - low, 1.0), 1.0)


def best(scores: NDArray[np.float64], most: int | None) -> list[int]:
    """Returns the places of the best texts over all facets, ascending; equal ones in the order of the text."""
    best = scores.max(0)
    order = np.argsort(-best, kind="stable")[:most]
    return sorted(order.tolist())
