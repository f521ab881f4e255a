"""`/metrics`, in Prometheus' text format."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from deepwell.server.context import ServerContext
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.observe.metrics import CONTENT_TYPE

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.get("/metrics", summary="Prometheus metrics", response_model=None)
    async def metrics() -> Response:
        return Response(context.metrics.text(), media_type=CONTENT_TYPE)

    return routes
