"""The family of uploads: files that come in parts."""

from __future__ import annotations

from collections.abc import Mapping

from deepwell.server.context import ServerContext
from deepwell.server.families.family import Family
from deepwell.server.families.uploads.bodies import Upload, UploadPart
from deepwell.server.families.uploads.routes import MAX_PART_BYTES, PART_FIX, router
from deepwell.server.families.uploads.schema import UploadRequest
from deepwell.server.http.declaration import Declaration, Operation
from deepwell.server.http.middleware import BodyAllowance
from deepwell.server.http.multipart import FORM_OVERHEAD_BYTES

__all__ = ["FAMILY"]

_UPLOADS = "/v1/uploads"
_UPLOAD = "/v1/uploads/{upload_id}"


def _allowances(_context: ServerContext) -> Mapping[str, BodyAllowance]:
    return {f"{_UPLOAD}/parts": BodyAllowance(MAX_PART_BYTES + FORM_OVERHEAD_BYTES, PART_FIX)}


FAMILY = Family(
    Declaration(
        (
            Operation("post", _UPLOADS, Upload, request=UploadRequest),
            Operation("post", f"{_UPLOAD}/parts", UploadPart),
            Operation("post", f"{_UPLOAD}/complete", Upload),
            Operation("post", f"{_UPLOAD}/cancel", Upload),
        ),
        scope="files",
    ),
    router,
    body_allowances=_allowances,
)
