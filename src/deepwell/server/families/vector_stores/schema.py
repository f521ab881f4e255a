"""The requests of `/v1/vector_stores`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from deepwell.server.http.schema import (
    TAG_MARK,
    Metadata,
    Strict,
    crossed,
    either,
    kind_of,
    only_kinds,
    only_values,
)

__all__ = [
    "CHUNKING_TYPES",
    "RANKERS",
    "Attributes",
    "AutoChunking",
    "ChunkingStrategy",
    "ChunksQuery",
    "FileBatchRequest",
    "FileOfBatch",
    "FileRequest",
    "FileUpdate",
    "FilesQuery",
    "Filters",
    "MaxResults",
    "Ranker",
    "SearchRanking",
    "SearchRequest",
    "StaticChunking",
    "StoreRequest",
    "StoreUpdate",
    "StoresQuery",
]

CHUNKING_TYPES = ("auto", "static")
RANKERS = ("none", "auto", "default-2024-11-15")
_MOST_FILES = 500  # of a new store, as at OpenAI
_MOST_BATCH_FILES = 2000  # of a batch, as at OpenAI
_MOST_QUERIES = 16
_QUERY_CHARACTERS = 16_384

_Text = Annotated[str, Field(max_length=512)]
_NO_NUL = r"^[^\x00]*$"  # which PostgreSQL cannot keep
_Name = Annotated[str, Field(max_length=256, pattern=_NO_NUL)]
_Key = Annotated[str, Field(min_length=1, max_length=64)]
Attributes = Annotated[dict[_Key, either(_Text, bool | float)], Field(max_length=16)]
"""Up to 16 values of a file that searches can filter by."""

FileId = Annotated[str, Field(min_length=1, max_length=64)]
MaxResults = Annotated[int, Field(ge=1, le=50)]
Ranker = Annotated[Literal["none", "auto", "default-2024-11-15"], only_values("the ranker", *RANKERS)]
Filters = Annotated[
    dict[str, Any],
    Field(
        description="`{type: eq|ne|gt|gte|lt|lte|in|nin, key, value}`, or `{type: and|or, filters: [...]}` of such."
    ),
]


_Query = Annotated[str, Field(min_length=1, max_length=_QUERY_CHARACTERS)]


def _queries(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class StoreExpiry(Strict):
    """The days without use after which a store expires."""

    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class AutoChunking(Strict):
    """The strategy of the server: 512 tokens with 64 of overlap."""

    type: Literal["auto"]


class StaticChunkSize(Strict):
    """The size of chunks, in tokens of the embedder."""

    max_chunk_size_tokens: int = Field(ge=100, le=4096)
    chunk_overlap_tokens: int = Field(ge=0)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if 2 * self.chunk_overlap_tokens > self.max_chunk_size_tokens:
            raise crossed(
                "chunking_strategy.static.chunk_overlap_tokens",
                "chunk_overlap_tokens may be at most half of max_chunk_size_tokens",
            )
        return self


class StaticChunking(Strict):
    """Chunks of a given size and overlap."""

    type: Literal["static"]
    static: StaticChunkSize


def _strategy_kind(value: Any) -> str:
    return TAG_MARK + ("static" if kind_of(value) == "static" else "auto")


ChunkingStrategy = Annotated[
    Annotated[AutoChunking, Tag(f"{TAG_MARK}auto")] | Annotated[StaticChunking, Tag(f"{TAG_MARK}static")],
    Discriminator(_strategy_kind),
    only_kinds("chunking strategies", *CHUNKING_TYPES),
]


class StoreRequest(Strict):
    """Creates a vector store, and attaches files to it."""

    name: _Name | None = None
    description: Annotated[str, Field(max_length=4096, pattern=_NO_NUL)] | None = None
    file_ids: list[FileId] | None = Field(None, max_length=_MOST_FILES)
    chunking_strategy: ChunkingStrategy | None = Field(
        None, description="Of these files, and of those attached later without a strategy of their own."
    )
    expires_after: StoreExpiry | None = None
    metadata: Metadata | None = None


class StoreUpdate(Strict):
    """Changes a vector store. A parameter that is left out changes nothing; `null` clears it."""

    name: _Name | None = None
    expires_after: StoreExpiry | None = None
    metadata: Metadata | None = None


class FileRequest(Strict):
    """Attaches a file."""

    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class FileUpdate(Strict):
    """Replaces the attributes of a file."""

    attributes: Attributes | None


class FileOfBatch(Strict):
    """A file of a batch, with attributes and a strategy of its own."""

    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class FileBatchRequest(Strict):
    """Attaches several files: `file_ids` that share attributes and strategy, or `files` that each have their own."""

    file_ids: list[FileId] | None = Field(None, min_length=1, max_length=_MOST_BATCH_FILES)
    files: list[FileOfBatch] | None = Field(None, min_length=1, max_length=_MOST_BATCH_FILES)
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.file_ids is None) == (self.files is None):
            raise crossed("file_ids", "send either file_ids or files")
        if self.files is None:
            return self
        for name in ("attributes", "chunking_strategy"):
            if getattr(self, name) is not None:
                raise crossed(name, f"{name} of a batch of files stands in every file: move it there")
        ids = [one.file_id for one in self.files]
        if len(set(ids)) < len(ids):
            raise crossed("files", "files names a file twice: send each file once")
        return self


class SearchRanking(Strict):
    """The order of results, and the score that they need."""

    ranker: Ranker | None = Field(
        None,
        description="`none`: by words and meaning alone. The others: with the reranker of the server, if it has one.",
    )
    score_threshold: float | None = Field(None, ge=0, le=1)


class SearchRequest(Strict):
    """Searches a vector store."""

    query: Annotated[
        list[_Query],
        BeforeValidator(_queries, json_schema_input_type=_Query | list[_Query]),
        Field(min_length=1, max_length=_MOST_QUERIES),
    ]
    filters: Filters | None = None
    max_num_results: MaxResults | None = None
    ranking_options: SearchRanking | None = None
    rewrite_query: bool | None = None
    explain: bool | None = Field(
        None,
        description="Whether each result tells its rank and score by words, by vectors and by the reranker.",
    )


class StoresQuery(BaseModel):
    """A page of vector stores."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    before: str | None = Field(None, description="The first id of the page behind.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


class ChunksQuery(BaseModel):
    """A page of the chunks of a file, in their order."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "asc"


class FilesQuery(StoresQuery):
    """A page of the files of a vector store or of a batch."""

    filter: Literal["in_progress", "completed", "failed", "cancelled"] | None = None
