"""`/v1/aliases`: further names of models, which an administrator can point to another model while the server runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from msgspec import UNSET
from starlette.responses import Response

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.server.access.admin import require_admin
from deepwell.server.access.principal import Principal, principal_of
from deepwell.server.context import ServerContext
from deepwell.server.families.aliases.bodies import (
    Alias,
    AliasChange,
    AliasChangeList,
    AliasDeleted,
    AliasList,
)
from deepwell.server.families.aliases.schema import AliasesQuery, AliasRequest, ChangesQuery
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage import aliases as stored

__all__ = ["router"]

_ALIASES = "/v1/aliases"
_ALIAS = "/v1/aliases/{name:path}"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.get(_ALIASES, summary="List aliases of models", response_model=None)
    async def listed(request: Request, query: Annotated[AliasesQuery, Query()]) -> Response:
        page = await context.state.aliases.list(after=query.after, limit=query.limit, order=query.order)
        told = principal_of(request).may("admin")
        data = [_body(one, told=told) for one in page.data]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(AliasList(data, first, last, page.has_more))

    @routes.post(
        _ALIASES,
        summary="Make a name mean a model",
        response_model=None,
        dependencies=[Depends(require_admin)],
    )
    async def change(request: Request, body: AliasRequest) -> Response:
        stored.check_alias(body.name, body.model)
        await _check_names(context, body.name, body.model)
        alias = await context.state.aliases.set(body.name, body.model, _changer(principal_of(request)))
        await context.aliases.refresh()
        return json_response(_body(alias))

    @routes.delete(
        _ALIAS, summary="Remove an alias", response_model=None, dependencies=[Depends(require_admin)]
    )
    async def remove(request: Request, name: str) -> Response:
        await context.state.aliases.remove(name, _changer(principal_of(request)))
        await context.aliases.refresh()
        return json_response(AliasDeleted(name))

    @routes.get(f"{_ALIAS}/history", summary="List the changes of an alias", response_model=None)
    async def history(request: Request, name: str, query: Annotated[ChangesQuery, Query()]) -> Response:
        page = await context.state.aliases.history(
            name, after=query.after, limit=query.limit, order=query.order
        )
        told = principal_of(request).may("admin")
        data = [
            AliasChange(
                one.id,
                one.name,
                one.model,
                one.changed_at,
                one.changed_by if told else None,
                UNSET if one.candidate is None else one.candidate,
                UNSET if one.share is None else one.share,
            )
            for one in page.data
        ]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(AliasChangeList(data, first, last, page.has_more))

    return routes


async def _check_names(context: ServerContext, name: str, model: str) -> None:
    """Checks that the name is free, and that the model is served to everybody.

    Raises:
        InvalidRequest: a model or an adapter that is served here has the name already.
        ModelNotFound: no such model is served here.
    """
    known = {answering.model.name for answering in context.served}
    known |= {
        adapter.name for adapter in context.adapters()
    }  # those of one tenant have a separator in their names
    if context.on_demand is not None:
        known |= {offer.name for offer in await context.on_demand.offers()}
    if name in known:
        raise InvalidRequest(
            f"{name!r} is the name of a model that is served here", fix="choose another name", param="name"
        )
    if model not in known:
        raise ModelNotFound(
            f"no model {model!r} is served here",
            fix="GET /v1/models lists those that are; deepwell models alias set names one that will be",
            param="model",
        )


def _changer(principal: Principal) -> str:
    return principal.key_id or "local"


def _body(alias: stored.Alias, *, told: bool = True) -> Alias:
    """Returns an alias as the API describes it; `told`: with who changed it, whose key is of another tenant perhaps."""
    return Alias(
        alias.name,
        alias.model,
        alias.changed_at,
        alias.changed_by if told else None,
        UNSET if alias.candidate is None else alias.candidate,
        UNSET if alias.share is None else alias.share,
    )
