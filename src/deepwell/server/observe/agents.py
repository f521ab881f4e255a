"""Metrics and spans of agents: runs and calls of tools, by OpenTelemetry's names."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from deepwell.server.observe.observer import Observer
from deepwell.server.observe.record import Phase
from deepwell.server.observe.semconv import (
    INVOKE_AGENT_DURATION,
    TOOL_DURATION,
    Attribute,
    prometheus_name,
)

__all__ = ["AgentMetrics", "RunTrace"]

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


class RunTrace:
    """The spans of a run, from when a worker takes it to when it ends or waits. Prompts and results are in none.

    Args:
        observer: takes them at the end; nothing is kept where it makes no traces.
    """

    def __init__(self, observer: Observer, tenant: str, run_id: str, model: str) -> None:
        self._observer = observer
        self._record = observer.begin_run(run_id) if observer.traces else None
        if self._record is not None:
            self._record.tenant, self._record.model = tenant, model
        self._asked = time.perf_counter()

    def turned(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Notes a turn of the model, which began where the last step ended."""
        if self._record is None:
            return
        attributes: dict[str, str | int] = {
            Attribute.OPERATION: "chat",
            Attribute.MODEL: self._record.model,
            Attribute.INPUT_TOKENS: prompt_tokens,
            Attribute.OUTPUT_TOKENS: completion_tokens,
        }
        self._phase(f"chat {self._record.model}", self._asked, attributes)
        self._record.prompt_tokens += prompt_tokens
        self._record.completion_tokens += completion_tokens

    def called(self, tool: str, outcome: str, seconds: float) -> None:
        """Notes a call of a tool that has just ended."""
        attributes: dict[str, str | int] = {
            Attribute.OPERATION: "execute_tool",
            Attribute.TOOL: tool,
            "deepwell.agent.outcome": outcome,
        }
        self._phase(f"execute_tool {tool}", time.perf_counter() - seconds, attributes)

    def stepped(self) -> None:
        """Notes that a step was kept: what comes next begins here."""
        self._asked = time.perf_counter()

    def ended(self, status: str) -> None:
        """Hands the spans over."""
        record = self._record
        if record is None:
            return
        record.duration_s = time.perf_counter() - record.started
        record.finish_reason = status
        record.error = "failed" if status == "failed" else ""
        self._observer.end(record)

    def _phase(self, name: str, begin: float, attributes: dict[str, str | int]) -> None:
        if self._record is not None:
            self._record.phases.append(Phase(name, begin, time.perf_counter(), dict(attributes)))
