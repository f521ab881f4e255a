"""`/healthz` and `/readyz`: liveness and readiness of the server; and `/health` and `/version` as vLLM has them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from deepwell.errors import EngineUnavailable
from deepwell.server.context import ServerContext
from deepwell.server.families.health.bodies import Version
from deepwell.server.families.health.readiness import Readiness
from deepwell.server.http.errors import ShuttingDown
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.version import deepwell_version

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    readiness = Readiness(context)

    @routes.get("/healthz", summary="The process answers", response_model=None)
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @routes.get("/readyz", summary="Requests are taken", response_model=None)
    async def readyz() -> Response:
        if context.draining:
            raise ShuttingDown("the server is shutting down", fix="send requests elsewhere")
        restarts = _require_engines(context)
        await readiness.require()
        ready: dict[str, object] = {"status": "ready", "engine_restarts": restarts}
        if context.served:
            ready["model"] = context.main.model.name
        return json_response(ready)

    @routes.get("/health", summary="The engine lives (vLLM)", response_model=None)
    async def health() -> Response:
        _require_engines(context)
        return Response()

    @routes.get("/version", summary="The server's version (vLLM)", response_model=None)
    async def version() -> Response:
        return json_response(Version(deepwell_version()))

    return routes


def _require_engines(context: ServerContext) -> int:
    """Checks that every engine lives, and returns how often they were restarted.

    Raises:
        EngineUnavailable: one is being restarted, or cannot be reached.
    """
    stats = [answering.model.engine.stats() for answering in context.served]
    restarts = sum(one.restarts for one in stats)
    if not all(one.available for one in stats):
        raise EngineUnavailable(
            f"the engine is being restarted, or cannot be reached; restarts so far: {restarts}",
            fix="wait, and see the server's log",
        )
    return restarts
