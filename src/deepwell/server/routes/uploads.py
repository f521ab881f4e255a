"""`/v1/uploads`: files that come in parts."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.file_schema import (
    FORM_OF_PART,
    CompleteRequest,
    File,
    Upload,
    UploadPart,
    UploadRequest,
)
from deepwell.server.multipart import checked_name, read_form
from deepwell.server.routes.files import file_body, lifetime
from deepwell.server.service import Service
from deepwell.server.state import tenant_of
from deepwell.storage.uploads import StoredUpload

__all__ = ["MAX_PART_BYTES", "PART_FIX", "router"]

MAX_PART_BYTES = 64 << 20  # OpenAI's
PART_FIX = f"send parts of at most {MAX_PART_BYTES} bytes"


def router(service: Service) -> APIRouter:
    """The routes, bound to `service`."""
    routes = APIRouter()
    options = service.files

    @routes.post("/v1/uploads", summary="Announce a file that comes in parts", response_model=None)
    async def create(request: Request, body: UploadRequest) -> Response:
        if body.bytes > options.max_upload_bytes:
            raise InvalidRequest(
                f"a file of {body.bytes} bytes is larger than {options.max_upload_bytes}",
                fix="send a smaller one, or start the server with a higher DEEPWELL_MAX_UPLOAD_BYTES",
                param="bytes",
            )
        seconds = body.expires_after.seconds if body.expires_after else None
        upload = await service.state.uploads.create(
            tenant_of(request),
            filename=checked_name(body.filename),
            purpose=body.purpose,
            mime_type=body.mime_type,
            bytes=body.bytes,
            file_expires_after=lifetime(body.purpose, seconds),
        )
        return _json(_body(upload))

    @routes.post(
        "/v1/uploads/{upload_id}/parts",
        summary="Send a part of a file",
        response_model=None,
        openapi_extra=FORM_OF_PART,
    )
    async def add_part(request: Request, upload_id: str) -> Response:
        state, tenant = service.state, tenant_of(request)
        # Asked before the bytes come: nobody should send 64 MB to hear that there is no such upload.
        await state.uploads.room(tenant, upload_id)
        try:
            form = await read_form(request, "data", state.files.draft, MAX_PART_BYTES, PART_FIX)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        try:
            if form.fields:
                name = min(form.fields)[:64]
                raise InvalidRequest(f"unknown parameter {name!r}", fix="leave it out", param=name)
            if not form.file.bytes:
                raise InvalidRequest("the part is empty", fix="send bytes", param="data")
            part = await state.uploads.add_part(tenant, upload_id, form.file)
        finally:
            form.file.discard()
        return _json(UploadPart(part.id, part.created_at, upload_id))

    @routes.post("/v1/uploads/{upload_id}/complete", summary="Join the parts to a file", response_model=None)
    async def complete(request: Request, upload_id: str, body: CompleteRequest) -> Response:
        uploads = service.state.uploads
        upload, stored = await uploads.complete(tenant_of(request), upload_id, body.part_ids, body.md5)
        return _json(_body(upload, file_body(stored)))

    @routes.post("/v1/uploads/{upload_id}/cancel", summary="Give an upload up", response_model=None)
    async def cancel(request: Request, upload_id: str) -> Response:
        return _json(_body(await service.state.uploads.cancel(tenant_of(request), upload_id)))

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


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
