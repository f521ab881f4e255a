"""Frozen options of the server. Each part of the server takes its own, and `of` reads them from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from deepwell.server.access.quota import RateLimits
from deepwell.settings import Settings

__all__ = ["CacheOptions", "FileOptions", "LimitsConfig", "SemanticOptions", "ServerOptions"]


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Options of files and batches. The settings of the same names describe each."""

    folder: Path | None = None  # for the files; None means a temporary one, gone with the server
    max_file_bytes: int = 512 << 20
    max_upload_bytes: int = 8 << 30
    batch_concurrency: int = 16
    job_lease_s: float = 10.0

    @classmethod
    def of(cls, settings: Settings) -> FileOptions:
        """Reads the options from the settings."""
        return cls(
            settings.data_dir / "files",
            settings.max_file_bytes,
            settings.max_upload_bytes,
            settings.batch_concurrency,
            settings.job_lease_s,
        )


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """The limits of a server; 0 means no limit.

    `table` is the file that the processes of a host share. None means that there is no other process.
    """

    rates: RateLimits = field(default_factory=RateLimits)
    request_timeout_s: float = 0.0
    max_wait_s: float = 0.0
    table: Path | None = None
    valkey_url: SecretStr | None = None

    @classmethod
    def of(cls, settings: Settings) -> LimitsConfig:
        """Reads the options from the settings."""
        return cls(
            RateLimits(settings.requests_per_minute, settings.tokens_per_minute),
            settings.request_timeout_s,
            settings.max_wait_s,
            settings.data_dir / "limits",
            settings.valkey_url,
        )


@dataclass(frozen=True, slots=True)
class SemanticOptions:
    """Options of the semantic cache.

    `min_cosine` is the least similarity that the embedder must find between two questions. `ttl_s` is the time for which an
    answer may be given again.
    """

    min_cosine: float = 0.8
    capacity_bytes: int = 16 << 20
    ttl_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Options of the answer caches.

    `response_bytes` is the memory for whole answers; 0 means that none are kept. Without `semantic` there is no semantic cache.
    """

    response_bytes: int = 0
    response_ttl_s: float = float("inf")
    semantic: SemanticOptions | None = None

    @classmethod
    def of(cls, settings: Settings) -> CacheOptions:
        """Reads the options from the settings."""
        semantic = None
        if settings.semantic_cache == "on":
            semantic = SemanticOptions(
                settings.semantic_min_cosine, settings.semantic_cache_mb << 20, settings.semantic_ttl_s
            )
        return cls(settings.response_cache_mb << 20, settings.response_cache_ttl_s, semantic)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of one HTTP process.

    Attributes:
        api_keys: keys of the settings. Those in the database are not among them.
        adapter_dir: directory that clients may load adapters from. None means that they may load none.
        client_timeout_s: time after which a client that reads nothing of a full buffer is cut off.
        worker: number of this HTTP process. Process 0 does what only one process may do.
    """

    max_body_bytes: int = 8 << 20
    api_keys: Sequence[SecretStr] = ()
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    caches: CacheOptions = field(default_factory=CacheOptions)
    files: FileOptions = field(default_factory=FileOptions)
    adapter_dir: Path | None = None
    client_timeout_s: float = 30.0
    worker: int = 0

    @classmethod
    def of(cls, settings: Settings, *, worker: int = 0) -> ServerOptions:
        """Reads the options from the settings."""
        return cls(
            settings.max_body_bytes,
            settings.api_keys,
            LimitsConfig.of(settings),
            CacheOptions.of(settings),
            FileOptions.of(settings),
            settings.adapter_dir,
            settings.client_timeout_s,
            worker,
        )
