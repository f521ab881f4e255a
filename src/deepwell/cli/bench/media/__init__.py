"""Verbs of `deepwell bench` on recordings and speech."""

from __future__ import annotations

from deepwell.cli.bench.media.recognition import speech_recognition
from deepwell.cli.bench.media.speech import speech_round_trip

__all__ = ["speech_recognition", "speech_round_trip"]
