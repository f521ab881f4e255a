"""Blobs: bytes named by their SHA-256, in a folder of this machine or in a bucket of an object store.

`FolderBlobs` is the interface as well; `ObjectBlobs` keeps what it says, and one suite of tests runs against both.
"""

from deepwell.storage.blobs.draft import DiskFull, Draft
from deepwell.storage.blobs.folder import FolderBlobs
from deepwell.storage.blobs.opening import open_blobs
from deepwell.storage.blobs.place import BlobPlace

__all__ = ["BlobPlace", "DiskFull", "Draft", "FolderBlobs", "open_blobs"]
