"""`/v1/keys`: the API keys of all tenants, for an administrator. They are made and revoked by `deepwell keys` alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from deepwell.server.context import ServerContext
from deepwell.server.families.keys.bodies import ListedKey, ListedKeys
from deepwell.server.families.pages import PageQuery, ends_of
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.keys import ApiKey, KeyStore

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.get("/v1/keys", summary="List API keys", response_model=None)
    async def keys(query: Annotated[PageQuery, Query()]) -> Response:
        store = KeyStore(context.state.database)
        page = await store.page(after=query.after, limit=query.limit, order=query.order)
        data = [_listed(one) for one in page.data]
        return json_response(ListedKeys(data, *ends_of(data), page.has_more))

    return routes


def _listed(key: ApiKey) -> ListedKey:
    return ListedKey(
        id=key.id,
        name=key.name,
        tenant=key.tenant,
        scopes=list(key.scopes),
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        expires_at=key.expires_at,
        revoked=key.revoked_at is not None,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        audio_seconds_per_minute=key.audio_seconds_per_minute,
        images_per_minute=key.images_per_minute,
    )
