"""The body of `/v1/stats`."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "CacheStats",
    "Latencies",
    "LookupStats",
    "ModelStats",
    "Percentiles",
    "RequestStats",
    "ServerLimits",
    "ServerStats",
]


class ModelStats(Struct):
    """One served model, as its engine was last heard of."""

    id: str
    running: int
    waiting: int
    kv_used_blocks: int
    kv_total_blocks: int
    prefix_hit_tokens: int  # prompt tokens that the prefix cache had
    prefix_query_tokens: int  # all prompt tokens
    tokens_per_s: float | None  # generated over the last ten seconds; null until it was seen twice
    experts: list[list[int]] | None  # rows by mixture and expert; null for a model without experts


class Percentiles(Struct):
    """Milliseconds since the start; null if nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


class Latencies(Struct):
    """Times of requests to models."""

    first_token: Percentiles
    inter_token: Percentiles
    queue: Percentiles


class RequestStats(Struct):
    """HTTP requests since the start; `errors` were answered with 5xx, `open` ones are being answered."""

    total: int
    errors: int
    open: int


class LookupStats(Struct):
    """Lookups of one cache since the start."""

    hits: int
    misses: int


class CacheStats(Struct):
    """The caches of answers; null where the server has no such cache."""

    response: LookupStats | None
    semantic: LookupStats | None


class ServerLimits(Struct):
    """Limits of each tenant; 0: none."""

    requests_per_minute: int
    tokens_per_minute: int
    audio_seconds_per_minute: int
    images_per_minute: int


class ServerStats(Struct, tag_field="object", tag="stats"):
    """The state of the whole server, with all of its processes."""

    version: str
    uptime_s: float
    memory_bytes: int
    models: list[ModelStats]
    latency_ms: Latencies
    requests: RequestStats
    caches: CacheStats
    limits: ServerLimits
