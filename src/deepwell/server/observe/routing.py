"""`RoutingMetrics`: what requests for the model `auto` asked for."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter

__all__ = ["RoutingMetrics"]


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
