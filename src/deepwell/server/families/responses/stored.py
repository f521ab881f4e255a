"""Responses that exist already: fetch, stream again, cancel, delete, and list their inputs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response as HttpResponse

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.responses.bodies import Item, ItemList, Response, ResponseDeleted
from deepwell.server.families.responses.builder import ResponseBuilder, frame
from deepwell.server.families.responses.items import decode_items
from deepwell.server.families.responses.schema import InputItemsQuery, ListQuery, RetrieveQuery
from deepwell.server.fitting import RESPONSE_ORIGIN
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.http.sse import EventStream
from deepwell.storage.database import Tenant
from deepwell.storage.responses import StoredResponse

__all__ = ["abandoned", "cancel_response", "cancelled", "event_stream", "stored_router"]

_encode = msgspec.json.Encoder().encode


def stored_router(context: ServerContext) -> APIRouter:
    """Returns the routes of responses that exist already, those still being generated included."""
    routes = APIRouter(route_class=LazyRoute)
    background = context.background

    @routes.get("/v1/responses/{response_id}", summary="Fetch a response", response_model=None)
    async def retrieve(
        request: Request, response_id: str, query: Annotated[RetrieveQuery, Query()]
    ) -> HttpResponse:
        if query.include_obfuscation:
            raise InvalidRequest(
                "stream obfuscation is not supported", fix="leave it out", param="include_obfuscation"
            )
        if query.starting_after is not None and not query.stream:
            raise InvalidRequest("starting_after needs stream=true", fix="add it", param="starting_after")
        state, tenant = context.state, tenant_of(request)
        start = 0 if query.starting_after is None else query.starting_after + 1
        run = background.find(tenant, response_id)
        if run is not None:
            if query.stream:
                return event_stream(context, run.recording.read(start))
            return json_response(run.snapshot())
        stored = await state.responses.get(tenant, response_id)
        if not query.stream:
            return json_response(stored.body.encode())
        if stored.events is None:
            raise InvalidRequest(
                f"the response {response_id!r} was not made in the background, and cannot be streamed again",
                fix="fetch it without stream, or create it with background: true",
                param="stream",
            )
        return event_stream(context, _replayed(msgspec.json.decode(stored.events, type=list[str])[start:]))

    @routes.delete("/v1/responses/{response_id}", summary="Delete a response", response_model=None)
    async def delete(request: Request, response_id: str) -> HttpResponse:
        state, tenant = context.state, tenant_of(request)
        run = background.find(tenant, response_id)
        if run is not None:
            await background.cancel(run)
        await state.responses.delete(tenant, response_id)
        await context.conversation_ended(tenant, RESPONSE_ORIGIN)
        return json_response(_encode(ResponseDeleted(response_id)))

    @routes.post(
        "/v1/responses/{response_id}/cancel", summary="Cancel a background response", response_model=None
    )
    async def cancel(request: Request, response_id: str) -> HttpResponse:
        return json_response(await cancel_response(context, tenant_of(request), response_id))

    @routes.get(
        "/v1/responses/{response_id}/input_items",
        summary="List what a response was given",
        response_model=None,
    )
    async def input_items(
        request: Request, response_id: str, query: Annotated[InputItemsQuery, Query()]
    ) -> HttpResponse:
        stored = await context.state.responses.get(tenant_of(request), response_id)
        return json_response(_encode(_page(decode_items(stored.input), query)))

    return routes


async def cancel_response(context: ServerContext, tenant: Tenant, id: str) -> bytes:
    """Ends a background response, whichever process works on it, and returns its body.

    Raises:
        NotFound: the tenant has none of this id.
        InvalidRequest: it was not made in the background.
    """
    run = context.background.find(tenant, id)
    if run is not None:
        await context.background.cancel(run)
        return run.snapshot()
    # Another process works on it, or none any more: either way it ends here and now.
    stored = await context.state.responses.close(tenant, id, cancelled)
    if stored.events is None:
        raise InvalidRequest(
            f"the response {id!r} was not made in the background",
            fix="hang up to end an answer that you wait for",
        )
    return stored.body.encode()


async def _replayed(events: list[str]) -> AsyncGenerator[bytes, None]:
    for event in events:
        yield event.encode()


def _page(items: list[Item], query: ListQuery) -> ItemList:
    if query.order == "desc":
        items = items[::-1]
    if query.after is not None:
        ids = [item.id for item in items]
        if query.after not in ids:
            raise InvalidRequest(
                f"'after' names {query.after!r}, which is not in this list",
                fix="use the last id of the page before",
                param="after",
            )
        items = items[ids.index(query.after) + 1 :]
    page = items[: query.limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return ItemList(page, first, last, len(items) > query.limit)


def event_stream(context: ServerContext, events: AsyncGenerator[bytes, None]) -> HttpResponse:
    """Returns framed events as a stream without an end mark of its own."""
    return EventStream(events, context.stopped, end=b"")


def cancelled(stored: StoredResponse) -> StoredResponse:
    """Returns a response that nobody here works on as a cancelled one."""
    response = msgspec.json.decode(stored.body, type=Response)
    builder = ResponseBuilder(response)
    builder.cancel()
    return replace(stored, status=response.status, body=_encode(response).decode())


def abandoned(stored: StoredResponse) -> StoredResponse:
    """Returns the response of a process that was killed as a failed one. Its stream is the one event that says so."""
    response = msgspec.json.decode(stored.body, type=Response)
    failure = DeepwellError(
        "the process that generated this response was killed", fix="send the request again"
    )
    events = [frame(event).decode() for event in ResponseBuilder(response).fail(failure)]
    return replace(
        stored, status=response.status, body=_encode(response).decode(), events=_encode(events).decode()
    )
