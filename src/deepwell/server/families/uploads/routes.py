"""`/v1/uploads`: files that come in parts."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.files.bodies import File
from deepwell.server.families.files.routes import file_body, lifetime
from deepwell.server.families.uploads.bodies import Upload, UploadPart
from deepwell.server.families.uploads.schema import FORM_OF_PART, CompleteRequest, UploadRequest
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.http.multipart import checked_name, read_form
from deepwell.storage.uploads import StoredUpload

__all__ = ["MAX_PART_BYTES", "PART_FIX", "router"]

MAX_PART_BYTES = 64 << 20  # OpenAI's
PART_FIX = f"send parts of at most {MAX_PART_BYTES} bytes"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    options = context.options.files

    @routes.post("/v1/uploads", summary="Announce a file that comes in parts", response_model=None)
    async def create(request: Request, body: UploadRequest) -> Response:
        if body.bytes > options.max_upload_bytes:
            raise InvalidRequest(
                f"a file of {body.bytes} bytes is larger than {options.max_upload_bytes}",
                fix="send a smaller one, or start the server with a higher DEEPWELL_MAX_UPLOAD_BYTES",
                param="bytes",
            )
        seconds = body.expires_after.seconds if body.expires_after else None
        upload = await context.state.uploads.create(
            tenant_of(request),
            filename=checked_name(body.filename),
            purpose=body.purpose,
            mime_type=body.mime_type,
            bytes=body.bytes,
            file_expires_after=lifetime(body.purpose, seconds),
        )
        return json_response(_body(upload))

    @routes.post(
        "/v1/uploads/{upload_id}/parts",
        summary="Send a part of a file",
        response_model=None,
        openapi_extra=FORM_OF_PART,
    )
    async def add_part(request: Request, upload_id: str) -> Response:
        state, tenant = context.state, tenant_of(request)
        # Checked before the bytes come: nobody should send 64 MB to learn that there is no such upload.
        await state.uploads.room(tenant, upload_id)
        try:
            form = await read_form(request, "data", state.files.draft, MAX_PART_BYTES, PART_FIX)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        try:
            if form.fields:
                name = min(form.fields)[:64]
                raise InvalidRequest(f"unknown parameter {name!r}", fix="leave it out", param=name)
            if not form.file.bytes:
                raise InvalidRequest("the part is empty", fix="send bytes", param="data")
            part = await state.uploads.add_part(tenant, upload_id, form.file)
        finally:
            form.file.discard()
        return json_response(UploadPart(part.id, part.created_at, upload_id))

    @routes.post("/v1/uploads/{upload_id}/complete", summary="Join the parts to a file", response_model=None)
    async def complete(request: Request, upload_id: str, body: CompleteRequest) -> Response:
        uploads = context.state.uploads
        upload, stored = await uploads.complete(tenant_of(request), upload_id, body.part_ids, body.md5)
        return json_response(_body(upload, file_body(stored)))

    @routes.post("/v1/uploads/{upload_id}/cancel", summary="Give an upload up", response_model=None)
    async def cancel(request: Request, upload_id: str) -> Response:
        return json_response(_body(await context.state.uploads.cancel(tenant_of(request), upload_id)))

    return routes


def _body(upload: StoredUpload, file: File | None = None) -> Upload:
    return Upload(
        id=upload.id,
        bytes=upload.bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        file=file,
    )
