"""Counters and timings of sounds and images: what came in, what was made, and the time that it took."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["AttachmentMetrics", "ImageMetrics", "RecognitionMetrics", "RoutingMetrics", "SpeechMetrics"]


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


class ImageMetrics:
    """Counters of drawn and refused images."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.drawn = Counter(
            "deepwell_images_drawn", "Images that were drawn.", ("model",), registry=registry
        )
        self.refused = Counter(
            "deepwell_images_refused",
            "Images that the safety model refused, by whether they were sent or drawn.",
            ("model", "side"),
            registry=registry,
        )
        self.busy_seconds = Counter(
            "deepwell_image_busy_seconds",
            "Seconds that drawing took, with the wait for other requests.",
            ("model",),
            registry=registry,
        )
        self.first_image = Histogram(
            "deepwell_first_image_seconds",
            "Seconds from a request to its first image, finished or not.",
            ("model",),
            buckets=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
            registry=registry,
        )


class AttachmentMetrics:
    """Counters of attachments by kind: image, sound or file."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.read = Counter(
            "deepwell_attachments",
            "Attachments of conversations, by whether their text was made, remembered, or not to be had.",
            ("kind", "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "deepwell_attachment_seconds",
            "Seconds from an attachment to its text, where it was made.",
            ("kind",),
            buckets=(0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
            registry=registry,
        )


class RoutingMetrics:
    """Counter of choices between text, pictures, speech and transcriptions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._choices = Counter(
            "deepwell_routed_requests",
            "Requests for the model `auto`, by what they were taken to ask for and what decided.",
            ("intents", "by"),
            registry=registry,
        )

    def routed(self, intents: Sequence[str], by: str) -> None:
        """Counts a choice."""
        self._choices.labels("+".join(intents), by).inc()
