"""Unloading of models at the request of a client."""

from __future__ import annotations

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.server.access.adapter_names import adapters_of
from deepwell.server.access.auth import InsufficientScope
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext

__all__ = ["unload_model"]


async def unload_model(context: ServerContext, name: str, principal: Principal) -> None:
    """Unloads a model that was loaded on demand, or deletes one that fine-tuning has made.

    Raises:
        InsufficientScope: the key is not an administrator's; fine-tuned models need the scope tuning.
        InvalidRequest: it is one that stays, an adapter, or an alias.
        ModelNotFound: no such model is loaded.
        ModelBusy: it has requests.
    """
    if context.tuned is not None and name.startswith("ft:"):
        if principal.key_id and not principal.may("tuning"):
            raise InsufficientScope(
                "this API key cannot delete fine-tuned models",
                fix="use a key with the scope tuning",
                param="model",
            )
        if await context.tuned.delete(name, principal.tenant):
            return
    if principal.key_id and not principal.may("admin"):
        raise InsufficientScope(
            "all tenants share the models", fix="use a key with the scope admin", param="model"
        )
    if any(one.model.name == name for one in context.served):
        fix = "stop the server, or start it with --models-on-demand and without this name"
        raise InvalidRequest(
            f"{name!r} was named when the server started, and stays loaded", fix=fix, param="model"
        )
    if any(name in adapters_of(one.model.engine.adapters(), principal.tenant) for one in context.served):
        raise InvalidRequest(
            f"{name!r} is an adapter", fix="unload it with POST /v1/unload_lora_adapter", param="model"
        )
    if (meant := await context.aliases.model_of(name)) is not None:
        fix = f"unload {meant!r}, or remove the alias with DELETE /v1/aliases/{name}"
        raise InvalidRequest(f"{name!r} is an alias of {meant!r}", fix=fix, param="model")
    if context.on_demand is None or not await context.on_demand.client.unload(name):
        raise ModelNotFound(
            f"no model {name!r} is loaded",
            fix="GET /v1/models lists the models and their states",
            param="model",
        )
