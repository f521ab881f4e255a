"""The bodies of `/v1/files`."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

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
    expires_at: int | UnsetType = UNSET
    status: Literal["processed"] = "processed"


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
