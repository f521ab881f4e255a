"""Reranking (`POST /rerank`, `/v1/rerank`, `/v2/rerank`) and scoring (`POST /score`, `/v1/score`)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.server.access.principal import tenant_of
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.ranking.bodies import (
    PairScore,
    RankedDocument,
    RankedText,
    Ranking,
    RankingUsage,
    ScoreList,
)
from deepwell.server.families.ranking.comparison import (
    Comparison,
    compare_documents,
    compare_pairs,
    method_of,
)
from deepwell.server.families.ranking.schema import RerankRequest, ScoreRequest
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.sse import Answer
from deepwell.server.observe.generation import embedding
from deepwell.storage.clock import shared_time

__all__ = ["RERANK_PATHS", "SCORE_PATHS", "router"]

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")
SCORE_PATHS = ("/score", "/v1/score")
_encode = msgspec.json.Encoder().encode


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    async def find(request: Request, name: str | None) -> tuple[Answering, str]:
        return await context.find(name or context.main.model.name, tenant_of(request))

    async def rerank(request: Request, body: RerankRequest) -> Response:
        answering, adapter = await find(request, body.model)
        method = method_of(answering.model, body.method)
        comparison = await compare_documents(answering.model, body, method)
        await answering.gate.embedding(comparison.tokens)

        async def work() -> bytes:
            scores = await _scores(answering, comparison, adapter, "rerank")
            used = RankingUsage(comparison.tokens, comparison.tokens)
            name = body.model or answering.model.name
            return _encode(Ranking(f"rerank-{uuid.uuid4().hex}", name, method, _ranked(body, scores), used))

        return Answer(work(), context.stopped)

    async def score(request: Request, body: ScoreRequest) -> Response:
        answering, adapter = await find(request, body.model)
        method = method_of(answering.model, body.method)
        comparison = await compare_pairs(answering.model, body, method)
        await answering.gate.embedding(comparison.tokens)

        async def work() -> bytes:
            scores = await _scores(answering, comparison, adapter, "score")
            used = RankingUsage(comparison.tokens, comparison.tokens)
            name = body.model or answering.model.name
            data = [PairScore(index, score) for index, score in enumerate(scores)]
            return _encode(
                ScoreList(f"score-{uuid.uuid4().hex}", int(shared_time()), name, method, data, used)
            )

        return Answer(work(), context.stopped)

    for path in RERANK_PATHS:
        routes.post(path, summary="Rank documents by their relevance to a query", response_model=None)(rerank)
    for path in SCORE_PATHS:
        routes.post(path, summary="Score pairs of texts", response_model=None)(score)
    return routes


async def _scores(answering: Answering, comparison: Comparison, adapter: str, operation: str) -> list[float]:
    with embedding(answering.metrics, answering.model.name, comparison.tokens, operation):
        return await comparison.scores(answering.model, adapter)


def _ranked(body: RerankRequest, scores: Sequence[float]) -> list[RankedDocument]:
    """Returns the best documents, most relevant first; of equal ones, the one that was sent first."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    results = [RankedDocument(index, scores[index]) for index in order[: body.top_n or None]]
    if body.return_documents is not False:
        for result in results:
            result.document = RankedText(body.documents[result.index])
    return results
