"""From the settings to the service of one HTTP process."""

from __future__ import annotations

from dataclasses import dataclass

from deepwell.engine.protocol import Engine
from deepwell.server.file_options import FileOptions
from deepwell.server.limits import LimitsConfig
from deepwell.server.observe import observer_of
from deepwell.server.semantic_cache import SemanticOptions
from deepwell.server.service import Service
from deepwell.server.text import Codec
from deepwell.settings import Settings
from deepwell.storage.database import Database

__all__ = ["Served", "build_service"]


@dataclass(frozen=True, slots=True)
class Served:
    """A running engine and its text side."""

    name: str
    engine: Engine
    codec: Codec


def build_service(settings: Settings, main: Served, embedder: Served | None, *, worker: int = 0) -> Service:
    """The service around the engines; `worker` is the number of this HTTP process, from 0."""
    semantic = None
    if settings.semantic_cache == "on":
        semantic = SemanticOptions(
            settings.semantic_min_cosine, settings.semantic_cache_mb << 20, settings.semantic_ttl_s
        )
    return Service(
        main.engine,
        main.codec,
        model=main.name,
        max_body_bytes=settings.max_body_bytes,
        api_keys=settings.api_keys,
        response_cache_bytes=settings.response_cache_mb << 20,
        response_cache_ttl_s=settings.response_cache_ttl_s,
        limits=LimitsConfig.of(settings),
        adapter_dir=settings.adapter_dir,
        embedder=Service(embedder.engine, embedder.codec, model=embedder.name) if embedder else None,
        database=Database.of(settings),
        files=FileOptions.of(settings),
        observer=observer_of(settings),
        semantic=semantic,
        client_timeout_s=settings.client_timeout_s,
        worker=worker,
    )
