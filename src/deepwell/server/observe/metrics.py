"""The metrics that `/metrics` shows, in a registry of their own. Engine counters are read on demand, not kept twice.

Metrics that OpenTelemetry's GenAI conventions define have those names (`observe.semconv`); all others are `deepwell_*`.
Label values come from the code and the served models alone, never from clients: a hostile path or model name adds no
series.
"""

from __future__ import annotations

import os
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepwell.engine.protocol import Engine
from deepwell.safety.findings import Decision
from deepwell.server.observe.agents import AgentMetrics
from deepwell.server.observe.contexts import ContextMetrics
from deepwell.server.observe.loop_lag import LoopLag
from deepwell.server.observe.mcp import McpMetrics
from deepwell.server.observe.media import (
    AttachmentMetrics,
    ImageMetrics,
    RecognitionMetrics,
    RoutingMetrics,
    SpeechMetrics,
)
from deepwell.server.observe.record import current
from deepwell.server.observe.rollouts import RolloutMetrics
from deepwell.server.observe.semconv import (
    PROVIDER,
    REQUEST_DURATION,
    TIME_PER_OUTPUT_TOKEN,
    TIME_TO_FIRST_TOKEN,
    TOKEN_USAGE,
    Attribute,
    prometheus_label,
    prometheus_name,
)
from deepwell.version import deepwell_version

__all__ = ["CONTENT_TYPE", "Metrics"]

disable_created_metrics()  # otherwise every counter has a second series, with its creation time

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_INTER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_GUARD_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0)
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

_COUNTERS = (
    ("steps", "Engine steps.", lambda stats: stats.steps),
    ("prompt_tokens", "Prompt tokens computed, cached ones excluded.", lambda stats: stats.prompt_tokens),
    ("cached_tokens", "Prompt tokens served from the prefix cache.", lambda stats: stats.cached_tokens),
    ("generated_tokens", "Tokens generated.", lambda stats: stats.generated_tokens),
    ("drafted_tokens", "Tokens computed ahead by speculation.", lambda stats: stats.drafted_tokens),
    ("accepted_tokens", "Drafted tokens that were drawn as well.", lambda stats: stats.accepted_tokens),
    (
        "predicted_tokens",
        "Drafts of the model's multi-token prediction layer.",
        lambda stats: stats.predicted_tokens,
    ),
    (
        "accepted_predictions",
        "Drafts of the prediction layer that were drawn as well.",
        lambda stats: stats.accepted_predictions,
    ),
    (
        "preemptions",
        "Sequences that gave up their cache and started over.",
        lambda stats: stats.preemptions,
    ),
    (
        "aborted",
        "Sequences aborted, by hang-ups and stop strings among others.",
        lambda stats: stats.aborted,
    ),
    ("busy_seconds", "Seconds spent in engine steps.", lambda stats: stats.busy_seconds),
    (
        "expert_rows",
        "Rows that routed experts have computed.",
        lambda stats: sum(map(sum, stats.expert_loads)),
    ),
    (
        "expert_reads",
        "Times that the weights of a routed expert were read.",
        lambda stats: stats.expert_reads,
    ),
    ("engine_restarts", "Times that the engine's process was replaced.", lambda stats: stats.restarts),
)
_GAUGES = (
    ("running", "Sequences in the batch.", lambda stats: stats.running),
    ("waiting", "Sequences in the queue.", lambda stats: stats.waiting),
    (
        "engine_available",
        "1 while there is an engine, 0 while it is being restarted.",
        lambda stats: float(stats.available),
    ),
    ("kv_blocks", "KV cache blocks there are.", lambda stats: stats.blocks_total),
    ("kv_blocks_used", "KV cache blocks of running sequences.", lambda stats: stats.blocks_used),
    ("kv_blocks_cached", "KV cache blocks kept for prefix hits.", lambda stats: stats.blocks_cached),
    (
        "kv_usage_ratio",
        "Used part of the KV cache, 0 to 1.",
        lambda stats: stats.blocks_used / max(stats.blocks_total, 1),
    ),
    (
        "expert_imbalance_ratio",
        "Load of the busiest expert over the mean of its layer, in the layer where it is largest.",
        lambda stats: stats.expert_imbalance,
    ),
)


