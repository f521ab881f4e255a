"""Settings of recognition: the model that turns recordings into text, and the length of recordings."""

from __future__ import annotations

from pydantic import Field

from deepwell.settings.section import Section

__all__ = ["RecognitionSettings"]


class RecognitionSettings(Section):
    """The section of recognition: the model that turns recordings into text, and the length of recordings."""

    recognition_model: str = Field(
        "whisper-tiny.en",
        description="Model that turns recordings into text where a request asks for whisper-1: a name in the store, or a path.",
    )
    recognition_most_s: float = Field(
        3600.0, ge=1, le=86400, description="Longest recording that is turned into text, in seconds."
    )
