"""The family of audio."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter

from deepwell.server.context import ServerContext
from deepwell.server.families.audio import recognition, speech
from deepwell.server.families.audio.bodies import Transcription, Translation
from deepwell.server.families.audio.speech_schema import SpeechRequestBody
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.http.middleware import BodyAllowance
from deepwell.server.http.multipart import FORM_OVERHEAD_BYTES

__all__ = ["FAMILY"]

_TRANSCRIPTIONS = "/v1/audio/transcriptions"
_TRANSLATIONS = "/v1/audio/translations"
_VOICES = "voices are those of the speech model: no recording becomes a new one"


def _router(context: ServerContext) -> APIRouter:
    routes = APIRouter(route_class=LazyRoute)
    for part in (recognition.router(context), speech.router(context)):
        routes.routes += part.routes
    return routes


def _allowances(context: ServerContext) -> Mapping[str, BodyAllowance]:
    most = context.options.files.max_file_bytes + FORM_OVERHEAD_BYTES
    allowance = BodyAllowance(most, recognition.RECORDING_FIX)
    return {_TRANSCRIPTIONS: allowance, _TRANSLATIONS: allowance}


FAMILY = Family(
    Declaration(
        (
            Operation("post", _TRANSCRIPTIONS, Transcription, streams=True, name="transcription"),
            Operation("post", _TRANSLATIONS, Translation, name="translation"),
            Operation(
                "post",
                "/v1/audio/speech",
                "bytes",
                request=SpeechRequestBody,
                streams=True,
                name="speech",
            ),
        ),
        in_one_process=True,  # one process of each model
        not_served={
            "POST /v1/audio/voice_consents": _VOICES,
            "GET /v1/audio/voice_consents": _VOICES,
            "POST /v1/audio/voices": _VOICES,
            "DELETE /v1/audio/voices/{voice_id}": _VOICES,
            "POST /v1/audio/voice_consents/{consent_id}": _VOICES,
            "GET /v1/audio/voice_consents/{consent_id}": _VOICES,
            "DELETE /v1/audio/voice_consents/{consent_id}": _VOICES,
        },
    ),
    _router,
    body_allowances=_allowances,
)
