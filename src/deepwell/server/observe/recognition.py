"""`RecognitionMetrics`: the sound that was turned into text, and the time that this took."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

__all__ = ["RecognitionMetrics"]


class RecognitionMetrics:
    """Counters of the sound that was turned into text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Counter(
            "deepwell_recognised_seconds",
            "Seconds of recordings that were turned into text.",
            ("model",),
            registry=registry,
        )
        self.busy_seconds = Counter(
            "deepwell_recognition_busy_seconds",
            "Seconds that turning recordings into text took, without the wait for the model.",
            ("model",),
            registry=registry,
        )
