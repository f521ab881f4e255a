"""`/healthz` and `/readyz`: liveness and readiness of the server."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from deepwell.errors import EngineUnavailable
from deepwell.server.context import ServerContext
from deepwell.server.families.health.readiness import Readiness
from deepwell.server.http.errors import ShuttingDown
from deepwell.server.http.json_route import json_response

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter()
    readiness = Readiness(context)

    @routes.get("/healthz", summary="The process answers", response_model=None)
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @routes.get("/readyz", summary="Requests are taken", response_model=None)
    async def readyz() -> Response:
        if context.draining:
            raise ShuttingDown("the server is shutting down", fix="send requests elsewhere")
        stats = [answering.model.engine.stats() for answering in context.served]
        restarts = sum(one.restarts for one in stats)
        if not all(one.available for one in stats):
            raise EngineUnavailable(
                f"the engine is being restarted, after {restarts} restarts before",
                fix="wait, and see the server's log",
            )
        await readiness.require()
        ready: dict[str, object] = {"status": "ready", "engine_restarts": restarts}
        if context.served:
            ready["model"] = context.main.model.name
        return json_response(ready)

    return routes
