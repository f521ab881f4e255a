"""Metrics of MCP: what clients call here, and the sessions that are open, in both directions."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["McpMetrics"]


class McpMetrics:
    """The gauge of open sessions, and the counter of calls."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sessions = Gauge(
            "deepwell_mcp_sessions",
            "MCP sessions that are open: of clients here, and with servers of others.",
            ("side",),
            registry=registry,
        )
        for side in ("server", "client"):
            self.sessions.labels(side)
        self.calls = Counter(
            "deepwell_mcp_calls",
            "Calls of tools by MCP clients, by tool and outcome.",
            ("tool", "outcome"),
            registry=registry,
        )
        self.remote_calls = Counter(
            "deepwell_mcp_remote_calls",
            "Calls of tools on MCP servers of others, by outcome.",
            ("outcome",),
            registry=registry,
        )
