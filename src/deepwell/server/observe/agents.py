"""Metrics of agents: durations of runs and of calls of tools, by OpenTelemetry's names."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from deepwell.server.observe.semconv import INVOKE_AGENT_DURATION, TOOL_DURATION, prometheus_name

__all__ = ["AgentMetrics"]

_OTHER: Final = "function"
"""Label of tools that a client or another server named: their names could be any number."""


class AgentMetrics:
    """Durations and ends of runs, and of calls by tool and outcome."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name, unit, buckets = TOOL_DURATION
        self._calls = Histogram(
            prometheus_name(name, unit),
            "Time of one call of a tool.",
            ("gen_ai_tool_name", "outcome"),
            buckets=buckets,
            registry=registry,
        )
        name, unit, buckets = INVOKE_AGENT_DURATION
        self._runs = Histogram(
            prometheus_name(name, unit),
            "Time that a run of an agent was at work, in all.",
            ("status",),
            buckets=buckets,
            registry=registry,
        )
        self._notes = Counter(
            "deepwell_agent_notes",
            "Remarks of the loop's checks to models, by check.",
            ("check",),
            registry=registry,
        )

    def called(self, tool: str, outcome: str, seconds: float, *, is_own: bool) -> None:
        """Counts a call."""
        self._calls.labels(tool if is_own else _OTHER, outcome).observe(seconds)

    def ended(self, status: str, seconds: float) -> None:
        """Counts a run that has ended."""
        self._runs.labels(status).observe(seconds)

    def noted(self, check: str) -> None:
        """Counts a remark of a check."""
        self._notes.labels(check).inc()
