"""`explained`: passages that tell by which rankings they were found, and with what scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from deepwell.knowledge.documents import ArmScore, Passage, Scores
from deepwell.knowledge.index.protocol import Hits

__all__ = ["explained", "explained_by_meaning", "with_rerank"]


class _Arms(Protocol):
    """The rankings of one search. None: that one was not made."""

    @property
    def lexical(self) -> Hits | None: ...
    @property
    def dense(self) -> Hits | None: ...
    @property
    def translated(self) -> Hits | None: ...


def explained(passages: Sequence[Passage], arms: _Arms) -> list[Passage]:
    """Returns the passages of a search, which nothing has reranked yet, with their place in each of its rankings."""
    lexical, dense, translated = map(_places, (arms.lexical, arms.dense, arms.translated))
    return [
        replace(
            one,
            scores=Scores(one.score, lexical.get(one.key), dense.get(one.key), translated.get(one.key)),
        )
        for one in passages
    ]


def explained_by_meaning(
    passages: Sequence[Passage], nearest: Sequence[int], cosines: Sequence[float]
) -> list[Passage]:
    """Returns passages of live sources, which meaning alone ranks, with their place among the `nearest` keys."""
    ranked = enumerate(zip(nearest, cosines, strict=True), 1)
    places = {key: ArmScore(rank, cosine) for rank, (key, cosine) in ranked}
    return [replace(one, scores=Scores(one.score, dense=places.get(one.key))) for one in passages]


def with_rerank(passages: Sequence[Passage], scores: Sequence[float]) -> list[Passage]:
    """Returns passages of which the first, as many as there are scores, tell the reranker's; only those that tell any."""
    judged = [
        one if one.scores is None else replace(one, scores=replace(one.scores, rerank=score))
        for one, score in zip(passages, scores, strict=False)
    ]
    return [*judged, *passages[len(judged) :]]


def _places(hits: Hits | None) -> dict[int, ArmScore]:
    if hits is None:
        return {}
    pairs = zip(hits.keys.tolist(), hits.scores.tolist(), strict=True)
    return {key: ArmScore(rank, score) for rank, (key, score) in enumerate(pairs, 1)}
