"""The family of Anthropic's message batches."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.message_batches.bodies import (
    DeletedMessageBatch,
    MessageBatch,
    MessageBatchList,
)
from deepwell.server.families.message_batches.routes import router
from deepwell.server.families.message_batches.schema import MessageBatchRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_BATCHES = "/v1/messages/batches"
_BATCH = "/v1/messages/batches/{message_batch_id}"

FAMILY = Family(
    Declaration(
        (
            Operation("post", _BATCHES, MessageBatch, request=MessageBatchRequest),
            Operation("get", _BATCHES, MessageBatchList),
            Operation("get", _BATCH, MessageBatch),
            Operation("delete", _BATCH, DeletedMessageBatch),
            Operation("post", f"{_BATCH}/cancel", MessageBatch),
            Operation("get", f"{_BATCH}/results", "jsonl"),
        ),
        api="anthropic",
    ),
    router,
)
