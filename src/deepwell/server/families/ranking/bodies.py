"""The bodies of reranking and scoring."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "PairScore",
    "RankedDocument",
    "RankedText",
    "Ranking",
    "RankingUsage",
    "ScoreList",
]


class RankedText(Struct):
    """The text of a document."""

    text: str


class RankedDocument(Struct):
    """A document with its relevance to the query."""

    index: int  # in the request
    relevance_score: float
    document: RankedText | UnsetType = UNSET


class RankingUsage(Struct):
    """The tokens that were computed."""

    prompt_tokens: int
    total_tokens: int


class Ranking(Struct):
    """The documents, most relevant first."""

    id: str
    model: str
    method: str
    results: list[RankedDocument]
    usage: RankingUsage


class PairScore(Struct, tag_field="object", tag="score"):
    """The score of one pair of texts."""

    index: int
    score: float


class ScoreList(Struct, tag_field="object", tag="list"):
    """The scores of all pairs, in order."""

    id: str
    created: int
    model: str
    method: str
    data: list[PairScore]
    usage: RankingUsage
