"""`/v1/messages/batches`: many requests to `/v1/messages` at once, answered when there is time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.batches.owner import payload_of
from deepwell.server.families.batches.routes import cancel_batch
from deepwell.server.families.message_batches.bodies import (
    DeletedMessageBatch,
    MessageBatch,
    MessageBatchCounts,
    MessageBatchList,
)
from deepwell.server.families.message_batches.schema import MessageBatchesQuery, MessageBatchRequest
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.storage.batches import BATCH_JOB, StoredBatch
from deepwell.storage.blobs import Draft
from deepwell.storage.database import Tenant

__all__ = ["JSON_LINES", "router"]

JSON_LINES = "application/x-jsonl"
_MESSAGES, _BATCHES = "/v1/messages", "/v1/messages/batches"
_BATCH = f"{_BATCHES}/{{message_batch_id}}"
_encode = msgspec.json.Encoder().encode


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(_BATCHES, summary="Run many message requests (Anthropic)", response_model=None)
    async def create(request: Request, body: MessageBatchRequest) -> Response:
        state = context.state
        draft = await asyncio.to_thread(state.files.draft)
        try:
            await asyncio.to_thread(_write, draft, body)
            batch = await state.batches.create_without_files(
                tenant_of(request),
                endpoint=_MESSAGES,
                lines=draft,
                total=len(body.requests),
                payload=payload_of(principal_of(request)),
            )
        finally:
            draft.discard()
        state.wake(BATCH_JOB)
        return json_response(_body(request, batch))

    @routes.get(_BATCHES, summary="List message batches (Anthropic)", response_model=None)
    async def listed(request: Request, query: Annotated[MessageBatchesQuery, Query()]) -> Response:
        if query.after_id is not None and query.before_id is not None:
            raise InvalidRequest(
                "after_id and before_id exclude each other", fix="send one", param="before_id"
            )
        page = await context.state.batches.list(
            tenant_of(request),
            after=query.after_id,
            before=query.before_id,
            limit=query.limit,
            without_files=True,
        )
        data = [_body(request, one) for one in page.data]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(MessageBatchList(data, first, last, page.has_more))

    @routes.get(_BATCH, summary="Fetch a message batch (Anthropic)", response_model=None)
    async def retrieve(request: Request, message_batch_id: str) -> Response:
        return json_response(_body(request, await find(tenant_of(request), message_batch_id)))

    @routes.delete(_BATCH, summary="Delete a message batch that has ended (Anthropic)", response_model=None)
    async def delete(request: Request, message_batch_id: str) -> Response:
        await context.state.batches.delete(tenant_of(request), message_batch_id)
        return json_response(DeletedMessageBatch(message_batch_id))

    @routes.post(f"{_BATCH}/cancel", summary="Cancel a message batch (Anthropic)", response_model=None)
    async def cancel(request: Request, message_batch_id: str) -> Response:
        batch = await cancel_batch(context, tenant_of(request), message_batch_id, without_files=True)
        return json_response(_body(request, batch))

    @routes.get(
        f"{_BATCH}/results", summary="Read the results of a message batch (Anthropic)", response_model=None
    )
    async def results(request: Request, message_batch_id: str) -> Response:
        tenant = tenant_of(request)
        batch = await find(tenant, message_batch_id)
        if not batch.ended:
            raise InvalidRequest(
                f"the batch {batch.id!r} has no results yet",
                fix="wait until its processing_status is 'ended'",
            )
        return StreamingResponse(lines_of(tenant, batch.id), media_type=JSON_LINES)

    async def find(tenant: Tenant, id: str) -> StoredBatch:
        return await context.state.batches.get(tenant, id, without_files=True)

    async def lines_of(tenant: Tenant, id: str) -> AsyncGenerator[bytes, None]:
        last = 0
        while rows := await context.state.batches.results(tenant, id, last):
            last = rows[-1][0]
            yield "".join(f"{body}\n" for _, body in rows).encode()

    return routes


def _write(draft: Draft, body: MessageBatchRequest) -> None:
    """Writes the requests as the lines of a batch's input."""
    for one in body.requests:
        line = {"custom_id": one.custom_id, "method": "POST", "url": _MESSAGES, "body": one.params}
        draft.write(_encode(line) + b"\n")


def _body(request: Request, batch: StoredBatch) -> MessageBatch:
    status = "canceling" if batch.status == "cancelling" else "ended" if batch.ended else "in_progress"
    ended = batch.completed_at or batch.cancelled_at or batch.expired_at or batch.failed_at
    url = f"{str(request.base_url).rstrip('/')}{_BATCHES}/{batch.id}/results"
    return MessageBatch(
        id=batch.id,
        processing_status=status,
        request_counts=_counts(batch),
        created_at=_time(batch.created_at),
        expires_at=_time(batch.expires_at),
        ended_at=None if ended is None else _time(ended),
        cancel_initiated_at=None if batch.cancelling_at is None else _time(batch.cancelling_at),
        results_url=url if batch.ended else None,
    )


def _counts(batch: StoredBatch) -> MessageBatchCounts:
    """Returns the counts, which always sum up to all requests. Of a batch whose input was lost, the rest has failed."""
    if not batch.ended:
        return MessageBatchCounts(batch.total, 0, 0, 0, 0)
    rest = batch.total - batch.completed - batch.failed
    cancelled = rest if batch.status == "cancelled" else 0
    expired = rest if batch.status == "expired" else 0
    return MessageBatchCounts(
        0, batch.completed, batch.failed + rest - cancelled - expired, cancelled, expired
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
