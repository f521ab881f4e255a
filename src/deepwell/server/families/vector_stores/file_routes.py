"""`/v1/vector_stores/{id}/files`: attach, list, describe, read, change and detach files."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.pages import ends_of
from deepwell.server.families.vector_stores.bodies import (
    FileChunkList,
    FileContent,
    FileContentPage,
    StoreFileDeleted,
    StoreFileList,
)
from deepwell.server.families.vector_stores.described import (
    attributes_json,
    chunk_body,
    chunking_json,
    file_body,
)
from deepwell.server.families.vector_stores.schema import ChunksQuery, FileRequest, FilesQuery, FileUpdate
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.database import Tenant
from deepwell.storage.knowledge.files import Attachment, StoredStoreFile

__all__ = ["file_list", "file_router", "polled"]

_FILES = "/v1/vector_stores/{vector_store_id}/files"
_FILE = "/v1/vector_stores/{vector_store_id}/files/{file_id}"
_POLL_AFTER = {"openai-poll-after-ms": "100"}  # small files are searchable within a second


def polled(body: object, *, unfinished: bool) -> Response:
    """Returns a body. While it is unfinished, a header tells the SDK's polling helpers when to ask again."""
    response = json_response(body)
    if unfinished:
        response.headers.update(_POLL_AFTER)
    return response


def file_router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.post(_FILES, summary="Attach a file to a vector store", response_model=None)
    async def attach(request: Request, vector_store_id: str, body: FileRequest) -> Response:
        tenant = tenant_of(request)
        attachment = Attachment(
            body.file_id, attributes_json(body.attributes), chunking_json(body.chunking_strategy)
        )
        _, files = await context.state.knowledge.files.attach(tenant, vector_store_id, [attachment])
        context.knowledge.changed()
        return await _described(context, tenant, files[0])

    @routes.get(_FILES, summary="List the files of a vector store", response_model=None)
    async def listed(
        request: Request, vector_store_id: str, query: Annotated[FilesQuery, Query()]
    ) -> Response:
        return await file_list(context, tenant_of(request), vector_store_id, query)

    @routes.get(_FILE, summary="Describe a file of a vector store", response_model=None)
    async def retrieve(request: Request, vector_store_id: str, file_id: str) -> Response:
        tenant = tenant_of(request)
        file = await context.state.knowledge.files.get(tenant, vector_store_id, file_id)
        return await _described(context, tenant, file)

    @routes.post(_FILE, summary="Replace the attributes of a file", response_model=None)
    async def update(request: Request, vector_store_id: str, file_id: str, body: FileUpdate) -> Response:
        tenant = tenant_of(request)
        file = await context.state.knowledge.files.set_attributes(
            tenant, vector_store_id, file_id, attributes_json(body.attributes)
        )
        return await _described(context, tenant, file)

    @routes.delete(_FILE, summary="Remove a file from a vector store", response_model=None)
    async def detach(request: Request, vector_store_id: str, file_id: str) -> Response:
        files, tenant = context.state.knowledge.files, tenant_of(request)
        await files.get(tenant, vector_store_id, file_id)
        await files.detach(tenant, vector_store_id, [file_id])
        return json_response(StoreFileDeleted(file_id))

    @routes.get(f"{_FILE}/content", summary="Read the text that was found in a file", response_model=None)
    async def content(request: Request, vector_store_id: str, file_id: str) -> Response:
        knowledge, tenant = context.state.knowledge, tenant_of(request)
        file = await knowledge.files.get(tenant, vector_store_id, file_id)
        document = None
        if file.status == "completed" and file.digest is not None:
            document = await knowledge.chunks.document(tenant, file.digest)
        if document is None:
            raise InvalidRequest(
                f"the text of the file {file_id!r} is not there: its status is {file.status!r}",
                fix="wait until the file is completed; if it failed, its last_error says why",
            )
        return json_response(FileContentPage([FileContent(json.loads(document)["text"])]))

    @routes.get(f"{_FILE}/chunks", summary="List the chunks of a file", response_model=None)
    async def chunks(
        request: Request, vector_store_id: str, file_id: str, query: Annotated[ChunksQuery, Query()]
    ) -> Response:
        knowledge, tenant = context.state.knowledge, tenant_of(request)
        await knowledge.files.get(tenant, vector_store_id, file_id)
        page = await knowledge.chunks.page_of_file(
            tenant, vector_store_id, file_id, after=query.after, limit=query.limit, order=query.order
        )
        data = [chunk_body(one) for one in page.data]
        return json_response(FileChunkList(data, *ends_of(data), page.has_more))

    return routes


async def file_list(
    context: ServerContext,
    tenant: Tenant,
    store_id: str,
    query: FilesQuery,
    batch_id: str | None = None,
) -> Response:
    """Returns a page of the files of a store, or of one of its batches."""
    knowledge = context.state.knowledge
    page = await knowledge.files.list(
        tenant,
        store_id,
        after=query.after,
        before=query.before,
        limit=query.limit,
        order=query.order,
        status=query.filter,
        batch_id=batch_id,
    )
    store = await knowledge.stores.get(tenant, store_id)
    data = [file_body(one, store) for one in page.data]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return json_response(StoreFileList(data, first, last, page.has_more))


async def _described(context: ServerContext, tenant: Tenant, file: StoredStoreFile) -> Response:
    store = await context.state.knowledge.stores.get(tenant, file.store_id)
    return polled(file_body(file, store), unfinished=file.status == "in_progress")
