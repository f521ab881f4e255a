"""Verbs of `deepwell bench` on recordings, speech and the space of text, image and sound."""

from __future__ import annotations

from deepwell.cli.bench.media.recognition import speech_recognition
from deepwell.cli.bench.media.space import media_dynamic_weights, media_shared_encoder, media_space
from deepwell.cli.bench.media.speech import speech_round_trip

__all__ = [
    "media_dynamic_weights",
    "media_shared_encoder",
    "media_space",
    "speech_recognition",
    "speech_round_trip",
]
