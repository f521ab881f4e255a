"""The bodies of `/v1/batches`."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "Batch",
    "BatchCounts",
    "BatchError",
    "BatchErrors",
    "BatchList",
    "BatchUsage",
    "CachedTokens",
    "ReasoningTokens",
]


class BatchError(Struct):
    """An error in a line of the input, or in all of it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(Struct, tag_field="object", tag="list"):
    """The errors that validation found."""

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
    model: str | UnsetType = UNSET
    usage: BatchUsage | UnsetType = UNSET


class BatchList(Struct, tag_field="object", tag="list"):
    """A page of batches."""

    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
