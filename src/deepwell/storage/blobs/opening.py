"""`open_blobs`: the blobs of a place."""

from __future__ import annotations

from pathlib import Path

from deepwell.storage.blobs.folder import FolderBlobs
from deepwell.storage.blobs.place import BlobPlace

__all__ = ["open_blobs"]


def open_blobs(folder: Path, place: BlobPlace | None) -> FolderBlobs:
    """Returns the blobs of a folder, or of a bucket with copies in the folder. Nothing is connected to yet."""
    if place is None:
        return FolderBlobs(folder)
    from deepwell.storage.blobs.objects import ObjectBlobs

    return ObjectBlobs(folder, place)
