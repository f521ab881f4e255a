"""`/v1/organization/usage`: the requests of the tenant with their tokens, sounds and images, by hour or day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.usage.buckets import (
    images_result,
    span_of,
    speeches_result,
    transcriptions_result,
    usage_page,
)
from deepwell.server.families.usage.schema import ImagesUsageQuery, UsageQuery
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.clock import shared_time
from deepwell.storage.usage import UsageStore

__all__ = ["UsageWriter", "router"]

_ROOT: Final = "/v1/organization/usage"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    async def media(request: Request, query: UsageQuery, begins: str, result: Callable[..., Any]) -> Response:
        span = span_of(query, int(shared_time()))
        store = UsageStore(context.state.database)
        await context.usage.write_or_warn(store)
        rows = await store.media_between(tenant_of(request), span[0], span[1])
        mine = [(place, used) for place, used in rows if place.source.startswith(begins)]
        return json_response(usage_page(query, span, mine, result))

    @routes.get(f"{_ROOT}/completions", summary="Show usage by hour or day", response_model=None)
    async def completions(request: Request, query: Annotated[UsageQuery, Query()]) -> Response:
        span = span_of(query, int(shared_time()))
        store = UsageStore(context.state.database)
        await context.usage.write_or_warn(store)
        rows = await store.between(tenant_of(request), span[0], span[1])
        return json_response(usage_page(query, span, rows))

    @routes.get(
        f"{_ROOT}/audio_speeches", summary="Show characters read aloud by hour or day", response_model=None
    )
    async def speeches(request: Request, query: Annotated[UsageQuery, Query()]) -> Response:
        return await media(request, query, "audio.speech", speeches_result)

    @routes.get(
        f"{_ROOT}/audio_transcriptions",
        summary="Show seconds of recordings by hour or day",
        response_model=None,
    )
    async def transcriptions(request: Request, query: Annotated[UsageQuery, Query()]) -> Response:
        return await media(request, query, "audio.trans", transcriptions_result)

    @routes.get(f"{_ROOT}/images", summary="Show drawn images by hour or day", response_model=None)
    async def images(request: Request, query: Annotated[ImagesUsageQuery, Query()]) -> Response:
        return await media(request, query, "image.", images_result)

    return routes


class UsageWriter:
    """Writes the usage of one process, beside requests, once it keeps anything at all."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to write."""
        self._task = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """Ends the writing. What answers in flight use is written when the state is closed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _write(self) -> None:
        await self._context.kept.wait()
        await self._context.usage.write_often(UsageStore(self._context.state.database))
