"""`/v1/models`: the served models, with the adapters that the tenant may use, and those that are loaded on demand."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from msgspec import structs
from starlette.responses import Response

from deepwell.dialogue.model import ServedModel
from deepwell.models.store.sampling import SamplingDefaults
from deepwell.server.access.adapter_names import adapters_of
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.models.bodies import DefaultSampling, DeletedModel, ModelCard, ModelList
from deepwell.server.families.models.unloading import unload_model
from deepwell.server.http.json_route import json_response
from deepwell.server.residency.wire import HostState, Offer

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter()
    started = int(time.time())

    @routes.get("/v1/models", summary="List the served models", response_model=None)
    async def models(request: Request) -> Response:
        served = [answering.model for answering in context.served]
        tenant = tenant_of(request)
        adapters = [
            _card(model, name) for model in served for name in adapters_of(model.engine.adapters(), tenant)
        ]
        offered: list[ModelCard] = []
        if context.on_demand is not None:
            offers, state = await context.on_demand.offers(), context.on_demand.state
            offered = [_offered(offer, state, started) for offer in offers]
        return json_response(ModelList([*map(_card, served), *adapters, *offered]))

    @routes.get("/v1/models/{id:path}", summary="Describe a served model", response_model=None)
    async def model(request: Request, id: str) -> Response:
        tenant = tenant_of(request)
        if context.on_demand is not None and not any(one.model.name == id for one in context.served):
            offers, state = await context.on_demand.offers(), context.on_demand.state
            if (offer := next((one for one in offers if one.name == id), None)) is not None:
                return json_response(_offered(offer, state, started))
        answering, adapter = await context.find(id, tenant)
        return json_response(_card(answering.model, id if adapter else ""))

    @routes.delete("/v1/models/{model:path}", summary="Unload a model", response_model=None)
    async def unload(request: Request, model: str) -> Response:
        await unload_model(context, model, principal_of(request))
        return json_response(DeletedModel(model, deleted=True))

    return routes


def _card(model: ServedModel, adapter: str = "") -> ModelCard:
    card = ModelCard(model.name, model.created, "deepwell", model.capabilities.max_model_len)
    if model.answers:
        card = structs.replace(card, default_sampling=_sampling(model.defaults))
    return structs.replace(card, id=adapter, parent=model.name) if adapter else card


def _offered(offer: Offer, state: HostState, created: int) -> ModelCard:
    resident = next((one for one in state.residents if one.name == offer.name), None)
    card = ModelCard(
        offer.name,
        created,
        "deepwell",
        offer.capabilities.max_model_len,
        state="not_loaded" if resident is None else "loaded" if resident.state == "ready" else resident.state,
        size_bytes=offer.size_bytes,
    )
    if offer.capabilities.generates:
        card = structs.replace(card, default_sampling=_sampling(offer.defaults))
    return card


def _sampling(defaults: SamplingDefaults) -> DefaultSampling:
    return DefaultSampling(**defaults.shown())
