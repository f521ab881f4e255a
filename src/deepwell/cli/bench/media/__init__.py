"""Verbs of `deepwell bench` on recordings and speech."""

from __future__ import annotations

from deepwell.cli.bench.media.recognition import speech_recognition

__all__ = ["speech_recognition"]
