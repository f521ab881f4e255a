"""`SentenceScorer` and its kinds: how much each sentence of a text has of what a question needs.

NOTE: fusion. relevance = 0.3 * nearness + 0.7 * coverage, as in `knowledge.fuse`: cosines of one embedder lie in a narrow
band and are stretched over the candidates of a question, while coverage is absolute.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.context.terms import coverage, terms_of
from deepwell.knowledge.protocols import Embedder

__all__ = [
    "CascadeScorer",
    "EmbeddingScorer",
    "FusedScorer",
    "LexicalScorer",
    "SentenceScorer",
    "fused",
    "nearness",
]

DENSE_WEIGHT: Final = 0.3
_REMEMBERED: Final = 16_384  # vectors of sentences: 25 MB at 384 dimensions


class SentenceScorer(Protocol):
    """Scores sentences by what each facet of a question needs."""

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns scores from 0 to 1, float64 [facets, texts]. The first facet is the whole question."""
        ...


class LexicalScorer:
    """A scorer by shared words, each weighted by its rarity among the texts themselves. It needs no model."""

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        return coverage([terms_of(one) for one in facets], [terms_of(one) for one in texts])


class EmbeddingScorer:
    """A scorer by the cosine of vectors.

    Vectors of sentences are remembered, up to 16,384 of them: a text that is asked about again costs its question alone.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._seen: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        vectors = await self.vectors(texts)
        queries = await self._embedder.embed(facets, "query")
        return nearness(np.einsum("fd,td->ft", queries, vectors).astype(np.float64))

    async def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the vectors of texts, float32 [texts, dimensions]. Those that were not seen before are computed."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._seen}
        found = {key: self._seen[key] for key in keys if key in self._seen}
        if missing:
            made = await self._embedder.embed(list(missing.values()), "passage")
            found.update(zip(missing, made, strict=True))
        for key in dict.fromkeys(keys):
            self._seen[key] = found[key]
            self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        if not keys:
            return np.empty((0, self._embedder.dimensions), np.float32)
        return np.stack([found[key] for key in keys])


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
        chosen = _best(covered, self._most)
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
        chosen = _best(found, self._most)
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


def _best(scores: NDArray[np.float64], most: int | None) -> list[int]:
    """Returns the places of the best texts over all facets, ascending; equal ones in the order of the text."""
    best = scores.max(0)
    order = np.argsort(-best, kind="stable")[:most]
    return sorted(order.tolist())
