"""`/api/tags`, `/api/ps`, `/api/show` and `/api/version`: the served models, as ollama describes its own."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.dialogue.model import ServedModel
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

    @routes.get("/api/tags", summary="List the served models (ollama)", response_model=None)
    async def tags(request: Request) -> Response:
        return json_response(OllamaModels([_listed(*one) for one in _seen(context, tenant_of(request))]))

    @routes.get("/api/ps", summary="List the models in memory (ollama)", response_model=None)
    async def ps(request: Request) -> Response:
        return json_response(OllamaRunning([_running(answering.model) for answering in context.served]))

    @routes.post("/api/show", summary="Describe a served model (ollama)", response_model=None)
    async def show(request: Request, body: OllamaShowRequest) -> Response:
        answering, adapter = await find(context, body.wanted, tenant_of(request))
        return json_response(_shown(answering.model, body.wanted if adapter else ""))

    @routes.get("/api/version", summary="The version of ollama's API that is spoken", response_model=None)
    async def version(request: Request) -> Response:
        return json_response(OllamaVersion(API_VERSION, deepwell_version()))

    return routes


def _seen(context: ServerContext, tenant: Tenant) -> list[tuple[ServedModel, str]]:
    """Returns the served models, each followed by the names of its adapters that the tenant may use."""
    found: list[tuple[ServedModel, str]] = []
    for answering in context.served:
        model = answering.model
        found += [(model, ""), *((model, name) for name in adapters_of(model.engine.adapters(), tenant))]
    return found


def _digest(model: ServedModel, adapter: str = "") -> str:
    runs = model.capabilities
    return hashlib.sha256(f"{runs.weights_hash or model.fingerprint}\0{adapter}".encode()).hexdigest()


def _details(model: ServedModel, adapter: str = "") -> OllamaDetails:
    runs = model.capabilities
    return OllamaDetails(
        "deepwell",
        runs.architecture,
        [runs.architecture],
        runs.precision.upper(),
        parent_model=tagged(model.name) if adapter else "",
    )


def _listed(model: ServedModel, adapter: str) -> OllamaModel:
    name = tagged(adapter or model.name)
    return OllamaModel(
        name,
        name,
        rfc3339(model.created),
        model.capabilities.weights_bytes,
        _digest(model, adapter),
        _details(model, adapter),
    )


def _running(model: ServedModel) -> OllamaRunningModel:
    name, runs = tagged(model.name), model.capabilities
    return OllamaRunningModel(
        name,
        name,
        runs.weights_bytes + runs.kv_cache_bytes,
        _digest(model),
        _details(model),
        _FOR_EVER,
        runs.max_model_len,
    )


def _abilities(model: ServedModel) -> list[str]:
    """Returns the model's abilities, by ollama's names."""
    if not (model.capabilities.generates and "generate" in model.tasks):
        return ["embedding"]
    found = ["completion"]
    if model.codec.chats:
        found.append("tools")  # a template without them gets their signatures in the system message
        if model.codec.dialect.reasons:
            found.append("thinking")
    return found


def _shown(model: ServedModel, adapter: str) -> OllamaModelShown:
    runs, abilities = model.capabilities, _abilities(model)
    parameters: dict[str, Any] = {}
    if "completion" in abilities:
        parameters = {
            "repeat_penalty" if name == "repetition_penalty" else name: value
            for name, value in model.defaults.parameters().items()
        }
    lines = [f"{name} {value:g}" for name, value in parameters.items()]
    return OllamaModelShown(
        "\n".join([f"FROM {adapter or model.name}", *(f"PARAMETER {line}" for line in lines)]),
        "\n".join(lines),
        model.codec.template_source,
        _details(model, adapter),
        {
            "general.architecture": runs.architecture,
            "general.basename": model.name,
            f"{runs.architecture}.context_length": runs.max_model_len,
            f"{runs.architecture}.embedding_length": runs.hidden_size,
            f"{runs.architecture}.vocab_size": runs.vocab_size,
        },
        abilities,
        rfc3339(model.created),
    )
