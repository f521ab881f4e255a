"""`Draft`: bytes of a blob in the making, in a file of this machine."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from deepwell.errors import StorageError

__all__ = ["CHUNK_BYTES", "DiskFull", "Draft", "explained"]

CHUNK_BYTES = 1 << 20
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
        with explained(folder):
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
        with explained(self._folder):
            self._file.write(data)
        self._sha256.update(data)
        self._md5.update(data)
        self.bytes += len(data)

    def copy(self, source: Path) -> None:
        """Adds all bytes of a file."""
        with source.open("rb") as stream:
            while data := stream.read(CHUNK_BYTES):
                self.write(data)

    def close(self) -> None:
        """Syncs the bytes to the disk. Nothing can be added afterwards."""
        if self._file.closed:
            return
        with explained(self._folder):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        """Deletes the bytes unless they have become a blob."""
        with suppress(OSError):  # bytes that could not be written are discarded anyway
            self._file.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def explained(folder: Path) -> Generator[None]:
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
