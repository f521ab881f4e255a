"""`KeptPieces`: the folder of the finished pieces of a work, so that a run that was broken off goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from deepwell.errors import InvalidRequest

__all__ = ["KeptPieces", "folder_for"]

_SUFFIX = ".piece"
_DIGEST_BYTES = 20


def folder_for(output: Path) -> Path:
    """Returns the folder of the pieces of a work whose result is to be `output`."""
    return output.with_name(f"{output.name}.pieces")


class KeptPieces:
    """Finished pieces in a folder, a file each, by their keys. A file appears whole or not at all.

    Args:
        folder: the folder, which is made when the first piece is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, key: str, result: bytes) -> None:
        """Writes the result of a piece.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{key}.{os.getpid()}.part"
        with part.open("wb") as file:
            file.write(_digest(result) + result)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path(key))

    def has(self, key: str) -> bool:
        """Returns whether a piece is finished and its file sound. A broken file is removed, and counts as none."""
        try:
            self.result(key)
        except FileNotFoundError:
            return False
        except InvalidRequest:
            self._path(key).unlink()
            return False
        return True

    def result(self, key: str) -> bytes:
        """Returns the result of a finished piece.

        Raises:
            FileNotFoundError: it is not finished.
            InvalidRequest: somebody has changed its file.
        """
        path = self._path(key)
        data = path.read_bytes()
        digest, result = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if digest != _digest(result):
            raise InvalidRequest.of("pieces_changed", path=path)
        return result

    def remove(self) -> None:
        """Removes the folder and the pieces in it; other files in it stay, and with them the folder."""
        with suppress(FileNotFoundError):
            for path in self._own():
                path.unlink(missing_ok=True)
            with suppress(OSError):  # somebody else's file is in it
                self._folder.rmdir()

    def _own(self) -> Iterator[Path]:
        for path in self._folder.iterdir():
            if path.suffix == _SUFFIX or (path.name.startswith(".") and path.suffix == ".part"):
                yield path

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"


def _digest(result: bytes) -> bytes:
    return blake2b(result, digest_size=_DIGEST_BYTES).digest()
