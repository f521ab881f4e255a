"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as in vLLM. Clients name folders of one directory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.dialogue.model import ServedModel
from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.server.access.adapter_names import adapters_of, check_name, engine_name
from deepwell.server.access.auth import InsufficientScope
from deepwell.server.access.principal import Principal, principal_of
from deepwell.server.context import ServerContext
from deepwell.server.families.adapters.schema import LoadAdapterRequest, UnloadAdapterRequest
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.database import Tenant

__all__ = ["inside", "router"]

_MOST_ADAPTERS = 16  # of a tenant: each takes memory that nobody else can use


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`; none if no adapter directory is set."""
    routes = APIRouter(route_class=LazyRoute)
    root = context.options.adapter_dir
    if root is None:
        return routes
    loading = asyncio.Lock()  # one at a time: each takes memory and a core

    @routes.post("/v1/load_lora_adapter", summary="Load or swap an adapter", response_model=None)
    async def load(request: Request, body: LoadAdapterRequest) -> Response:
        name = body.lora_name
        owner = _owner(principal_of(request), shared=bool(body.shared))
        check_name(name, [answering.model.name for answering in context.served])
        base = await _base(context, body.base_model_name, principal_of(request).tenant)
        folder = inside(root, body.lora_path)
        async with loading:
            own = [one.name for one in base.engine.adapters()]
            _check_free(owner, name, [one.name for one in context.adapters()], own)
            info = await asyncio.to_thread(base.engine.load_adapter, engine_name(owner, name), str(folder))
        return json_response({"name": name, "rank": info.rank, "digest": info.digest, "parent": base.name})

    @routes.post("/v1/unload_lora_adapter", summary="Forget an adapter", response_model=None)
    async def unload(request: Request, body: UnloadAdapterRequest) -> Response:
        name, principal = body.lora_name, principal_of(request)
        owner = _owner(principal, shared=bool(body.shared))
        try:
            check_name(name, ())
            base = _holder(context, engine_name(owner, name))
            await asyncio.to_thread(base.engine.unload_adapter, engine_name(owner, name))
        except (InvalidRequest, ModelNotFound):
            if owner is not None and name in adapters_of(context.adapters(), principal.tenant):
                raise InsufficientScope(
                    f"the adapter {name!r} is shared by all tenants",
                    fix="an administrator unloads it: send shared=true with a key that has the scope admin",
                    param="lora_name",
                ) from None
            raise ModelNotFound(
                f"you have loaded no adapter {name!r}",
                fix="list the models: GET /v1/models",
                param="lora_name",
            ) from None
        return json_response({"name": name, "unloaded": True})

    return routes


def _owner(principal: Principal, *, shared: bool) -> Tenant | None:
    """Returns the tenant that an adapter belongs to; None: all of them share it, as they do where there are no keys.

    Raises:
        InsufficientScope: only an administrator shares adapters.
    """
    if not principal.key_id:
        return None
    if shared and not principal.may("admin"):
        raise InsufficientScope(
            "this API key cannot share adapters",
            fix="leave shared out, or use a key with the scope admin",
            param="shared",
        )
    return None if shared else principal.tenant


async def _base(context: ServerContext, name: str | None, tenant: Tenant) -> ServedModel:
    """Returns the model that an adapter is for.

    Raises:
        ModelNotFound: no model of this name is served.
        InvalidRequest: it is the name of an adapter.
    """
    if name is None:
        return context.main.model
    answering, adapter = await context.find(name, tenant)
    if adapter:
        raise InvalidRequest(
            f"{name!r} is an adapter itself",
            fix=f"name its base: {answering.model.name!r}",
            param="base_model_name",
        )
    return answering.model


def _holder(context: ServerContext, name: str) -> ServedModel:
    """Returns the model that has the adapter of this name in its engine, or the main one."""
    for answering in context.served:
        if any(one.name == name for one in answering.model.engine.adapters()):
            return answering.model
    return context.main.model


def _check_free(owner: Tenant | None, name: str, loaded: Sequence[str], own_base: Sequence[str]) -> None:
    """Refuses a tenant's new adapter whose name a shared one or one of another base has, and one too many.

    Its own adapters of the same base are swapped, whatever was shared since.

    Args:
        loaded: names of all adapters, as the engines have them.
        own_base: those of the model that the adapter is for.
    """
    if engine_name(owner, name) in own_base:
        return
    if engine_name(owner, name) in loaded:
        raise InvalidRequest(
            f"an adapter {name!r} is loaded for another model",
            fix="unload that one first, or choose another name",
            param="lora_name",
        )
    own = [one for one in loaded if owner is not None and one.startswith(engine_name(owner, ""))]
    if len(own) >= _MOST_ADAPTERS:
        raise InvalidRequest(
            f"you have loaded {len(own)} adapters, as many as a tenant may",
            fix="unload one that you no longer use",
            param="lora_name",
        )
    if name in loaded:
        raise InvalidRequest(
            f"{name!r} is the name of an adapter that all tenants share",
            fix="choose another name",
            param="lora_name",
        )


def inside(root: Path, path: str) -> Path:
    """Returns the folder that `path`, relative or absolute, names. It and its files lie inside `root`, with links followed.

    Raises:
        InvalidRequest: they do not, or `path` names no folder.
    """
    from deepwell.engine.weights.adapters import CONFIG_NAME, WEIGHTS_NAME

    refusal = InvalidRequest(
        "lora_path names no adapter of this server's adapter directory",
        fix="give the name of a folder in it",
        param="lora_path",
    )
    try:
        base = root.resolve(strict=True)
        folder = (base / path).resolve(strict=True)
        files = [(folder / name).resolve() for name in (CONFIG_NAME, WEIGHTS_NAME)]
    except (OSError, ValueError, RuntimeError):  # missing, a zero byte, a loop of links
        raise refusal from None
    if not folder.is_dir() or not all(place.is_relative_to(base) for place in (folder, *files)):
        raise refusal
    return folder
