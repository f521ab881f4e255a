"""Searches over one or several vector stores, as `/v1/vector_stores` and the tool `file_search` ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from deepwell.errors import InvalidRequest
from deepwell.knowledge.documents import Passage, Scores
from deepwell.server.context import ServerContext
from deepwell.server.families.vector_stores.bodies import (
    ArmScore,
    PassageScores,
    SearchPage,
    SearchResult,
    TextContent,
)
from deepwell.server.families.vector_stores.described import media_range
from deepwell.server.reranking import reranker_of
from deepwell.storage.database import Tenant

if TYPE_CHECKING:
    from deepwell.knowledge.search import Ranker, SearchOptions

__all__ = ["search_options", "search_page", "search_stores"]

_RESULTS = 10  # if a request names no number


def search_options(
    context: ServerContext,
    tenant: Tenant,
    *,
    limit: int | None,
    filters: Mapping[str, Any] | None,
    ranker: str | None,
    min_score: float | None,
    searches: int = 1,
    arms: Ranker = "hybrid",
    param: str = "filters",
    explain: bool = False,
) -> SearchOptions:
    """Returns a request's parameters as options of a search.

    The rankers "auto", which is the default, and OpenAI's named one stand for the server's own: with the model of the setting
    `knowledge_reranker`, if there is one. "none" is the order by words and vectors alone.

    Args:
        searches: number of searches of the request, one for each query and store.
        explain: whether passages tell why they stand where they do.

    Raises:
        InvalidRequest: the filter cannot be read. `param` names it.
    """
    from deepwell.knowledge.filters import check_filter
    from deepwell.knowledge.search import SearchOptions

    if filters is not None:
        check_filter(filters, param)
    reranker = None if ranker == "none" else reranker_of(context, tenant, searches)
    return SearchOptions(limit or _RESULTS, arms, min_score or 0.0, filters, reranker, explain)


async def search_stores(
    context: ServerContext,
    tenant: Tenant,
    store_ids: Sequence[str],
    queries: Sequence[str],
    options: SearchOptions,
) -> list[Passage]:
    """Returns the best passages of some stores, best first. A passage that several queries find keeps its best score.

    Raises:
        NotFound: the tenant has no such store.
        InvalidRequest: a store has expired.
    """
    for id in store_ids:
        await _check_usable(context, tenant, id)
    knowledge = context.knowledge
    rankings = [
        await knowledge.search(tenant, id, query, options)
        for id in dict.fromkeys(store_ids)
        for query in dict.fromkeys(queries)
    ]
    if len(rankings) == 1:
        return rankings[0]
    best: dict[int, Passage] = {}
    for passage in (one for ranking in rankings for one in ranking):
        known = best.get(passage.key)
        if known is None or known.score < passage.score:
            best[passage.key] = passage
    return sorted(best.values(), key=lambda one: (-one.score, one.key))[: options.limit]


async def _check_usable(context: ServerContext, tenant: Tenant, id: str) -> None:
    store = await context.state.knowledge.stores.get(tenant, id)
    if store.expired():
        raise InvalidRequest.of("store_expired", id=id)


def search_page(queries: Sequence[str], found: Sequence[Passage]) -> SearchPage:
    """Returns the passages as the API describes them."""
    results = [
        SearchResult(
            one.file_id,
            one.filename,
            one.score,
            dict(one.attributes),
            [TextContent(one.text)],
            media_range(one.place),
            UNSET if one.scores is None else _scores(one.scores),
        )
        for one in found
    ]
    return SearchPage(list(queries), results)


def _scores(scores: Scores) -> PassageScores:
    lexical, vector, translated = (
        None if one is None else ArmScore(one.rank, one.score)
        for one in (scores.lexical, scores.dense, scores.translated)
    )
    return PassageScores(lexical, vector, translated, scores.fused, scores.rerank)
