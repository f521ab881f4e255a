"""The bodies of `/v1/files`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = [
    "File",
    "FileDeleted",
    "FileList",
]


class File(Struct, tag_field="object", tag="file"):
    """A file."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileDeleted(Struct, tag_field="object", tag="file"):
    """A file that is gone."""

    id: str
    deleted: bool = True


class FileList(Struct, tag_field="object", tag="list"):
    """A page of files."""

    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool
