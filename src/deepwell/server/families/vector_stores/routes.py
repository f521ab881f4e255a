"""`/v1/vector_stores`: create, list, fetch, change, delete and search stores."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.errors import DeepwellError
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.vector_stores.batch_routes import batch_router
from deepwell.server.families.vector_stores.bodies import VectorStoreDeleted, VectorStoreList
from deepwell.server.families.vector_stores.described import chunking_json, store_body
from deepwell.server.families.vector_stores.file_routes import file_router
from deepwell.server.families.vector_stores.schema import (
    SearchRequest,
    StoreRequest,
    StoresQuery,
    StoreUpdate,
)
from deepwell.server.families.vector_stores.search import search_options, search_page, search_stores
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.database import Tenant
from deepwell.storage.knowledge.files import Attachment
from deepwell.storage.knowledge.stores import StoredStore

__all__ = ["router"]

_STORES = "/v1/vector_stores"
_STORE = "/v1/vector_stores/{vector_store_id}"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.post(_STORES, summary="Create a vector store", response_model=None)
    async def create(request: Request, body: StoreRequest) -> Response:
        tenant = tenant_of(request)
        return await _described(context, tenant, await _create(context, tenant, body))

    @routes.get(_STORES, summary="List vector stores", response_model=None)
    async def listed(request: Request, query: Annotated[StoresQuery, Query()]) -> Response:
        stores, tenant = context.state.knowledge.stores, tenant_of(request)
        page = await stores.list(
            tenant, after=query.after, before=query.before, limit=query.limit, order=query.order
        )
        counts = await stores.counts(tenant, [one.id for one in page.data])
        data = [store_body(one, counts[one.id]) for one in page.data]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(VectorStoreList(data, first, last, page.has_more))

    @routes.get(_STORE, summary="Fetch a vector store", response_model=None)
    async def retrieve(request: Request, vector_store_id: str) -> Response:
        tenant = tenant_of(request)
        return await _described(
            context, tenant, await context.state.knowledge.stores.get(tenant, vector_store_id)
        )

    @routes.post(_STORE, summary="Change a vector store", response_model=None)
    async def update(request: Request, vector_store_id: str, body: StoreUpdate) -> Response:
        stores, tenant = context.state.knowledge.stores, tenant_of(request)
        return await _described(
            context, tenant, await stores.update(tenant, vector_store_id, **_changes(body))
        )

    @routes.delete(_STORE, summary="Delete a vector store", response_model=None)
    async def delete(request: Request, vector_store_id: str) -> Response:
        await context.state.knowledge.stores.delete(tenant_of(request), vector_store_id)
        return json_response(VectorStoreDeleted(vector_store_id))

    @routes.post(f"{_STORE}/search", summary="Search a vector store", response_model=None)
    async def search(request: Request, vector_store_id: str, body: SearchRequest) -> Response:
        ranking, tenant = body.ranking_options, tenant_of(request)
        options = search_options(
            context,
            tenant,
            limit=body.max_num_results,
            filters=body.filters,
            ranker=ranking.ranker if ranking else None,
            min_score=ranking.score_threshold if ranking else None,
            searches=len(set(body.query)),
            explain=body.explain or False,
        )
        found = await search_stores(context, tenant, [vector_store_id], body.query, options)
        return json_response(search_page(body.query, found))

    routes.routes += file_router(context).routes
    routes.routes += batch_router(context).routes
    return routes


async def _create(context: ServerContext, tenant: Tenant, body: StoreRequest) -> StoredStore:
    """Creates a store with its files. There is none if one of the files cannot be attached."""
    knowledge = context.state.knowledge
    store = await knowledge.stores.create(
        tenant,
        name=body.name or "",
        embedder=context.knowledge.default_embedder,
        description=body.description,
        metadata=_json(body.metadata or {}),
        chunking=chunking_json(body.chunking_strategy),
        expires_after_days=body.expires_after.days if body.expires_after else None,
    )
    if not body.file_ids:
        return store
    try:
        files = [Attachment(one) for one in dict.fromkeys(body.file_ids)]
        await knowledge.files.attach(tenant, store.id, files)
    except DeepwellError:
        await knowledge.stores.delete(tenant, store.id)
        raise
    context.knowledge.changed()
    return store


def _changes(body: StoreUpdate) -> dict[str, Any]:
    """Returns the columns that a request changes."""
    values: dict[str, Any] = {}
    if "name" in body.model_fields_set:
        values["name"] = body.name or ""
    if "metadata" in body.model_fields_set:
        values["metadata"] = _json(body.metadata or {})
    if "expires_after" in body.model_fields_set:
        values["expires_after_days"] = body.expires_after.days if body.expires_after else None
    return values


async def _described(context: ServerContext, tenant: Tenant, store: StoredStore) -> Response:
    counts = await context.state.knowledge.stores.counts(tenant, [store.id])
    return json_response(store_body(store, counts[store.id]))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