class _HostState(Protocol):
    """The models on demand, as the process that loads them last told."""

    @property
    def budget_bytes(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def loads(self) -> int: ...
    @property
    def load_seconds(self) -> float: ...
    @property
    def unloads(self) -> int: ...
    @property
    def failures(self) -> int: ...


class ModelHostState(Protocol):
    """Source of the state of the models on demand."""

    @property
    def state(self) -> _HostState: ...


_HOST_GAUGES = (
    (
        "on_demand_bytes",
        "Planned memory of the models that were loaded on demand.",
        lambda state: state.used_bytes,
    ),
    ("on_demand_budget_bytes", "Memory for models on demand.", lambda state: state.budget_bytes),
)
_HOST_COUNTERS = (
    ("model_loads", "Models loaded on demand.", lambda state: state.loads),
    ("model_load_seconds", "Seconds that loads on demand took.", lambda state: state.load_seconds),
    ("model_unloads", "Models unloaded again.", lambda state: state.unloads),
    ("model_load_failures", "Loads on demand that failed.", lambda state: state.failures),
)


class _EngineCollector(Collector):
    """`EngineStats` of every served engine as Prometheus metrics, by model, and facts about these engines."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines
        self.host: ModelHostState | None = None

    def collect(self) -> Iterable[Metric]:
        if self.host is not None:
            state = self.host.state
            for name, what, read in _HOST_GAUGES:
                yield GaugeMetricFamily(f"deepwell_{name}", what, value=read(state))
            for name, what, read in _HOST_COUNTERS:
                yield CounterMetricFamily(f"deepwell_{name}", what, value=read(state))
        engines = dict(self._engines)
        stats = {model: engine.stats() for model, engine in engines.items()}
        for name, what, read in _COUNTERS:
            counter = CounterMetricFamily(f"deepwell_{name}", what, labels=("model",))
            for model, one in stats.items():
                counter.add_metric((model,), read(one))
            yield counter
        for name, what, read in _GAUGES:
            gauge = GaugeMetricFamily(f"deepwell_{name}", what, labels=("model",))
            for model, one in stats.items():
                gauge.add_metric((model,), read(one))
            yield gauge
        labels = ("model", "version", "architecture", "precision", "backend", "isa")
        info = GaugeMetricFamily("deepwell_model_info", "What is served; always 1.", labels=labels)
        for model, engine in engines.items():
            runs = engine.capabilities()
            facts = (deepwell_version(), runs.architecture, runs.precision, runs.backend, runs.isa)
            info.add_metric((model, *facts), 1)
        yield info


class Waiting:
    """Requests to a model that have seen no token yet. The oldest one tells the age of the queue."""

    def __init__(self) -> None:
        self._since: dict[object, float] = {}

    def begin(self, who: object, now: float) -> None:
        """Adds a waiting request."""
        self._since[who] = now

    def end(self, who: object) -> None:
        """Removes a request that waits no longer."""
        self._since.pop(who, None)

    def oldest_s(self) -> float:
        """Returns how long the oldest request has waited, in seconds; 0 if none waits."""
        first = next(iter(list(self._since.values())), None)  # in order of arrival
        return 0.0 if first is None else max(0.0, time.perf_counter() - first)


@dataclass(frozen=True, slots=True)
class _Generation:
    """The GenAI instruments of one operation on one model, looked up once."""

    durations: Mapping[str, str]
    family: Histogram
    first_token: Histogram
    per_token: Histogram
    input_tokens: Histogram
    output_tokens: Histogram

    def duration(self, error: str) -> Histogram:
        """Returns the durations of requests that ended with this error; empty: with none."""
        return self.family.labels(**self.durations, **{prometheus_label(Attribute.ERROR_TYPE): error})


def _generations(registry: CollectorRegistry) -> Callable[[str, str], _Generation]:
    """Registers the GenAI instruments; returns a look-up of them by operation and model."""
    by_model = tuple(map(prometheus_label, (Attribute.OPERATION, Attribute.PROVIDER, Attribute.MODEL)))

    def genai(metric: tuple[str, str, tuple[float, ...]], what: str, *more: str) -> Histogram:
        name, unit, buckets = metric
        labels = (*by_model, *map(prometheus_label, more))
        return Histogram(prometheus_name(name, unit), what, labels, buckets=buckets, registry=registry)

    duration = genai(REQUEST_DURATION, "From the request to its last token.", Attribute.ERROR_TYPE)
    first = genai(TIME_TO_FIRST_TOKEN, "From the request to its first token.")
    per_token = genai(TIME_PER_OUTPUT_TOKEN, "Between tokens behind the first, mean of each request.")
    usage = genai(TOKEN_USAGE, "Tokens of a request's prompt and of its answer.", Attribute.TOKEN_TYPE)

    @cache  # a handful of pairs: `model` is one that is served here
    def generation(operation: str, model: str) -> _Generation:
        labels = dict(zip(by_model, (operation, PROVIDER, model), strict=True))
        kind = prometheus_label(Attribute.TOKEN_TYPE)
        return _Generation(
            labels,
            duration,
            first.labels(**labels),
            per_token.labels(**labels),
            usage.labels(**labels, **{kind: "input"}),
            usage.labels(**labels, **{kind: "output"}),
        )

    return generation


def _damaged(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "deepwell_database_damaged",
        "Whether the last examination of the database found damage. It is examined daily.",
        registry=registry,
        multiprocess_mode="livemax",
    )


def _valkey(registry: CollectorRegistry) -> tuple[Gauge, Counter]:
    up = Gauge(
        "deepwell_valkey_up",
        "Whether Valkey answers; 1 where none is configured.",
        registry=registry,
        multiprocess_mode="livemin",
    )
    up.set(1)
    return up, Counter("deepwell_valkey_failures", "Commands that Valkey did not answer.", registry=registry)


def _connections(registry: CollectorRegistry) -> tuple[Gauge, Counter]:
    """Registers the gauge of open connections, and the counter of those that the server closed."""
    opened = Gauge(
        "deepwell_connections", "Open connections.", registry=registry, multiprocess_mode="livesum"
    )
    cut = Counter(
        "deepwell_cut_connections",
        "Connections that the server closed: idle, timeout, evicted (for new ones), address (too many), refused.",
        ("reason",),
        registry=registry,
    )
    return opened, cut


def _lookups(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    """Registers the counters of lookups in the caches of answers, and of those that the semantic cache could not answer."""
    lookups = Counter(
        "deepwell_response_cache_lookups",
        "Choices that could be reused: found whole, joined in flight, answered by a question like it, or generated.",
        ("result",),
        registry=registry,
    )
    misses = Counter(
        "deepwell_semantic_cache_misses",
        "Questions for which the semantic cache had no answer.",
        registry=registry,
    )
    return lookups, misses


def _refusals(registry: CollectorRegistry) -> Counter:
    """Registers the counter of requests that a limit of a minute refused."""
    return Counter(
        "deepwell_rate_limited",
        "Requests that are over a limit of a minute, by the limit.",
        ("limit",),
        registry=registry,
    )


class KnowledgeMetrics:
    """Counters and timings of ingestion, searches and grounded answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ingested = Counter(
            "deepwell_ingested_files",
            "Files whose ingestion into a knowledge base has ended.",
            ("status",),
            registry=registry,
        )
        self.ingest_seconds = Histogram(
            "deepwell_ingest_seconds",
            "Time that one file spent in a stage of its ingestion.",
            ("stage",),
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
            registry=registry,
        )
        self.search_seconds = Histogram(
            "deepwell_knowledge_search_seconds",
            "Time of one search in a knowledge base.",
            buckets=(0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.3, 1, 3),
            registry=registry,
        )
        self.searches = Counter(
            "deepwell_knowledge_searches",
            "Searches in knowledge bases, by whether they found a passage.",
            ("result",),
            registry=registry,
        )
        self.reranks = Counter(
            "deepwell_knowledge_reranks",
            "Searches whose passages a model reordered, or should have and failed.",
            ("outcome",),
            registry=registry,
        )
        self.grounded_answers = Counter(
            "deepwell_grounded_answers",
            "Answers from the server's knowledge base: written, quoted from a passage, or declined.",
            ("outcome",),
            registry=registry,
        )
        self.checked_sentences = Counter(
            "deepwell_checked_sentences",
            "Sentences of grounded answers that did not pass their check as they were written.",
            ("action",),
            registry=registry,
        )


class TuningMetrics:
    """Counters of fine-tuning jobs and of evaluation runs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Counter(
            "deepwell_fine_tuning_jobs",
            "Fine-tuning jobs that have ended, by status.",
            ("status",),
            registry=registry,
        )
        self.running = Gauge(
            "deepwell_fine_tuning_running", "Fine-tuning jobs that train at the moment.", registry=registry
        )
        self.tokens = Counter(
            "deepwell_fine_tuning_tokens", "Tokens that fine-tuning jobs have trained on.", registry=registry
        )
        self.works = Counter(
            "deepwell_tuning_works",
            "Searches for prompts and compressions that have ended, by kind and status.",
            ("kind", "status"),
            registry=registry,
        )
        self.works_running = Gauge(
            "deepwell_tuning_works_running",
            "Searches for prompts and compressions that run at the moment, by kind.",
            ("kind",),
            registry=registry,
        )
        self.runs = Counter(
            "deepwell_eval_runs",
            "Evaluation runs that have ended, by status.",
            ("status",),
            registry=registry,
        )
        self.items = Counter(
            "deepwell_eval_items",
            "Rows that evaluation runs have judged, by result.",
            ("result",),
            registry=registry,
        )


class GuardMetrics:
    """Decisions of the guard, and the time that they take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.read_seconds = Histogram(
            "deepwell_guard_read_seconds",
            "Time in which the guard reads one text, by its layer.",
            ("layer",),
            buckets=_GUARD_S,
            registry=registry,
        )
        self.decisions = Counter(
            "deepwell_guard_decisions",
            "Decisions of the guard, by layer and action.",
            ("layer", "action"),
            registry=registry,
        )
        self.findings = Counter(
            "deepwell_guard_findings",
            "Findings of the guard that the policy acts on, by detector and action.",
            ("detector", "action"),
            registry=registry,
        )
        self.failures = Counter(
            "deepwell_guard_failures",
            "Texts on which a detector failed, was late or lacked its list.",
            ("layer",),
            registry=registry,
        )

    def decided(self, decision: Decision) -> None:
        """Counts a decision."""
        self.decisions.labels(decision.layer, decision.action).inc()
        found = Tally((finding.rule.partition(".")[0], action) for finding, action in decision.findings)
        for labels, count in found.items():
            self.findings.labels(*labels).inc(count)
        if decision.failed:
            self.failures.labels(decision.layer).inc()


class Metrics:
    """The server's own counters and timings, beside those of its engines.

    Under several HTTP workers (`PROMETHEUS_MULTIPROC_DIR`) the counters and timings are sums over all of them.

    Attributes:
        engines: those that the process serves now, by model.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.registry = CollectorRegistry()
        self.engines = engines
        self._engines = _EngineCollector(engines)
        self._process = ProcessCollector(registry=None)
        self.registry.register(self._engines)
        self.registry.register(self._process)
        registry = self.registry
        self.database_damaged = _damaged(registry)
        self.requests = Counter("deepwell_requests", "Responses.", ("route", "status"), registry=registry)
        self.open_requests = Gauge(
            "deepwell_open_requests",
            "HTTP requests that are being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.bytes_sent = Counter("deepwell_response_bytes", "Bytes of response bodies.", registry=registry)
        self.clients_left = Counter(
            "deepwell_clients_left", "Requests whose client hung up before the end.", registry=registry
        )
        self.connections, self.cut_connections = _connections(registry)
        self.dropped_records = Counter(
            "deepwell_dropped_records",
            "Requests missing from the access log and the traces, because those did not keep up.",
            registry=registry,
        )
        self._refused = _refusals(self.registry)
        self._valkey_up, self._valkey_failures = _valkey(self.registry)
        self.knowledge = KnowledgeMetrics(registry)
        self.tuning = TuningMetrics(registry)
        self.agents = AgentMetrics(registry)
        self.recognition = RecognitionMetrics(registry)
        self.speech = SpeechMetrics(registry)
        self.mcp = McpMetrics(registry)
        self.attachments = AttachmentMetrics(registry)
        self.images = ImageMetrics(registry)
        self.routing = RoutingMetrics(registry)
        self.guard = GuardMetrics(registry)
        self.rollouts = RolloutMetrics(registry)
        self.contexts = ContextMetrics(registry)
        self._lookups, self.semantic_misses = _lookups(registry)
        self.first_token = Histogram(
            "deepwell_time_to_first_token_seconds",
            "From the prepared request to its first token.",
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self.inter_token = Histogram(
            "deepwell_inter_token_seconds",
            "Between two updates of one choice.",
            buckets=_INTER_TOKEN_S,
            registry=registry,
        )
        self.queue = Histogram(
            "deepwell_queue_seconds",
            "Until the engine's first step took a request in.",
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self.waiting = Waiting()
        oldest = Gauge(
            "deepwell_oldest_waiting_seconds",
            "For how long the request that waits longest has waited for its first token.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._oldest = oldest
        lag = Histogram(
            "deepwell_event_loop_lag_seconds",
            "How late the event loop ran a timer, ten times a second.",
            buckets=_LAG_S,
            registry=registry,
        )
        self.loop_lag = LoopLag(lag.observe)
        self.generation = _generations(registry)
        """Returns the GenAI instruments of an operation (`gen_ai.operation.name`) on a served model."""

    @property
    def on_demand(self) -> ModelHostState | None:
        """Source of the state of the models on demand; None: there are none."""
        return self._engines.host

    @on_demand.setter
    def on_demand(self, host: ModelHostState) -> None:
        self._engines.host = host

    def count_lookup(self, result: str) -> None:
        """Counts a response cache lookup: "hit", "joined", "semantic" or "miss"."""
        self._lookups.labels(result).inc()
        record = current()
        if record is not None:
            record.cache = result

    def refused(self, limit: str) -> None:
        """Counts a request that is over a limit: `requests`, `tokens`, `audio_seconds` or `images`."""
        self._refused.labels(limit).inc()

    def valkey(self, up: bool) -> None:
        """Notes that Valkey answers, or counts that it did not."""
        self._valkey_up.set(1 if up else 0)
        if not up:
            self._valkey_failures.inc()

    def text(self) -> bytes:
        """Returns the Prometheus text exposition."""
        return generate_latest(self._everybody())

    def families(self) -> list[Metric]:
        """Returns all metrics, summed over all HTTP workers, as `text` spells them."""
        return list(self._everybody().collect())

    def _everybody(self) -> CollectorRegistry:
        self._oldest.set(self.waiting.oldest_s())
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        from prometheus_client.multiprocess import MultiProcessCollector

        _forget_the_dead(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody)
        everybody.register(self._engines)
        everybody.register(self._process)
        everybody.register(self.rollouts.collector)
        return everybody


def _forget_the_dead(folder: Path) -> None:
    """Removes the gauges of processes that have ended. What they counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    for pid in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*_*.db")}:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))
