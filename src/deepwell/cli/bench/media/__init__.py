"""Verbs of `deepwell bench` on recordings, speech, images, the space that they share, and the router."""

from __future__ import annotations

from deepwell.cli.bench.media.hostile import hostile_files, media_hostile
from deepwell.cli.bench.media.images import image_generation, media_size
from deepwell.cli.bench.media.recognition import speech_recognition
from deepwell.cli.bench.media.router import media_router
from deepwell.cli.bench.media.sdk import media_sdk
from deepwell.cli.bench.media.space import media_dynamic_weights, media_shared_encoder, media_space
from deepwell.cli.bench.media.speech import speech_round_trip

__all__ = [
    "hostile_files",
    "image_generation",
    "media_dynamic_weights",
    "media_hostile",
    "media_router",
    "media_sdk",
    "media_shared_encoder",
    "media_size",
    "media_space",
    "speech_recognition",
    "speech_round_trip",
]
