"""`/v1/responses`: create, stream, fetch, cancel, delete, and what each was given."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response as HttpResponse

from deepwell.errors import InvalidRequest
from deepwell.server.background import Run
from deepwell.server.completion import Choice
from deepwell.server.dialogue import Plan
from deepwell.server.growth import Growth, ResponseEvent, frame
from deepwell.server.items import decode_items
from deepwell.server.json_route import JsonRoute
from deepwell.server.respond import (
    grow,
    growth_of,
    new_response,
    planned,
    prompted,
    store,
    stored_of,
)
from deepwell.server.response_bodies import InputTokenCount, Item, ItemList, ResponseDeleted
from deepwell.server.response_schema import InputTokensRequest, ListQuery, ResponseRequest, RetrieveQuery
from deepwell.server.service import Service
from deepwell.server.sse import Answer, EventStream
from deepwell.server.state import principal_of, tenant_of
from deepwell.storage.database import Tenant

__all__ = ["router"]

_encode = msgspec.json.Encoder().encode


def router(service: Service) -> APIRouter:
    """The routes, bound to `service`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/responses", summary="Create a response", response_model=None)
    async def create(request: Request, body: ResponseRequest) -> HttpResponse:
        service.require_model(body.model)
        state, tenant = service.state, tenant_of(request)
        said = await prompted(service, state, tenant, body)
        response = new_response(body)
        choices = planned(service, body, said.plan, response.id, principal_of(request))
        growth = growth_of(service, body, response)
        if body.background:
            queued = _encode(response)
            run = await _begin(service, tenant, said.plan, choices, growth, said.own)
            return _stream(service, run.recording.read()) if body.stream else _json(queued)

        async def keep(_last: ResponseEvent) -> None:
            await store(state, tenant, growth, said.own)

        events = grow(service, said.plan, choices, growth, keep)
        if body.stream:
            return _stream(service, _framed(events))
        return Answer(_whole(events, growth), service.stopped)

    @routes.post("/v1/responses/input_tokens", summary="Count the tokens of an input", response_model=None)
    async def input_tokens(request: Request, body: InputTokensRequest) -> HttpResponse:
        if body.model is not None:
            service.require_model(body.model)
        said = await prompted(service, service.state, tenant_of(request), body)
        return _json(_encode(InputTokenCount(len(said.plan.prompt))))

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
        state, tenant = service.state, tenant_of(request)
        start = 0 if query.starting_after is None else query.starting_after + 1
        run = state.background.find(tenant, response_id)
        if run is not None:
            if query.stream:
                return _stream(service, run.recording.read(start))
            return _json(run.snapshot())
        stored = await state.responses.get(tenant, response_id)
        if not query.stream:
            return _json(stored.body.encode())
        if stored.events is None:
            raise InvalidRequest(
                f"the response {response_id!r} was not made in the background, and cannot be streamed again",
                fix="fetch it without stream, or create it with background: true",
                param="stream",
            )
        return _stream(service, _replayed(msgspec.json.decode(stored.events, type=list[str])[start:]))

    @routes.delete("/v1/responses/{response_id}", summary="Delete a response", response_model=None)
    async def delete(request: Request, response_id: str) -> HttpResponse:
        state, tenant = service.state, tenant_of(request)
        run = state.background.find(tenant, response_id)
        if run is not None:
            await state.background.cancel(run)
        await state.responses.delete(tenant, response_id)
        return _json(_encode(ResponseDeleted(response_id)))

    @routes.post(
        "/v1/responses/{response_id}/cancel", summary="Cancel a background response", response_model=None
    )
    async def cancel(request: Request, response_id: str) -> HttpResponse:
        state, tenant = service.state, tenant_of(request)
        run = state.background.find(tenant, response_id)
        if run is not None:
            await state.background.cancel(run)
            return _json(run.snapshot())
        stored = await state.responses.get(tenant, response_id)
        if stored.events is None:
            raise InvalidRequest(
                f"the response {response_id!r} was not made in the background",
                fix="hang up to end an answer that you wait for",
            )
        return _json(stored.body.encode())

    @routes.get(
        "/v1/responses/{response_id}/input_items",
        summary="List what a response was given",
        response_model=None,
    )
    async def input_items(
        request: Request, response_id: str, query: Annotated[ListQuery, Query()]
    ) -> HttpResponse:
        stored = await service.state.responses.get(tenant_of(request), response_id)
        return _json(_encode(_page(decode_items(stored.input), query)))

    return routes


async def _begin(
    service: Service, tenant: Tenant, plan: Plan, choices: list[Choice], growth: Growth, own: list[Item]
) -> Run:
    """Start a background response; it is stored before anybody hears of it."""
    state = service.state
    state.background.check_room()
    await state.responses.put(tenant, stored_of(growth, own, ()), working=True)
    run = Run(lambda: _encode(growth.response))

    async def keep(last: ResponseEvent) -> None:
        await store(state, tenant, growth, own)
        events = [*run.recording.events, frame(last)]
        await state.responses.finish(tenant, stored_of(growth, own, events))

    async def work() -> None:
        events = grow(service, plan, choices, growth, keep)
        try:
            async for event in events:
                run.recording.add(frame(event))
        finally:
            await events.aclose()
            if growth.response.status in ("queued", "in_progress"):  # cancelled, or the server stops
                if run.cancelled:
                    growth.cancel()
                else:
                    for event in growth.fail(_stopped()):
                        run.recording.add(frame(event))
                await state.responses.finish(tenant, stored_of(growth, own, run.recording.events))

    await state.background.start(tenant, growth.response.id, run, work())
    return run


def _stopped() -> InvalidRequest:
    return InvalidRequest("the server stopped before this was finished", fix="send it again")


async def _whole(events: AsyncGenerator[ResponseEvent, None], growth: Growth) -> bytes:
    async for _ in events:
        pass
    return _encode(growth.response)


async def _framed(events: AsyncGenerator[ResponseEvent, None]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield frame(event)


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


def _stream(service: Service, events: AsyncGenerator[bytes, None]) -> HttpResponse:
    return EventStream(events, service.stopped, end=b"")


def _json(body: bytes) -> HttpResponse:
    return HttpResponse(body, media_type="application/json")
