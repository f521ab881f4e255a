"""`POST /v1/responses` and its token count: answers in the foreground and in the background."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response as HttpResponse

from deepwell.dialogue.dialogue import count_prompt
from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.background import Run, to_its_end
from deepwell.server.context import ServerContext
from deepwell.server.families.prompts.opening import opening_of
from deepwell.server.families.responses.attached import as_text
from deepwell.server.families.responses.bodies import InputTokenCount, Item
from deepwell.server.families.responses.builder import ResponseBuilder, ResponseEvent, frame
from deepwell.server.families.responses.compacting import compacted
from deepwell.server.families.responses.file_search import searched
from deepwell.server.families.responses.items import new_id
from deepwell.server.families.responses.mcp.answer import spoken_of
from deepwell.server.families.responses.mcp.asking import mcp_asked
from deepwell.server.families.responses.respond import (
    Keep,
    builder_of,
    choices_of,
    dialogue_of,
    events_until_stored,
    new_response,
    prompted,
    store,
    stored_of,
)
from deepwell.server.families.responses.schema import (
    CompactRequest,
    InputTokensRequest,
    ResponseRequest,
)
from deepwell.server.families.responses.stored import event_stream, stored_router
from deepwell.server.fitting import RESPONSE_ORIGIN, wish_of
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.server.http.sse import Answer, attended
from deepwell.server.routing.bodies import route_of
from deepwell.server.routing.naming import named_or_auto
from deepwell.storage.database import Tenant

__all__ = ["router"]

_encode = msgspec.json.Encoder().encode


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)
    background = context.background
    context.on_close(background.close)

    @routes.post("/v1/responses", summary="Create a response", response_model=None)
    async def create(request: Request, body: ResponseRequest) -> HttpResponse:
        tenant = tenant_of(request)
        auto, answering, adapter = await named_or_auto(context, body.model, tenant)
        model, state = answering.model, context.state
        id = new_id("resp")
        policy = "auto" if body.truncation == "auto" else None
        origin = body.conversation.id if body.conversation else RESPONSE_ORIGIN
        wish = replace(
            wish_of(request, body.max_output_tokens, policy=policy), store=body.store, origin=origin
        )
        opening = await opening_of(state.prompts, tenant, body.prompt, body.instructions)
        work = prompted(
            context, answering, adapter, principal_of(request), body, id, wish, auto=auto, opening=opening
        )
        said = await attended(work, request.scope, request.receive, context.stopped)
        response = new_response(model, body, id, opening)
        if auto:
            response.model = model.name
            if said.image is not None and said.image.production is not None:
                response.route = route_of(said.image.production, model.name)
        if answering.guard is not None and not said.refused:
            response.metadata |= answering.guard.embedded_label(id)
        choices = choices_of(model, body, said.plan, response.id, principal_of(request).caller, adapter)
        builder = builder_of(model, body, response, said.plan)

        async def store_now(_last: ResponseEvent) -> None:
            await store(state, tenant, builder, said.own)

        def events_of(keep: Keep) -> AsyncGenerator[ResponseEvent, None]:
            parts = spoken_of(context, answering, said, choices, body, principal_of(request), adapter)
            return events_until_stored(parts, builder, keep)

        if body.background:
            queued = _encode(response)
            run = await _begin(context, tenant, builder, said.own, events_of)
            return event_stream(context, run.recording.read()) if body.stream else json_response(queued)
        events = events_of(store_now)
        if body.stream:
            return event_stream(context, _framed(events))
        return Answer(_whole(events, builder), context.stopped)

    @routes.post("/v1/responses/input_tokens", summary="Count the tokens of an input", response_model=None)
    async def input_tokens(request: Request, body: InputTokensRequest) -> HttpResponse:
        principal = principal_of(request)
        tenant = principal.tenant
        answering, adapter = context.main, ""
        if body.model is not None:
            _, answering, adapter = await named_or_auto(context, body.model, tenant)
        reading = as_text(context, answering.model, body, tenant)
        body, _ = await attended(reading, request.scope, request.receive, context.stopped)
        before, own, dialogue = await dialogue_of(answering.model, context.state, tenant, body)
        _, dialogue = await mcp_asked(context, body, (before, own), dialogue, None)
        search = await searched(context, answering, adapter, principal, body, dialogue)
        dialogue = dialogue if search is None else search.dialogue
        counted = await count_prompt(answering.model, dialogue, principal.caller)
        return json_response(_encode(InputTokenCount(counted)))

    @routes.post("/v1/responses/compact", summary="Compact a conversation", response_model=None)
    async def compact(request: Request, body: CompactRequest) -> HttpResponse:
        _, answering, _ = await named_or_auto(context, body.model, tenant_of(request))
        reading = as_text(context, answering.model, body, tenant_of(request))
        body, _ = await attended(reading, request.scope, request.receive, context.stopped)
        return json_response(_encode(await compacted(context, answering, principal_of(request), body)))

    routes.routes += stored_router(context).routes
    return routes


async def _begin(
    context: ServerContext,
    tenant: Tenant,
    builder: ResponseBuilder,
    own: list[Item],
    events_of: Callable[[Keep], AsyncGenerator[ResponseEvent, None]],
) -> Run:
    """Starts a background response. It is stored before any client learns of it."""
    background, state = context.background, context.state
    background.check_room()
    lease_s = context.options.files.job_lease_s
    await state.responses.begin(tenant, stored_of(builder, own, ()), state.owner, lease_s)
    run = Run(lambda: _encode(builder.response))

    async def keep(last: ResponseEvent) -> None:
        # Cancelled while it is written, the row would stay unfinished
        await to_its_end(kept(last))

    async def kept(last: ResponseEvent) -> None:
        await store(state, tenant, builder, own)
        events = [*run.recording.events, frame(last)]
        await state.responses.finish(tenant, stored_of(builder, own, events), state.owner)

    async def work() -> None:
        events = events_of(keep)
        try:
            async for event in events:
                run.recording.add(frame(event))
        finally:
            await events.aclose()
            if builder.response.status in ("queued", "in_progress"):  # cancelled, or the server stops
                if run.cancelled:
                    builder.cancel()
                else:
                    for event in builder.fail(_stopped()):
                        run.recording.add(frame(event))
                await state.responses.finish(
                    tenant, stored_of(builder, own, run.recording.events), state.owner
                )

    await background.start(tenant, builder.response.id, run, work())
    return run


def _stopped() -> InvalidRequest:
    return InvalidRequest("the server stopped before this was finished", fix="send it again")


async def _whole(events: AsyncGenerator[ResponseEvent, None], builder: ResponseBuilder) -> bytes:
    async for _ in events:
        pass
    return _encode(builder.response)


async def _framed(events: AsyncGenerator[ResponseEvent, None]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield frame(event)
