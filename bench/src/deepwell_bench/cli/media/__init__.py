"""Verbs of `deepwell bench` on recordings, speech, images, the space that they share, and the router."""

from __future__ import annotations

from deepwell_bench.cli.media.hostile import hostile_files, media_hostile
from deepwell_bench.cli.media.images import image_generation, media_size
from deepwell_bench.cli.media.recognition import speech_recognition
from deepwell_bench.cli.media.router import media_router
from deepwell_bench.cli.media.sdk import media_sdk
from deepwell_bench.cli.media.space import media_dynamic_weights, media_shared_encoder, media_space
from deepwell_bench.cli.media.speech import speech_round_trip

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
