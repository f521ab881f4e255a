"""`AttachmentMetrics`: the attachments of conversations that became text, and the time that this took."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["AttachmentMetrics"]


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
