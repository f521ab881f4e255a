"""The side folder of a store: its state, kept in a file that changes as a whole, and locks that processes share."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Self, TypeVar

__all__ = ["FORMAT", "FolderLock", "GraphState", "RowsState", "read_state", "write_state"]

FORMAT: Final = 2
T = TypeVar("T", bound="_State")


@dataclass(frozen=True, slots=True)
class _State:
    @classmethod
    def of(cls, values: dict[str, Any]) -> Self | None:
        """Returns the state of a parsed file, or None if it is not one of this format."""
        if values.keys() != {field.name for field in fields(cls)} or values.get("format") != FORMAT:
            return None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class RowsState(_State):
    """The extent of the files of rows, and what they hold.

    Attributes:
        format: version of the files.
        lineage: random name of a series of rows. A series that begins anew has another.
        embedder: hash of the embedder that made the vectors.
        dimensions: length of a vector.
        generation: the state of the store up to which its changes were applied. 0: none.
        epoch: number in the names of the files; compaction writes new ones.
        rows: rows that are filled.
        removed: entries of the list of rows that were removed.
        next_serial: serial number of the next row.
    """

    lineage: str
    embedder: str
    dimensions: int
    generation: int = 0
    epoch: int = 0
    rows: int = 0
    removed: int = 0
    next_serial: int = 0
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class GraphState(_State):
    """The graph of nearest neighbours that is in force.

    Attributes:
        lineage: the series of rows that it was built from.
        file: name of its file.
        bytes: size of that file.
        next_serial: the graph covers all rows with smaller serial numbers that were there when it was built.
        nodes: number of vectors in it; some may have been removed from the rows since.
        shape: the parameters that it was built with. A graph of other parameters is not used.
        format: version of the file.
    """

    lineage: str
    file: str
    bytes: int
    next_serial: int
    nodes: int
    shape: str
    format: int = FORMAT


def read_state(path: Path, kind: type[T]) -> T | None:
    """Returns the state that a file holds, or None if there is none, or one that cannot be used: then it is built anew."""
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return kind.of(values) if isinstance(values, dict) else None


def write_state(path: Path, state: _State) -> None:
    """Replaces the state in a file. After a crash at any moment the file holds the old or the new one as a whole."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("wb") as file:
        file.write(json.dumps(asdict(state)).encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class FolderLock:
    """A lock that threads and processes share. The kernel drops it when its holder dies. A thread may take it again.

    Args:
        path: the file of the lock; its folder is made. None: threads alone share it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._threads = threading.RLock()
        self._depth = 0
        self._file = -1

    @contextmanager
    def held(self) -> Generator[None]:
        """Waits for the lock and holds it."""
        with self._threads:
            self._take(wait=True)
            try:
                yield
            finally:
                self._give()

    @contextmanager
    def tried(self) -> Generator[bool]:
        """Holds the lock if nobody else does. Yields True if it was free."""
        if not self._threads.acquire(blocking=False):
            yield False
            return
        try:
            taken = self._take(wait=False)
            try:
                yield taken
            finally:
                if taken:
                    self._give()
        finally:
            self._threads.release()

    def _take(self, *, wait: bool) -> bool:
        if self._depth == 0 and self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                self._close()
                return False
            except BaseException:
                self._close()
                raise
        self._depth += 1
        return True

    def _give(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1
