"""`/v1/models`: the served models, with the adapters that the tenant may use, those on demand, aliases, and media models."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from msgspec import structs
from starlette.responses import Response

from deepwell.dialogue.model import ServedModel
from deepwell.models.store.sampling import SamplingDefaults
from deepwell.server.access.adapter_names import adapters_of
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.models.bodies import DefaultSampling, DeletedModel, ModelCard, ModelList
from deepwell.server.families.models.media import media_cards
from deepwell.server.families.models.unloading import unload_model
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.residency.wire import HostState, Offer
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    started = int(shared_time())

    @routes.get("/v1/models", summary="List the served models", response_model=None)
    async def models(request: Request) -> Response:
        return json_response(ModelList([*(await _cards(context, tenant_of(request), started)).values()]))

    @routes.get("/v1/models/{id:path}", summary="Describe a served model", response_model=None)
    async def model(request: Request, id: str) -> Response:
        tenant = tenant_of(request)
        if (card := (await _cards(context, tenant, started)).get(id)) is not None:
            return json_response(card)
        answering, adapter = await context.find(id, tenant)  # which says what is served instead
        return json_response(_card(answering.model, id if adapter else ""))

    @routes.delete("/v1/models/{model:path}", summary="Unload a model", response_model=None)
    async def unload(request: Request, model: str) -> Response:
        await unload_model(context, model, principal_of(request))
        return json_response(DeletedModel(model, deleted=True))

    return routes


async def _cards(context: ServerContext, tenant: Tenant, started: int) -> dict[str, ModelCard]:
    """Returns the cards of all models by name, in the order of `ServerContext.find` where two have one name."""
    served = [answering.model for answering in context.served]
    adapters = [
        _card(model, name) for model in served for name in adapters_of(model.engine.adapters(), tenant)
    ]
    loaded = {card.id: card for card in (*adapters, *map(_card, served))}
    cards = {model.name: loaded[model.name] for model in served} | loaded
    if context.on_demand is not None:
        offers, state = await context.on_demand.offers(), context.on_demand.state
        cards |= {one.name: _offered(one, state, started) for one in offers if one.name not in loaded}
    meant = {name: cards.get(model) for name, model in (await context.aliases.models()).items()}
    # An alias whose model is not here is not listed: requests for it fail.
    cards |= {
        name: structs.replace(card, id=name, parent=card.id)
        for name, card in meant.items()
        if card is not None and name not in loaded
    }
    media = await asyncio.to_thread(media_cards, context.options)
    # They come last: many clients take the first model of the list for a chat.
    return cards | {name: card for name, card in media.items() if name not in cards}


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
