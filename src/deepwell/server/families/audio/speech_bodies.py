"""The events of `POST /v1/audio/speech`."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["AudioDelta", "AudioDone", "SpeechUsage"]


class SpeechUsage(Struct):
    """The size of a request: input tokens are the sounds that the model read; sound is not counted in tokens."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class AudioDelta(Struct, tag_field="type", tag="speech.audio.delta"):
    """The event of further bytes of the file, in base64."""

    audio: str


class AudioDone(Struct, tag_field="type", tag="speech.audio.done"):
    """The event of the whole file."""

    usage: SpeechUsage
