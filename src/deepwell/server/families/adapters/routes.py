"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as in vLLM. Clients name folders of one directory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from deepwell.engine.weights.adapters import CONFIG_NAME, WEIGHTS_NAME
from deepwell.errors import InvalidRequest
from deepwell.server.context import ServerContext
from deepwell.server.families.adapters.schema import LoadAdapterRequest, UnloadAdapterRequest
from deepwell.server.http.json_route import json_response

__all__ = ["inside", "router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`; none if no adapter directory is set."""
    routes = APIRouter()
    root, base = context.options.adapter_dir, context.main.model
    if root is None:
        return routes
    loading = asyncio.Lock()  # one at a time: each takes memory and a core

    @routes.post("/v1/load_lora_adapter", summary="Load or swap an adapter", response_model=None)
    async def load(body: LoadAdapterRequest) -> Response:
        if body.lora_name == base.name:
            raise InvalidRequest(
                f"{body.lora_name!r} is the base model", fix="choose another name", param="lora_name"
            )
        folder = inside(root, body.lora_path)
        async with loading:
            info = await asyncio.to_thread(base.engine.load_adapter, body.lora_name, str(folder))
        return json_response(
            {"name": info.name, "rank": info.rank, "digest": info.digest, "parent": base.name}
        )

    @routes.post("/v1/unload_lora_adapter", summary="Forget an adapter", response_model=None)
    async def unload(body: UnloadAdapterRequest) -> Response:
        base.engine.unload_adapter(body.lora_name)
        return json_response({"name": body.lora_name, "unloaded": True})

    return routes


def inside(root: Path, path: str) -> Path:
    """Returns the folder that `path`, relative or absolute, names. It and its files lie inside `root`, with links followed.

    Raises:
        InvalidRequest: they do not, or `path` names no folder.
    """
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
