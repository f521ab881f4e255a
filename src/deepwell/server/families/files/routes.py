"""`/v1/files`: send, list, fetch, read and delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, BinaryIO

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from deepwell.errors import InvalidRequest, NotFound
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.files.bodies import File, FileDeleted, FileList
from deepwell.server.families.files.schema import FORM_OF_FILE, MAX_LIFE_S, MIN_LIFE_S, PURPOSES, FilesQuery
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.http.multipart import Form, read_form
from deepwell.storage.files import StoredFile

__all__ = ["FILE_FIX", "file_body", "lifetime", "router"]

FILE_FIX = "send it through /v1/uploads, or start the server with a higher DEEPWELL_MAX_FILE_BYTES"
_CHUNK_BYTES = 256 << 10
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    options = context.options.files

    @routes.post("/v1/files", summary="Send a file", response_model=None, openapi_extra=FORM_OF_FILE)
    async def create(request: Request) -> Response:
        files = context.state.files
        try:
            form = await read_form(request, "file", files.draft, options.max_file_bytes, FILE_FIX)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        try:
            purpose, seconds = _asked(form)
            lasts = lifetime(purpose, seconds)
            stored = await files.create(
                tenant_of(request),
                filename=form.filename,
                purpose=purpose,
                content=form.file,
                lasts_s=lasts,
            )
        finally:
            form.file.discard()
        return json_response(file_body(stored))

    @routes.get("/v1/files", summary="List files", response_model=None)
    async def listed(request: Request, query: Annotated[FilesQuery, Query()]) -> Response:
        page = await context.state.files.list(
            tenant_of(request),
            after=query.after,
            limit=query.limit,
            order=query.order,
            purpose=query.purpose,
        )
        data = [file_body(one) for one in page.data]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(FileList(data, first, last, page.has_more))

    @routes.get("/v1/files/{file_id}", summary="Describe a file", response_model=None)
    async def retrieve(request: Request, file_id: str) -> Response:
        return json_response(file_body(await context.state.files.get(tenant_of(request), file_id)))

    @routes.delete("/v1/files/{file_id}", summary="Delete a file", response_model=None)
    async def delete(request: Request, file_id: str) -> Response:
        await context.state.files.delete(tenant_of(request), file_id)
        return json_response(FileDeleted(file_id))

    @routes.get("/v1/files/{file_id}/content", summary="Read a file", response_model=None)
    async def content(request: Request, file_id: str) -> Response:
        files = context.state.files
        stored = await files.get(tenant_of(request), file_id)
        try:
            path = await files.local(stored.sha256)
            opened = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:  # deleted meanwhile
            raise NotFound(f"there is no file {file_id!r}", fix="list the files") from None
        # A browser must never show it as a page of this host, whatever is in it.
        headers = {"content-length": str(stored.bytes), "x-content-type-options": "nosniff"}
        return StreamingResponse(_read(opened), headers=headers, media_type="application/octet-stream")

    return routes


async def _read(opened: BinaryIO) -> AsyncGenerator[bytes, None]:
    try:
        while data := await asyncio.to_thread(opened.read, _CHUNK_BYTES):
            yield data
    finally:
        opened.close()


def _asked(form: Form) -> tuple[str, int | None]:
    """Returns the purpose of a file, and the seconds that it is to be kept."""
    fields = form.fields
    if unknown := fields.keys() - {"purpose", _ANCHOR, _SECONDS}:
        name = min(unknown)
        raise InvalidRequest(f"unknown parameter {name[:64]!r}", fix="leave it out", param=name[:64])
    purpose = fields.get("purpose")
    if purpose not in PURPOSES:
        what = "missing parameter 'purpose'" if purpose is None else f"unknown purpose {purpose[:64]!r}"
        raise InvalidRequest(what, fix=f"send one of {', '.join(PURPOSES)}", param="purpose")
    if not form.file.bytes:
        raise InvalidRequest("the file is empty", fix="send one with something in it", param="file")
    if not form.filename:
        raise InvalidRequest(
            "the file has no name", fix="send a filename in its Content-Disposition", param="file"
        )
    return purpose, _seconds(fields)


def _seconds(fields: dict[str, str]) -> int | None:
    if _ANCHOR not in fields and _SECONDS not in fields:
        return None
    if fields.get(_ANCHOR) != "created_at":
        raise InvalidRequest("an expiry needs an anchor", fix="send 'created_at'", param=_ANCHOR)
    given = fields.get(_SECONDS, "")
    seconds = int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0
    if not MIN_LIFE_S <= seconds <= MAX_LIFE_S:
        raise InvalidRequest(
            f"a file cannot expire after {given[:20]!r} seconds",
            fix=f"send a whole number from {MIN_LIFE_S} to {MAX_LIFE_S}",
            param=_SECONDS,
        )
    return seconds


def lifetime(purpose: str, seconds: int | None) -> int | None:
    """Returns how long a file is kept, in seconds; None: until it is deleted. OpenAI keeps inputs of batches for 30 days."""
    return MAX_LIFE_S if seconds is None and purpose == "batch" else seconds


def file_body(stored: StoredFile) -> File:
    """Returns a file as the API describes it."""
    return File(
        id=stored.id,
        bytes=stored.bytes,
        created_at=stored.created_at,
        filename=stored.filename,
        purpose=stored.purpose,
        expires_at=msgspec.UNSET if stored.expires_at is None else stored.expires_at,
    )
