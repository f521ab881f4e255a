"""`/v1/models`: the served models, with the adapters that the tenant may use."""

from __future__ import annotations

from fastapi import APIRouter, Request
from msgspec import structs
from starlette.responses import Response

from deepwell.dialogue.model import ServedModel
from deepwell.server.access.adapter_names import adapters_of
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.models.bodies import DefaultSampling, ModelCard, ModelList
from deepwell.server.http.json_route import json_response

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter()

    @routes.get("/v1/models", summary="List the served models", response_model=None)
    async def models(request: Request) -> Response:
        served = [answering.model for answering in context.served]
        tenant = tenant_of(request)
        adapters = [
            _card(model, name) for model in served for name in adapters_of(model.engine.adapters(), tenant)
        ]
        return json_response(ModelList([*map(_card, served), *adapters]))

    @routes.get("/v1/models/{id:path}", summary="Describe a served model", response_model=None)
    async def model(request: Request, id: str) -> Response:
        answering, adapter = await context.find(id, tenant_of(request))
        return json_response(_card(answering.model, id if adapter else ""))

    return routes


def _card(model: ServedModel, adapter: str = "") -> ModelCard:
    card = ModelCard(model.name, model.created, "deepwell", model.capabilities.max_model_len)
    if model.answers:
        card = structs.replace(card, default_sampling=DefaultSampling(**model.defaults.shown()))
    return structs.replace(card, id=adapter, parent=model.name) if adapter else card
