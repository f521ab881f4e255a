"""`ImageMetrics`: the images that were drawn, and the time that this took."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["ImageMetrics"]


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
