"""Settings of speech: the models that turn recordings into text and text into speech, and the length of recordings."""

from __future__ import annotations

from pydantic import Field

from deepwell.settings.section import Section

__all__ = ["RecognitionSettings"]


class RecognitionSettings(Section):
    """The section of speech: the models of both directions, and the length of recordings."""

    recognition_model: str = Field(
        "whisper-tiny.en",
        description="Model that turns recordings into text where a request asks for whisper-1: a name in the store, or a path.",
    )
    recognition_most_s: float = Field(
        3600.0, ge=1, le=86400, description="Longest recording that is turned into text, in seconds."
    )
    speech_model: str = Field(
        "kokoro",
        description="Model that reads text aloud where a request asks for tts-1 or its like: a name in the store, or a path.",
    )
