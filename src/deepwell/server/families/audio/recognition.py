"""`/v1/audio/transcriptions` and `/v1/audio/translations`: recordings become text."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fastapi import APIRouter, Request
from msgspec import structs
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.audio.schema import (
    FORM_OF_TRANSCRIPTION,
    FORM_OF_TRANSLATION,
    LISTS,
    RecognitionForm,
)
from deepwell.server.families.audio.transcribing import Transcribing
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.guard import ServerGuard
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.http.multipart import Form, read_form
from deepwell.server.http.sse import Answer, EventStream
from deepwell.server.observe.record import current

__all__ = ["RECORDING_FIX", "router"]

RECORDING_FIX = (
    "compress it (ffmpeg -i FILE call.ogg), or start the server with a higher DEEPWELL_MAX_FILE_BYTES"
)


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    recognisers = context.media.recognisers

    async def recognise(request: Request, *, translate: bool) -> Response:
        draft, limit = context.state.files.draft, context.options.files.max_file_bytes
        try:
            form = await read_form(request, "file", draft, limit, RECORDING_FIX, lists=LISTS)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        try:
            work = await prepare(request, form, translate=translate)
        except BaseException:
            form.file.discard()
            raise
        if work.form.stream:
            return EventStream(work.events(), context.stopped, end=b"")
        return Answer(work.whole(), context.stopped, work.media_type)

    async def prepare(request: Request, form: Form, *, translate: bool) -> Transcribing:
        asked = RecognitionForm.of(form, translate=translate)
        recogniser = await recognisers.find(asked.model)
        if (record := current()) is not None:
            record.model = recogniser.model.name  # now, because the guard may refuse the prompt
        checked, tenant = None, tenant_of(request)
        if context.guard is not None:
            asked, checked = await read_prompt(context.guard, asked, tenant)
        await asyncio.to_thread(form.file.close)
        return Transcribing(context, tenant, recogniser, form.file, asked, checked)

    @routes.post(
        "/v1/audio/transcriptions",
        summary="Turn a recording into text",
        response_model=None,
        openapi_extra=FORM_OF_TRANSCRIPTION,
    )
    async def transcriptions(request: Request) -> Response:
        return await recognise(request, translate=False)

    @routes.post(
        "/v1/audio/translations",
        summary="Turn a recording in any language into English text",
        response_model=None,
        openapi_extra=FORM_OF_TRANSLATION,
    )
    async def translations(request: Request) -> Response:
        return await recognise(request, translate=True)

    return routes


async def read_prompt(
    guard: ServerGuard, asked: RecognitionForm, tenant: str
) -> tuple[RecognitionForm, Checked]:
    """Lets the guard read the prompt of a form. Returns the form as the model may see it.

    Raises:
        InvalidRequest: the policy blocks the prompt.
    """
    prompts = [asked.options.prompt] if asked.options.prompt else []
    treated, checked = await guard.read_texts(prompts, tenant)
    if checked.blocked:
        raise InvalidRequest.of("recognition_prompt_refused", rule=checked.refused_by, param="prompt")
    if treated != prompts:
        asked = replace(asked, options=structs.replace(asked.options, prompt=treated[0]))
    return asked, checked
