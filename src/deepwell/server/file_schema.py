"""Files, uploads and batches: what is asked and what is answered, in OpenAI's words."""

from __future__ import annotations

from typing import Any, Literal, get_args

from msgspec import UNSET, Struct, UnsetType
from pydantic import BaseModel, ConfigDict, Field

from deepwell.server.schema_base import Metadata, Strict

__all__ = [
    "BATCH_ENDPOINTS",
    "FORM_OF_FILE",
    "FORM_OF_PART",
    "PURPOSES",
    "Batch",
    "BatchCounts",
    "BatchError",
    "BatchErrors",
    "BatchList",
    "BatchRequest",
    "BatchUsage",
    "BatchesQuery",
    "CompleteRequest",
    "File",
    "FileDeleted",
    "FileList",
    "FilesQuery",
    "Upload",
    "UploadPart",
    "UploadRequest",
]

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
BatchEndpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
BATCH_ENDPOINTS: tuple[str, ...] = get_args(BatchEndpoint)
MIN_LIFE_S, MAX_LIFE_S = 3600, 30 * 24 * 3600


class ExpiresAfter(Strict):
    """How long a file is kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_LIFE_S, le=MAX_LIFE_S)


class UploadRequest(Strict):
    """Announces a file that comes in parts."""

    bytes: int = Field(ge=1, description="Of the whole file.")
    filename: str = Field(min_length=1)
    mime_type: str = Field(max_length=256)
    purpose: Purpose
    expires_after: ExpiresAfter | None = Field(None, description="Of the file, from when it is complete.")


class CompleteRequest(Strict):
    """Joins the parts."""

    part_ids: list[str] = Field(min_length=1, description="In the order of the file.")
    md5: str | None = Field(None, description="Of the whole file, in hexadecimal.")


class BatchRequest(Strict):
    """Runs the requests of a file."""

    input_file_id: str
    endpoint: BatchEndpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class FilesQuery(BaseModel):
    """A page of files."""

    model_config = ConfigDict(extra="forbid")

    purpose: str | None = None
    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"


class BatchesQuery(BaseModel):
    """A page of batches."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)


_FILE = {"type": "string", "format": "binary"}


def _form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


FORM_OF_FILE = _form(
    {
        "file": _FILE,
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": MIN_LIFE_S, "maximum": MAX_LIFE_S},
    },
    ["file", "purpose"],
)
FORM_OF_PART = _form({"data": _FILE}, ["data"])


class File(Struct, tag_field="object", tag="file"):
    """A file."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileDeleted(Struct, tag_field="object", tag="file"):
    """A file that is gone."""

    id: str
    deleted: bool = True


class FileList(Struct, tag_field="object", tag="list"):
    """A page of files."""

    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Upload(Struct, tag_field="object", tag="upload"):
    """An upload; `file` once it is completed."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: File | None = None


class UploadPart(Struct, tag_field="object", tag="upload.part"):
    """A part of an upload."""

    id: str
    created_at: int
    upload_id: str


class BatchError(Struct):
    """What is wrong with a line of the input, or with all of it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(Struct, tag_field="object", tag="list"):
    """What validation found."""

    data: list[BatchError]


class BatchCounts(Struct):
    """Lines that have ended, and all."""

    total: int
    completed: int
    failed: int


class CachedTokens(Struct):
    """Tokens that were not computed again."""

    cached_tokens: int


class ReasoningTokens(Struct):
    """Tokens of reasoning, which are not counted apart."""

    reasoning_tokens: int = 0


class BatchUsage(Struct):
    """Tokens of all lines that have ended."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Batch(Struct, tag_field="object", tag="batch"):
    """A batch."""

    id: str
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating",
        "failed",
        "in_progress",
        "finalizing",
        "completed",
        "expired",
        "cancelling",
        "cancelled",
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    metadata: dict[str, str] | None
    usage: BatchUsage | UnsetType = UNSET


class BatchList(Struct, tag_field="object", tag="list"):
    """A page of batches."""

    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
