"""`/v1/stats`: the figures of `/metrics` that a person watches, summed over all processes of the server."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from deepwell.server.context import ServerContext
from deepwell.server.families.stats.bodies import (
    CacheStats,
    Latencies,
    LookupStats,
    ModelStats,
    Percentiles,
    RequestStats,
    ServerLimits,
    ServerStats,
)
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.observe.figures import Figures, TokenRates
from deepwell.server.observe.process_tree import age_s, memory_bytes, root_of_server
from deepwell.version import deepwell_version

__all__ = ["router"]

_LOOKUPS = "deepwell_response_cache_lookups_total"
_QUANTILES = (0.5, 0.95, 0.99)


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    rates = TokenRates(context.metrics.engines)

    @routes.get("/v1/stats", summary="Show live figures", response_model=None)
    async def stats() -> Response:
        rates.watch()
        root = root_of_server()
        memory = await asyncio.to_thread(memory_bytes, root)
        figures = Figures(context.metrics.families())
        limits = context.options.limits.rates
        return json_response(
            ServerStats(
                version=deepwell_version(),
                uptime_s=round(age_s(root), 1),
                memory_bytes=memory,
                models=_models(context, rates),
                latency_ms=Latencies(
                    first_token=_percentiles(figures, "deepwell_time_to_first_token_seconds"),
                    inter_token=_percentiles(figures, "deepwell_inter_token_seconds"),
                    queue=_percentiles(figures, "deepwell_queue_seconds"),
                ),
                requests=RequestStats(
                    figures.total("deepwell_requests_total"),
                    figures.total("deepwell_requests_total", lambda one: one["status"].startswith("5")),
                    figures.total("deepwell_open_requests"),
                ),
                caches=_caches(context, figures),
                limits=ServerLimits(
                    limits.requests_per_minute,
                    limits.tokens_per_minute,
                    limits.audio_seconds_per_minute,
                    limits.images_per_minute,
                ),
            )
        )

    return routes


def _models(context: ServerContext, rates: TokenRates) -> list[ModelStats]:
    found: list[ModelStats] = []
    for name, engine in dict(context.metrics.engines).items():
        stats = engine.stats()
        rate = rates.rate(name)
        found.append(
            ModelStats(
                id=name,
                running=stats.running,
                waiting=stats.waiting,
                kv_used_blocks=stats.blocks_used,
                kv_total_blocks=stats.blocks_total,
                prefix_hit_tokens=stats.cached_tokens,
                prefix_query_tokens=stats.cached_tokens + stats.prompt_tokens,
                tokens_per_s=None if rate is None else round(rate, 2),
                experts=[list(one) for one in stats.expert_loads] or None,
            )
        )
    return found


def _percentiles(figures: Figures, name: str) -> Percentiles:
    return Percentiles(
        *(None if one is None else round(one * 1000, 3) for one in figures.quantiles(name, _QUANTILES))
    )


def _caches(context: ServerContext, figures: Figures) -> CacheStats:
    options = context.options.caches

    def looked_up(*results: str) -> int:
        return figures.total(_LOOKUPS, lambda one: one["result"] in results)

    semantic = looked_up("semantic")
    return CacheStats(
        response=LookupStats(looked_up("hit", "joined"), looked_up("miss") + semantic)
        if options.response_bytes
        else None,
        semantic=LookupStats(semantic, figures.total("deepwell_semantic_cache_misses_total"))
        if options.semantic is not None
        else None,
    )
