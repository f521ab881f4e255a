"""`/api/tags`, `/api/ps`, `/api/show` and `/api/version`: the models, as ollama describes its own."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.dialogue.model import ServedModel
from deepwell.engine.protocol import Capabilities
from deepwell.server.access.adapter_names import adapters_of
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.ollama.bodies import (
    OllamaDetails,
    OllamaModel,
    OllamaModels,
    OllamaModelShown,
    OllamaRunning,
    OllamaRunningModel,
    OllamaVersion,
    rfc3339,
)
from deepwell.server.families.ollama.names import find, tagged
from deepwell.server.families.ollama.schema import OllamaShowRequest
from deepwell.server.http.json_route import AnyTypeJsonRoute, json_response
from deepwell.storage.database import Tenant
from deepwell.version import deepwell_version

__all__ = ["API_VERSION", "models_router"]

API_VERSION = "0.12.11"
"""The release of ollama whose API the answers follow. Clients compare it with the least that they need."""

_FOR_EVER = "9999-01-01T00:00:00Z"


def models_router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=AnyTypeJsonRoute)
    started = int(time.time())

    @routes.get("/api/tags", summary="List the models (ollama)", response_model=None)
    async def tags(request: Request) -> Response:
        return json_response(OllamaModels(await _tags(context, tenant_of(request), started)))

    @routes.get("/api/ps", summary="List the models in memory (ollama)", response_model=None)
    async def ps(request: Request) -> Response:
        return json_response(OllamaRunning(await _in_memory(context)))

    @routes.post("/api/show", summary="Describe a model (ollama)", response_model=None)
    async def show(request: Request, body: OllamaShowRequest) -> Response:
        answering, adapter = await find(context, body.wanted, tenant_of(request))
        return json_response(_shown(answering.model, body.wanted if adapter else ""))

    @routes.get("/api/version", summary="The version of ollama's API that is spoken", response_model=None)
    async def version(request: Request) -> Response:
        return json_response(OllamaVersion(API_VERSION, deepwell_version()))

    return routes


async def _tags(context: ServerContext, tenant: Tenant, started: int) -> list[OllamaModel]:
    """Returns the served models, each followed by the adapters that the tenant may use, and those on demand."""
    found: list[OllamaModel] = []
    for model in (answering.model for answering in context.served):
        adapters = ("", *adapters_of(model.engine.adapters(), tenant))
        found += [_listed(model.name, model.capabilities, model.created, one) for one in adapters]
    if context.on_demand is not None:
        offers = await context.on_demand.offers()
        found += [_listed(offer.name, offer.capabilities, started) for offer in offers]
    return found


async def _in_memory(context: ServerContext) -> list[OllamaRunningModel]:
    """Returns the served models, and those on demand that are loaded."""
    found: list[OllamaRunningModel] = []
    for model in (answering.model for answering in context.served):
        runs = model.capabilities
        found.append(_running(model.name, runs, runs.weights_bytes + runs.kv_cache_bytes, None))
    if context.on_demand is not None:
        offers = {offer.name: offer for offer in await context.on_demand.offers()}
        found += [
            _running(one.name, offers[one.name].capabilities, one.size_bytes, one.expires_in_s)
            for one in context.on_demand.state.residents
            if one.state == "ready" and one.name in offers
        ]
    return found


def _digest(name: str, runs: Capabilities, adapter: str = "") -> str:
    source = runs.weights_hash or f"{name}\0{runs.precision}\0{runs.weights_bytes}"
    return hashlib.sha256(f"{source}\0{adapter}".encode()).hexdigest()


def _details(runs: Capabilities, parent: str = "") -> OllamaDetails:
    return OllamaDetails(
        "deepwell",
        runs.architecture,
        [runs.architecture],
        runs.precision.upper(),
        parent_model=tagged(parent) if parent else "",
    )


def _listed(model: str, runs: Capabilities, created: int, adapter: str = "") -> OllamaModel:
    name = tagged(adapter or model)
    details = _details(runs, model if adapter else "")
    return OllamaModel(
        name, name, rfc3339(created), runs.weights_bytes, _digest(model, runs, adapter), details
    )


def _running(model: str, runs: Capabilities, size: int, expires_in_s: float | None) -> OllamaRunningModel:
    """Describes a model in memory. `expires_in_s`: None if it is in use, or stays."""
    name = tagged(model)
    expires = _FOR_EVER if expires_in_s is None else rfc3339(time.time() + expires_in_s)
    return OllamaRunningModel(
        name, name, size, _digest(model, runs), _details(runs), expires, runs.max_model_len
    )


def _abilities(model: ServedModel) -> list[str]:
    """Returns the model's abilities, by ollama's names."""
    if not model.answers:
        return ["embedding"]
    found = ["completion"]
    if model.codec.chats:
        found.append("tools")  # a template without them gets their signatures in the system message
        if model.codec.dialect.reasons:
            found.append("thinking")
    return found


def _shown(model: ServedModel, adapter: str) -> OllamaModelShown:
    runs = model.capabilities
    parameters: dict[str, Any] = {}
    if model.answers:
        parameters = {
            "repeat_penalty" if name == "repetition_penalty" else name: value
            for name, value in model.defaults.parameters().items()
        }
    lines = [f"{name} {value:g}" for name, value in parameters.items()]
    return OllamaModelShown(
        "\n".join([f"FROM {adapter or model.name}", *(f"PARAMETER {line}" for line in lines)]),
        "\n".join(lines),
        model.codec.template_source,
        _details(runs, model.name if adapter else ""),
        {
            "general.architecture": runs.architecture,
            "general.basename": model.name,
            f"{runs.architecture}.context_length": runs.max_model_len,
            f"{runs.architecture}.embedding_length": runs.hidden_size,
            f"{runs.architecture}.vocab_size": runs.vocab_size,
        },
        _abilities(model),
        rfc3339(model.created),
    )
