"""The bodies of `/v1/audio/transcriptions` and `/v1/audio/translations`, and the events of their streams."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "DurationUsage",
    "TextDelta",
    "TextDone",
    "TranscribedSegment",
    "TranscribedWord",
    "Transcription",
    "Translation",
    "VerboseTranscription",
]


class DurationUsage(Struct):
    """The sound that a request used, in seconds."""

    seconds: float
    type: Literal["duration"] = "duration"


class TranscribedWord(Struct):
    """A word with its times in seconds."""

    word: str
    start: float
    end: float


class TranscribedSegment(Struct):
    """A stretch of a transcript with its times in seconds."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class Transcription(Struct):
    """A transcript."""

    text: str
    usage: DurationUsage


class Translation(Struct):
    """A transcript in English of a recording in any language."""

    text: str


class VerboseTranscription(Struct):
    """A transcript with its segments, words, or both."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    words: list[TranscribedWord] | UnsetType = UNSET
    segments: list[TranscribedSegment] | UnsetType = UNSET
    usage: DurationUsage | UnsetType = UNSET


class TextDelta(Struct, tag_field="type", tag="transcript.text.delta"):
    """The event of a further stretch of a transcript."""

    delta: str


class TextDone(Struct, tag_field="type", tag="transcript.text.done"):
    """The event of a whole transcript. OpenAI's has a usage in tokens or none, and there are no tokens here."""

    text: str
