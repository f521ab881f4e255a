"""Rows of vector stores, files and batches as the API describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from deepwell.server.families.vector_stores.bodies import (
    ChunkSize,
    FileBatch,
    FileChunk,
    FileCounts,
    FileError,
    MediaRange,
    StaticStrategy,
    StoreExpiresAfter,
    StoreFile,
    VectorStore,
)
from deepwell.server.families.vector_stores.schema import AutoChunking, ChunkingStrategy
from deepwell.storage.knowledge.chunks import FoundChunk, chunk_id
from deepwell.storage.knowledge.files import StoredBatchOfFiles, StoredStoreFile
from deepwell.storage.knowledge.stores import StoredStore

if TYPE_CHECKING:
    from deepwell.knowledge.documents import Place

__all__ = [
    "attributes_json",
    "batch_body",
    "chunk_body",
    "chunking_json",
    "file_body",
    "media_range",
    "store_body",
]

_AUTO_TOKENS, _AUTO_OVERLAP = 512, 64  # of embedders whose window is so long, as those that are shipped


def attributes_json(attributes: Mapping[str, Any] | None) -> str:
    """Returns attributes as they are stored."""
    return json.dumps(dict(attributes or {}), ensure_ascii=False)


def chunking_json(strategy: ChunkingStrategy | None) -> str | None:
    """Returns a strategy as it is stored. None: none was named."""
    if strategy is None:
        return None
    from deepwell.knowledge.ingest import ChunkingStrategy as Strategy

    if isinstance(strategy, AutoChunking):
        return Strategy().encoded()
    size = strategy.static
    return Strategy(size.max_chunk_size_tokens, size.chunk_overlap_tokens).encoded()


def store_body(store: StoredStore, counts: Mapping[str, int]) -> VectorStore:
    """Returns a vector store. `counts` are those of `VectorStores.counts`."""
    files = _counted(counts)
    status: Literal["in_progress", "completed", "expired"] = (
        "in_progress" if files.in_progress else "completed"
    )
    days = store.expires_after_days
    return VectorStore(
        id=store.id,
        created_at=store.created_at,
        name=store.name,
        description=store.description,
        usage_bytes=counts.get("usage_bytes", 0),
        file_counts=files,
        status="expired" if store.expired() else status,
        expires_after=None if days is None else StoreExpiresAfter(days),
        expires_at=store.expires_at,
        last_active_at=store.last_active_at,
        metadata=msgspec.json.decode(store.metadata, type=dict[str, str]),
    )


def file_body(file: StoredStoreFile, store: StoredStore) -> StoreFile:
    """Returns a file of a vector store."""
    from deepwell.knowledge.ingest import ChunkingStrategy as Strategy

    cut = Strategy.of(file.chunking or store.chunking)
    overlap = _AUTO_OVERLAP if cut.overlap_tokens is None else cut.overlap_tokens
    error = None
    if file.status == "failed":
        code = cast("Literal['server_error', 'unsupported_file', 'invalid_file']", file.error_code)
        error = FileError(code, file.error or "")
    return StoreFile(
        id=file.file_id,
        created_at=file.created_at,
        usage_bytes=file.usage_bytes,
        vector_store_id=file.store_id,
        status=file.status,
        last_error=error,
        attributes=json.loads(file.attributes),
        chunking_strategy=StaticStrategy(ChunkSize(cut.max_tokens or _AUTO_TOKENS, overlap)),
    )


def chunk_body(chunk: FoundChunk) -> FileChunk:
    """Returns a chunk of a file."""
    from deepwell.knowledge.documents import Place

    place = msgspec.json.decode(chunk.place, type=Place)
    return FileChunk(
        id=chunk_id(chunk),
        index=chunk.position,
        start=chunk.start,
        end=chunk.end,
        page=place.page,
        headings=list(place.headings),
        text=chunk.text,
        media=media_range(place),
    )


def media_range(place: Place) -> MediaRange | UnsetType:
    """Returns the range of a place in a picture or recording; unset for documents."""
    media = place.media
    if media is None:
        return UNSET
    if media.start_s is None or media.end_s is None:
        return MediaRange(media.kind)
    return MediaRange(media.kind, media.start_s, media.end_s)


def batch_body(batch: StoredBatchOfFiles, counts: Mapping[str, int]) -> FileBatch:
    """Returns a batch. It has failed if all of its files have."""
    files = _counted(counts)
    status: Literal["in_progress", "completed", "cancelled", "failed"] = "completed"
    if batch.cancelled_at is not None:
        status = "cancelled"
    elif files.in_progress:
        status = "in_progress"
    elif files.failed and files.failed == files.total:
        status = "failed"
    return FileBatch(batch.id, batch.created_at, batch.store_id, status, files)


def _counted(counts: Mapping[str, int]) -> FileCounts:
    found = [counts.get(name, 0) for name in ("in_progress", "completed", "failed", "cancelled")]
    return FileCounts(*found, total=sum(found))
