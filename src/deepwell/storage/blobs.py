"""A folder of files named by the SHA-256 of their bytes, `ab/abcdef...`. Each is written as a draft, synced and renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from deepwell.errors import StorageError

__all__ = ["Blobs", "DiskFull", "Draft"]

_CHUNK_BYTES = 1 << 20
_DRAFTS = "drafts"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(StorageError):
    """Raised when the disk that holds the files is full."""

    status = 507
    code = "disk_full"


class Draft:
    """Bytes of a blob in the making, hashed and counted as they arrive. Its methods block, so call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.bytes = 0
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(dir=folder)
            self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self.path = Path(name)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """MD5 of the bytes so far, in hex, as clients of uploads send it."""
        return self._md5.hexdigest()

    def write(self, data: bytes) -> None:
        """Adds bytes.

        Raises:
            DiskFull: the disk is full.
        """
        with _explained(self._folder):
            self._file.write(data)
        self._sha256.update(data)
        self._md5.update(data)
        self.bytes += len(data)

    def copy(self, source: Path) -> None:
        """Adds all bytes of a file."""
        with source.open("rb") as stream:
            while data := stream.read(_CHUNK_BYTES):
                self.write(data)

    def close(self) -> None:
        """Syncs the bytes to the disk. Nothing can be added afterwards."""
        if self._file.closed:
            return
        with _explained(self._folder):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        """Deletes the bytes unless they have become a blob."""
        with suppress(OSError):  # bytes that could not be written are discarded anyway
            self._file.close()
        self.path.unlink(missing_ok=True)


class Blobs:
    """The folder of blobs. It does not know the owners of the bytes: equal bytes share one file, and no tenant can tell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draft(self) -> Draft:
        """Returns a new draft."""
        return Draft(self.folder / _DRAFTS)

    def path(self, sha256: str) -> Path:
        """Returns the path of the bytes with this hash."""
        return self.folder / sha256[:2] / sha256

    def place(self, draft: Draft) -> str:
        """Turns a closed draft into the blob of its bytes and returns its hash.

        A second call changes nothing, because a transaction may be retried.
        """
        target = self.path(draft.sha256)
        if not draft.path.exists() and target.exists():
            return draft.sha256
        with _explained(self.folder):
            target.parent.mkdir(exist_ok=True, mode=0o700)
            # This also replaces an existing blob. Its age restarts, so the sweep leaves it alone until a row names it.
            draft.path.replace(target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return draft.sha256

    def remove(self, sha256: str) -> None:
        """Deletes a blob. Readers that have it open can go on reading."""
        self.path(sha256).unlink(missing_ok=True)

    def older_than(self, age_s: float) -> Iterator[str]:
        """Yields the hashes of blobs that were placed more than `age_s` seconds ago."""
        limit = time.time() - age_s
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if _older(path, limit):
                yield path.name

    def remove_drafts(self, age_s: float) -> int:
        """Deletes drafts left by killed processes, unwritten for `age_s` seconds, and returns their number."""
        limit = time.time() - age_s
        left = [path for path in (self.folder / _DRAFTS).glob("*") if _older(path, limit)]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def _older(path: Path, limit: float) -> bool:
    try:
        return path.stat().st_mtime < limit
    except FileNotFoundError:  # placed or discarded in the meantime
        return False


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Turns errors of the disk into `DiskFull` or `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"there is no room on the disk of {folder}",
                fix="delete files, or set DEEPWELL_DATA_DIR to a larger disk",
            ) from error
        raise StorageError(
            f"{folder} cannot be written: {error.strerror}", fix="set DEEPWELL_DATA_DIR to another place"
        ) from error
