"""`/v1/vector_stores/{id}/file_batches`: attach many files, follow them, and cancel what is not ingested yet."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.vector_stores.described import attributes_json, batch_body, chunking_json
from deepwell.server.families.vector_stores.file_routes import file_list, polled
from deepwell.server.families.vector_stores.schema import FileBatchRequest, FileOfBatch, FilesQuery
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.database import Tenant
from deepwell.storage.knowledge.files import Attachment, StoredBatchOfFiles

__all__ = ["batch_router"]

_BATCHES = "/v1/vector_stores/{vector_store_id}/file_batches"
_BATCH = "/v1/vector_stores/{vector_store_id}/file_batches/{file_batch_id}"


def batch_router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.post(_BATCHES, summary="Attach several files to a vector store", response_model=None)
    async def create(request: Request, vector_store_id: str, body: FileBatchRequest) -> Response:
        tenant = tenant_of(request)
        batch, _ = await context.state.knowledge.files.attach(
            tenant, vector_store_id, _attachments(body), batch=True
        )
        assert batch is not None
        context.knowledge.changed()
        return await _described(context, tenant, batch)

    @routes.get(_BATCH, summary="Fetch a batch of files", response_model=None)
    async def retrieve(request: Request, vector_store_id: str, file_batch_id: str) -> Response:
        tenant = tenant_of(request)
        batch = await context.state.knowledge.files.batch(tenant, vector_store_id, file_batch_id)
        return await _described(context, tenant, batch)

    @routes.post(f"{_BATCH}/cancel", summary="Cancel a batch of files", response_model=None)
    async def cancel(request: Request, vector_store_id: str, file_batch_id: str) -> Response:
        tenant = tenant_of(request)
        batch = await context.state.knowledge.files.cancel_batch(tenant, vector_store_id, file_batch_id)
        return await _described(context, tenant, batch)

    @routes.get(f"{_BATCH}/files", summary="List the files of a batch", response_model=None)
    async def files(
        request: Request, vector_store_id: str, file_batch_id: str, query: Annotated[FilesQuery, Query()]
    ) -> Response:
        return await file_list(context, tenant_of(request), vector_store_id, query, file_batch_id)

    return routes


def _attachments(body: FileBatchRequest) -> list[Attachment]:
    given = body.files
    if given is None:
        given = [
            FileOfBatch(file_id=one, attributes=body.attributes, chunking_strategy=body.chunking_strategy)
            for one in dict.fromkeys(body.file_ids or ())
        ]
    return [
        Attachment(one.file_id, attributes_json(one.attributes), chunking_json(one.chunking_strategy))
        for one in given
    ]


async def _described(context: ServerContext, tenant: Tenant, batch: StoredBatchOfFiles) -> Response:
    body = batch_body(batch, await context.state.knowledge.files.batch_counts(tenant, batch.id))
    return polled(body, unfinished=body.file_counts.in_progress > 0)
