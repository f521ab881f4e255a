"""`/v1/conversations` and their items."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from msgspec import Raw
from starlette.responses import Response

from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.conversations.bodies import Conversation, ConversationDeleted, RawItemList
from deepwell.server.families.conversations.schema import ConversationItemsRequest, ConversationRequest
from deepwell.server.families.responses.history import referenced
from deepwell.server.families.responses.item_schema import ItemInput
from deepwell.server.families.responses.items import encode_item, new_id, to_items
from deepwell.server.families.responses.schema import IncludeQuery, ListQuery
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.http.schema import MetadataRequest
from deepwell.storage.clock import shared_time
from deepwell.storage.conversations import Item as StoredItem
from deepwell.storage.conversations import StoredConversation
from deepwell.storage.database import Tenant

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes, stored = APIRouter(route_class=LazyRoute), partial(_stored, context)

    @routes.post("/v1/conversations", summary="Begin a conversation", response_model=None)
    async def create(request: Request, body: ConversationRequest | None = None) -> Response:
        body = body or ConversationRequest.model_validate({})
        metadata = msgspec.json.encode(body.metadata or {}).decode()
        conversation = StoredConversation(new_id("conv"), int(shared_time()), metadata)
        items = await stored(tenant_of(request), body.items or ())
        await context.state.conversations.create(tenant_of(request), conversation, items)
        return _conversation(conversation)

    @routes.get("/v1/conversations/{conversation_id}", summary="Fetch a conversation", response_model=None)
    async def retrieve(request: Request, conversation_id: str) -> Response:
        return _conversation(await context.state.conversations.get(tenant_of(request), conversation_id))

    @routes.post(
        "/v1/conversations/{conversation_id}",
        summary="Replace a conversation's metadata",
        response_model=None,
    )
    async def update(request: Request, conversation_id: str, body: MetadataRequest) -> Response:
        metadata = msgspec.json.encode(body.metadata or {}).decode()
        store = context.state.conversations
        return _conversation(await store.update(tenant_of(request), conversation_id, metadata))

    @routes.delete(
        "/v1/conversations/{conversation_id}",
        summary="Delete a conversation and its items",
        response_model=None,
    )
    async def delete(request: Request, conversation_id: str) -> Response:
        await context.state.conversations.delete(tenant_of(request), conversation_id)
        await context.conversation_ended(tenant_of(request), conversation_id)
        return json_response(ConversationDeleted(conversation_id))

    @routes.post(
        "/v1/conversations/{conversation_id}/items",
        summary="Add items to a conversation",
        response_model=None,
    )
    async def add(
        request: Request,
        conversation_id: str,
        body: ConversationItemsRequest,
        query: Annotated[IncludeQuery, Query()],
    ) -> Response:
        items = await stored(tenant_of(request), body.items)
        await context.state.conversations.append(tenant_of(request), conversation_id, items)
        return _list(items, has_more=False)

    @routes.get(
        "/v1/conversations/{conversation_id}/items",
        summary="List a conversation's items",
        response_model=None,
    )
    async def items(request: Request, conversation_id: str, query: Annotated[ListQuery, Query()]) -> Response:
        page = await context.state.conversations.list_items(
            tenant_of(request), conversation_id, after=query.after, limit=query.limit, order=query.order
        )
        return _list(page.data, has_more=page.has_more)

    @routes.get(
        "/v1/conversations/{conversation_id}/items/{item_id}", summary="Fetch one item", response_model=None
    )
    async def item(
        request: Request, conversation_id: str, item_id: str, query: Annotated[IncludeQuery, Query()]
    ) -> Response:
        found = await context.state.conversations.item(tenant_of(request), conversation_id, item_id)
        return Response(found.body, media_type="application/json")

    @routes.delete(
        "/v1/conversations/{conversation_id}/items/{item_id}", summary="Delete one item", response_model=None
    )
    async def delete_item(request: Request, conversation_id: str, item_id: str) -> Response:
        return _conversation(await _without(context, tenant_of(request), conversation_id, item_id))

    return routes


async def _without(
    context: ServerContext, tenant: Tenant, conversation_id: str, item_id: str
) -> StoredConversation:
    """Deletes an item, with the adapters that may have learnt it."""
    left = await context.state.conversations.delete_item(tenant, conversation_id, item_id)
    await context.conversation_ended(tenant, conversation_id)
    return left


async def _stored(context: ServerContext, tenant: Tenant, given: Sequence[ItemInput]) -> list[StoredItem]:
    """Returns a request's items as rows."""
    items = to_items(given, await referenced(context.state, tenant, given))
    return [StoredItem(item.id, encode_item(item).decode()) for item in items]


def _list(items: Sequence[StoredItem], *, has_more: bool) -> Response:
    first, last = (items[0].id, items[-1].id) if items else (None, None)
    return json_response(RawItemList([Raw(item.body.encode()) for item in items], first, last, has_more))


def _conversation(stored: StoredConversation) -> Response:
    metadata = msgspec.json.decode(stored.metadata, type=dict[str, str])
    return json_response(Conversation(stored.id, stored.created_at, metadata))
