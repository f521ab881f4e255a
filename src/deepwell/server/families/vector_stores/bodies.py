"""The bodies of `/v1/vector_stores`."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "ArmScore",
    "ChunkSize",
    "FileBatch",
    "FileChunk",
    "FileChunkList",
    "FileContent",
    "FileContentPage",
    "FileCounts",
    "FileError",
    "MediaRange",
    "PassageScores",
    "SearchPage",
    "SearchResult",
    "StaticStrategy",
    "StoreExpiresAfter",
    "StoreFile",
    "StoreFileDeleted",
    "StoreFileList",
    "TextContent",
    "VectorStore",
    "VectorStoreDeleted",
    "VectorStoreList",
]

Attribute = str | float | bool
FileState = Literal["in_progress", "completed", "cancelled", "failed"]


class FileCounts(Struct):
    """Files by status."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class StoreExpiresAfter(Struct):
    """The days without use after which a store expires."""

    days: int
    anchor: Literal["last_active_at"] = "last_active_at"


class VectorStore(Struct, tag_field="object", tag="vector_store"):
    """A vector store."""

    id: str
    created_at: int
    name: str
    description: str | None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["in_progress", "completed", "expired"]
    expires_after: StoreExpiresAfter | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]


class VectorStoreList(Struct, tag_field="object", tag="list"):
    """A page of vector stores."""

    data: list[VectorStore]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VectorStoreDeleted(Struct, tag_field="object", tag="vector_store.deleted"):
    """A vector store that is gone."""

    id: str
    deleted: bool = True


class FileError(Struct):
    """The reason why a file could not be ingested."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class ChunkSize(Struct):
    """The size of chunks, in tokens of the embedder."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class StaticStrategy(Struct, tag_field="type", tag="static"):
    """Chunks of a given size and overlap."""

    static: ChunkSize


class StoreFile(Struct, tag_field="object", tag="vector_store.file"):
    """A file of a vector store."""

    id: str
    created_at: int
    usage_bytes: int
    vector_store_id: str
    status: FileState
    last_error: FileError | None
    attributes: dict[str, Attribute]
    chunking_strategy: StaticStrategy


class StoreFileList(Struct, tag_field="object", tag="list"):
    """A page of the files of a vector store."""

    data: list[StoreFile]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoreFileDeleted(Struct, tag_field="object", tag="vector_store.file.deleted"):
    """A file that is not in its vector store any more."""

    id: str
    deleted: bool = True


class FileBatch(Struct, tag_field="object", tag="vector_store.files_batch"):
    """A batch of files."""

    id: str
    created_at: int
    vector_store_id: str
    status: FileState
    file_counts: FileCounts


class FileChunk(Struct, tag_field="object", tag="vector_store.file.chunk"):
    """A chunk of a file, as it is embedded and found.

    `start` and `end` are offsets in the text of the file, in characters. `text` has the header of a table in front, if the
    chunk is a part of one.
    """

    id: str
    index: int
    start: int
    end: int
    page: int | None
    headings: list[str]
    text: str
    media: MediaRange | UnsetType = UNSET  # of a picture or recording


class FileChunkList(Struct, tag_field="object", tag="list"):
    """A page of the chunks of a file."""

    data: list[FileChunk]
    first_id: str | None
    last_id: str | None
    has_more: bool


class TextContent(Struct, tag_field="type", tag="text"):
    """A piece of text."""

    text: str


class FileContent(Struct, tag_field="type", tag="text"):
    """The text of a file."""

    text: str


class FileContentPage(Struct, tag_field="object", tag="vector_store.file_content.page"):
    """The text that was read from a file. There is one page."""

    data: list[FileContent]
    has_more: bool = False
    next_page: str | None = None


class ArmScore(Struct):
    """The place of a passage in one ranking, from 1, and its score there."""

    rank: int
    score: float


class PassageScores(Struct):
    """The reasons for the place of a passage; null: that ranking does not have it, or was not made."""

    lexical: ArmScore | None  # BM25
    vector: ArmScore | None  # cosine
    translated: ArmScore | None  # among the passages of the other language
    fused: float  # before any reranker
    rerank: float | None  # mean log probability of the query behind the passage


class MediaRange(Struct):
    """The kind of file that a passage is from, if it is no document, and its time range in a recording."""

    kind: Literal["picture", "recording"]
    start_seconds: float | UnsetType = UNSET
    end_seconds: float | UnsetType = UNSET


class SearchResult(Struct):
    """A passage that a search found."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, Attribute]
    content: list[TextContent]
    media: MediaRange | UnsetType = UNSET  # of a picture or recording
    scores: PassageScores | UnsetType = UNSET  # if the request asked to explain


class SearchPage(Struct, tag_field="object", tag="vector_store.search_results.page"):
    """The passages that a search found, best first. There is one page."""

    search_query: list[str]
    data: list[SearchResult]
    has_more: bool = False
    next_page: str | None = None
