"""The bodies of `/v1/uploads`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from deepwell.server.families.files.bodies import File

__all__ = [
    "Upload",
    "UploadPart",
]


class Upload(Struct, tag_field="object", tag="upload"):
    """An upload; `file` once it is completed."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: File | None = None


class UploadPart(Struct, tag_field="object", tag="upload.part"):
    """A part of an upload."""

    id: str
    created_at: int
    upload_id: str
