"""`POST /v1/audio/speech`: text becomes speech."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.media.speech.encode import LABEL, MEDIA_TYPES
from deepwell.media.speech.options import planned_speech
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.audio.speaking import Speaking
from deepwell.server.families.audio.speech_schema import SpeechRequestBody
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.sse import EventStream
from deepwell.server.observe.record import current

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)
    speakers = context.media.speakers

    @routes.post("/v1/audio/speech", summary="Read a text aloud", response_model=None)
    async def speech(request: Request, body: SpeechRequestBody) -> Response:
        speaker = await speakers.find(body.model)
        if (record := current()) is not None:
            record.model = speaker.model.name  # now, because the guard may refuse the text
        tenant = tenant_of(request)
        text = await _read(context, body.input, tenant)
        label = "" if context.guard is None else context.guard.file_label(f"speech-{uuid.uuid4().hex}")
        planned = planned_speech(
            speaker.model,
            text,
            voice=body.voice_name,
            speed=body.speed,
            format=body.response_format,
            label=label,
        )
        work = Speaking(context, tenant, speaker, planned)
        if body.stream_format == "sse":
            stream = EventStream(work.events(), context.stopped, end=b"")
        else:
            media_type = MEDIA_TYPES[body.response_format]
            stream = EventStream(work.audio(), context.stopped, end=b"", failed=_cut, media_type=media_type)
        stream.headers["x-voice"] = planned.voice.name
        if label:
            stream.headers[f"x-{LABEL.lower()}"] = label  # for PCM, which has no metadata
        return stream

    return routes


def _cut(error: DeepwellError) -> bytes:
    """Ends the connection: an error among the bytes of a file is noise, and a short file would pass for a whole one."""
    raise error


async def _read(context: ServerContext, text: str, tenant: str) -> str:
    """Returns a text as it may be said.

    Raises:
        InvalidRequest: the policy blocks it.
    """
    if context.guard is None:
        return text
    (treated,), checked = await context.guard.read_texts([text], tenant)
    if checked.blocked:
        raise InvalidRequest.of("speech_text_refused", rule=checked.refused_by, param="input")
    return treated
