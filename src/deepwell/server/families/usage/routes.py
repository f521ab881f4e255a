"""`/v1/organization/usage/completions`: the requests and tokens of the tenant, by hour or day."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.usage.buckets import span_of, usage_page
from deepwell.server.families.usage.schema import UsageQuery
from deepwell.server.http.json_route import json_response
from deepwell.storage.usage import UsageStore

__all__ = ["UsageWriter", "router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter()

    @routes.get(
        "/v1/organization/usage/completions", summary="Show usage by hour or day", response_model=None
    )
    async def completions(request: Request, query: Annotated[UsageQuery, Query()]) -> Response:
        span = span_of(query, int(time.time()))
        store = UsageStore(context.state.database)
        await context.usage.write_or_warn(store)
        rows = await store.between(tenant_of(request), span[0], span[1])
        return json_response(usage_page(query, span, rows))

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
