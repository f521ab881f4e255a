"""The bodies of Anthropic's message batches."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

__all__ = ["DeletedMessageBatch", "MessageBatch", "MessageBatchCounts", "MessageBatchList"]


class MessageBatchCounts(Struct):
    """Requests by how they ended. While the batch has not ended, all of them are processing."""

    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatch(Struct, tag_field="type", tag="message_batch"):
    """A batch of requests to `/v1/messages`."""

    id: str
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageBatchCounts
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    cancel_initiated_at: datetime | None
    results_url: str | None
    archived_at: datetime | None = None


class MessageBatchList(Struct):
    """A page of message batches."""

    data: list[MessageBatch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedMessageBatch(Struct, tag_field="type", tag="message_batch_deleted"):
    """A message batch that is gone."""

    id: str
