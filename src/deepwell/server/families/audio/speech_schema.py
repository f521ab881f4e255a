"""The requests of `POST /v1/audio/speech`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from deepwell.media.speech.options import MAX_SPEED, MIN_SPEED
from deepwell.server.http.schema import Strict

__all__ = ["MAX_CHARACTERS", "SpeechRequestBody", "VoiceId"]

MAX_CHARACTERS = 4096
"""Longest input, as with OpenAI."""


def _instructions(value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        raise PydanticCustomError(
            "instructions",
            "the model follows no instructions: leave them out, and choose a voice and a speed",
        )
    return value


class VoiceId(Strict):
    """A voice by its id."""

    id: str


class SpeechRequestBody(Strict):
    """`POST /v1/audio/speech`."""

    model: str = Field(
        description="A speech model of the store, or `espeak` for the program espeak-ng. OpenAI's names, such as `tts-1`,"
        " stand for that of the setting speech_model."
    )
    input: str = Field(
        min_length=1, max_length=MAX_CHARACTERS, description="Text in Chinese, English or both."
    )
    voice: str | VoiceId = Field(
        description="A voice of the model, such as `af_heart` or `zf_xiaoxiao`. OpenAI's names, such as `alloy`, take a voice"
        " of the text's language; the header `x-voice` of the answer says which."
    )
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = Field(
        "mp3", description="`pcm` is 16-bit mono at 24 kHz without a header; `opus` comes in Ogg."
    )
    speed: float = Field(1.0, ge=MIN_SPEED, le=MAX_SPEED)
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="Either way the first sentence is sent before the second is made."
    )
    instructions: Annotated[str | None, BeforeValidator(_instructions, json_schema_input_type=str | None)] = (
        Field(None, description="Refused unless empty: the model follows none.")
    )

    @property
    def voice_name(self) -> str:
        """The name of the voice."""
        return self.voice if isinstance(self.voice, str) else self.voice.id
