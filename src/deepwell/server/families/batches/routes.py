"""`/v1/batches`: many requests in one file, answered when there is time."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.batches.bodies import (
    Batch,
    BatchCounts,
    BatchError,
    BatchErrors,
    BatchList,
    BatchUsage,
    CachedTokens,
    ReasoningTokens,
)
from deepwell.server.families.batches.owner import payload_of
from deepwell.server.families.batches.schema import BatchesQuery, BatchRequest, batch_request
from deepwell.server.families.batches.source import conclude_cancelled
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.batches import BATCH_JOB, StoredBatch
from deepwell.storage.database import Tenant

__all__ = ["MAX_INPUT_BYTES", "cancel_batch", "router"]

MAX_INPUT_BYTES = 200 << 20  # OpenAI's


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    async def create(request: Request, body: BatchRequest) -> Response:
        state, tenant = context.state, tenant_of(request)
        source = await state.files.get(tenant, body.input_file_id)
        if source.bytes > MAX_INPUT_BYTES:
            raise InvalidRequest(
                f"the file {source.id!r} has {source.bytes} bytes",
                fix=f"split it into files of at most {MAX_INPUT_BYTES}",
                param="input_file_id",
            )
        batch = await state.batches.create(
            tenant,
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            completion_window=body.completion_window,
            metadata=body.metadata,
            output_expires_after=body.output_expires_after.seconds if body.output_expires_after else None,
            payload=payload_of(principal_of(request)),
        )
        state.wake(BATCH_JOB)
        return json_response(_body(batch))

    # The families declare the endpoints that batches may use, so the request's model is made here.
    create.__annotations__["body"] = batch_request(context.routes.batch_endpoints)
    routes.post("/v1/batches", summary="Run the requests of a file", response_model=None)(create)

    @routes.get("/v1/batches", summary="List batches", response_model=None)
    async def listed(request: Request, query: Annotated[BatchesQuery, Query()]) -> Response:
        page = await context.state.batches.list(tenant_of(request), after=query.after, limit=query.limit)
        data = [_body(one) for one in page.data]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(BatchList(data, first, last, page.has_more))

    @routes.get("/v1/batches/{batch_id}", summary="Fetch a batch", response_model=None)
    async def retrieve(request: Request, batch_id: str) -> Response:
        batch = await context.state.batches.get(tenant_of(request), batch_id, without_files=False)
        return json_response(_body(batch))

    @routes.post("/v1/batches/{batch_id}/cancel", summary="Cancel a batch", response_model=None)
    async def cancel(request: Request, batch_id: str) -> Response:
        return json_response(_body(await cancel_batch(context, tenant_of(request), batch_id)))

    return routes


async def cancel_batch(
    context: ServerContext, tenant: Tenant, id: str, *, without_files: bool = False
) -> StoredBatch:
    """Asks for the end of a batch, and ends it if nobody works on it.

    Raises:
        NotFound: the tenant has no such batch with, or without, files.
        InvalidRequest: the batch has ended, or is being finalized.
    """
    state = context.state
    await state.batches.get(tenant, id, without_files=without_files)
    batch = await state.batches.cancel(tenant, id)
    job = await state.jobs.cancel(tenant, id)
    if job.status == "cancelled":  # no worker had it
        batch = await conclude_cancelled(state, tenant, batch)
    state.wake(BATCH_JOB)
    return batch


def _body(batch: StoredBatch) -> Batch:
    usage = BatchUsage(
        batch.input_tokens,
        CachedTokens(batch.cached_tokens),
        batch.output_tokens,
        ReasoningTokens(),
        batch.input_tokens + batch.output_tokens,
    )
    errors = None
    if batch.errors is not None:
        errors = BatchErrors(msgspec.json.decode(batch.errors, type=list[BatchError]))
    return Batch(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model or msgspec.UNSET,
        errors=errors,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_at,
        in_progress_at=batch.in_progress_at,
        expires_at=batch.expires_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at,
        expired_at=batch.expired_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        request_counts=BatchCounts(batch.total, batch.completed, batch.failed),
        metadata=None if batch.metadata is None else msgspec.json.decode(batch.metadata, type=dict[str, str]),
        usage=msgspec.UNSET if batch.in_progress_at is None else usage,
    )
