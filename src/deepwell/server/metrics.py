"""What `/metrics` shows, in a registry of its own: engine counters are read when asked, not kept twice."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepwell.engine.protocol import Engine

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_INTER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class _EngineCollector(Collector):
    """`EngineStats` as Prometheus metrics."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats()
        for name, what, value in (
            ("steps", "Engine steps.", stats.steps),
            ("prompt_tokens", "Prompt tokens computed, cached ones excluded.", stats.prompt_tokens),
            ("cached_tokens", "Prompt tokens served from the prefix cache.", stats.cached_tokens),
            ("generated_tokens", "Tokens generated.", stats.generated_tokens),
            ("drafted_tokens", "Tokens computed ahead by speculation.", stats.drafted_tokens),
            ("accepted_tokens", "Drafted tokens that were drawn as well.", stats.accepted_tokens),
            ("preemptions", "Sequences that gave up their cache and started over.", stats.preemptions),
            ("aborted", "Sequences aborted, by hang-ups and stop strings among others.", stats.aborted),
            ("busy_seconds", "Seconds spent in engine steps.", stats.busy_seconds),
            ("expert_rows", "Rows that routed experts have computed.", sum(map(sum, stats.expert_loads))),
            ("expert_reads", "Times that the weights of a routed expert were read.", stats.expert_reads),
        ):
            yield CounterMetricFamily(f"deepwell_{name}", what, value)
        for name, what, value in (
            ("running", "Sequences in the batch.", stats.running),
            ("waiting", "Sequences in the queue.", stats.waiting),
            ("kv_blocks", "KV cache blocks there are.", stats.blocks_total),
            ("kv_blocks_used", "KV cache blocks of running sequences.", stats.blocks_used),
            ("kv_blocks_cached", "KV cache blocks kept for prefix hits.", stats.blocks_cached),
            (
                "kv_usage_ratio",
                "Used part of the KV cache, 0 to 1.",
                stats.blocks_used / max(stats.blocks_total, 1),
            ),
            (
                "expert_imbalance_ratio",
                "Load of the busiest expert over the mean of its layer, in the layer where it is largest.",
                stats.expert_imbalance,
            ),
        ):
            yield GaugeMetricFamily(f"deepwell_{name}", what, value)


class Metrics:
    """The server's own counters and timings."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine))
        self.requests = Counter(
            "deepwell_requests", "Responses.", ("route", "status"), registry=self.registry
        )
        self._lookups = Counter(
            "deepwell_response_cache_lookups",
            "Choices that could be reused: found whole, joined in flight, or generated.",
            ("result",),
            registry=self.registry,
        )
        self.first_token = Histogram(
            "deepwell_time_to_first_token_seconds",
            "From the request to its first token.",
            buckets=_FIRST_TOKEN_S,
            registry=self.registry,
        )
        self.inter_token = Histogram(
            "deepwell_inter_token_seconds",
            "Between two updates of one choice.",
            buckets=_INTER_TOKEN_S,
            registry=self.registry,
        )

    def count_lookup(self, result: str) -> None:
        """Count a question to the response cache: "hit", "joined" or "miss"."""
        self._lookups.labels(result).inc()

    def text(self) -> bytes:
        """The Prometheus text exposition."""
        return generate_latest(self.registry)
