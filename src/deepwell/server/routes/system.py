"""The models there are, and how the server is: `/v1/models`, `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from msgspec import structs
from starlette.responses import Response

from deepwell.errors import EngineUnavailable
from deepwell.server.errors import ShuttingDown
from deepwell.server.metrics import CONTENT_TYPE
from deepwell.server.responses import ModelCard, ModelList
from deepwell.server.service import Service

__all__ = ["router"]


def router(service: Service) -> APIRouter:
    """The routes, bound to `service`."""
    routes = APIRouter()

    def card_of(one: Service, adapter: str = "") -> ModelCard:
        card = ModelCard(one.model, one.created, "deepwell", one.capabilities.max_model_len)
        return structs.replace(card, id=adapter, parent=one.model) if adapter else card

    @routes.get("/v1/models", summary="List the served models", response_model=None)
    async def models() -> Response:
        adapters = [card_of(service, adapter.name) for adapter in service.engine.adapters()]
        return _json(ModelList([*(card_of(one) for one in service.served), *adapters]))

    @routes.get("/v1/models/{id:path}", summary="Describe a served model", response_model=None)
    async def model(id: str) -> Response:
        return _json(card_of(*service.find(id)))

    @routes.get("/healthz", summary="The process answers", response_model=None)
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @routes.get("/readyz", summary="Requests are taken", response_model=None)
    async def readyz() -> Response:
        if service.draining:
            raise ShuttingDown("the server is shutting down", fix="send requests elsewhere")
        stats = [one.engine.stats() for one in service.served]
        restarts = sum(one.restarts for one in stats)
        if not all(one.available for one in stats):
            raise EngineUnavailable(
                f"the engine is being restarted, after {restarts} restarts before",
                fix="wait, and see the server's log",
            )
        return _json({"status": "ready", "model": service.model, "engine_restarts": restarts})

    @routes.get("/metrics", summary="Prometheus metrics", response_model=None)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return routes


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
