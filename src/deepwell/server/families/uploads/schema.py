"""The requests of `/v1/uploads`."""

from __future__ import annotations

from pydantic import Field

from deepwell.server.families.files.schema import ExpiresAfter, Purpose
from deepwell.server.http.multipart import BINARY, form_schema
from deepwell.server.http.schema import Strict

__all__ = [
    "FORM_OF_PART",
    "CompleteRequest",
    "UploadRequest",
]


class UploadRequest(Strict):
    """Announces a file that comes in parts."""

    bytes: int = Field(ge=1, description="Of the whole file.")
    filename: str = Field(min_length=1)
    mime_type: str = Field(max_length=256)
    purpose: Purpose
    expires_after: ExpiresAfter | None = Field(None, description="Of the file, from when it is complete.")


class CompleteRequest(Strict):
    """Joins the parts."""

    part_ids: list[str] = Field(min_length=1, description="In the order of the file.")
    md5: str | None = Field(None, description="Of the whole file, in hexadecimal.")


FORM_OF_PART = form_schema({"data": BINARY}, ["data"])
