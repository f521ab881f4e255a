"""Verbs of `deepwell bench` on recordings, speech and images."""

from __future__ import annotations

from deepwell.cli.bench.media.hostile import media_hostile
from deepwell.cli.bench.media.recognition import speech_recognition
from deepwell.cli.bench.media.speech import speech_round_trip

__all__ = ["media_hostile", "speech_recognition", "speech_round_trip"]
