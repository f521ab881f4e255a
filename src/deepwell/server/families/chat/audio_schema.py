"""Spoken answers in chat requests: the voice and the format that are wished for, and answers that come back."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from deepwell.server.families.audio.speech_schema import VoiceId
from deepwell.server.http.schema import Strict, either
from deepwell.server.routing.speech import VoiceWish

__all__ = ["AudioBack", "AudioOutput"]


class AudioOutput(Strict):
    """The voice of the answer, and the format of its sound."""

    voice: either(str, VoiceId) = Field(  # pyright: ignore[reportInvalidTypeForm]
        description="A voice of the speech model, or a name of OpenAI's, such as `alloy`, which takes a voice of the"
        " text's language."
    )
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"] = Field(
        description="`pcm16` is 16-bit mono at 24 kHz without a header; a stream carries no other."
    )

    def wish(self) -> VoiceWish:
        """Returns the wish as the rest of the server takes it."""
        voice: Any = self.voice
        return VoiceWish(voice if isinstance(voice, str) else voice.id, self.format)


class AudioBack(Strict):
    """A spoken answer that is sent back: its id, or the whole object as it came."""

    id: str = Field(min_length=1, max_length=128)
    data: str | None = None
    transcript: str | None = None
    expires_at: int | None = None
    format: str | None = None
