"""`SpeechMetrics`: the sound that was made of text, and the time that this took."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["SpeechMetrics"]


class SpeechMetrics:
    """Counters of the sound that was made of text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Counter(
            "deepwell_spoken_seconds",
            "Seconds of speech that was made of text.",
            ("model",),
            registry=registry,
        )
        self.busy_seconds = Counter(
            "deepwell_speech_busy_seconds",
            "Seconds that making speech took, with the wait for other texts.",
            ("model",),
            registry=registry,
        )
        self.first_sound = Histogram(
            "deepwell_speech_first_sound_seconds",
            "Seconds from a request to its first sound.",
            ("model",),
            buckets=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
            registry=registry,
        )
