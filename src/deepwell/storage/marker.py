"""Markers: small files beside a database that remember it, so that its loss is noticed.

A database that is gone looks like one that never was: a server would start anew, without keys and without data. So every
database is remembered by a file in `data_dir`, and one that has had API keys by a second file in `state_dir`, which is
there when `data_dir` is lost. Both are read before the database is opened (`storage/installation.py`).

A marker is a few lines of fixed length. Numbers and flags are overwritten in place, without a sync: a marker that a power
failure left behind remembers less than there is, never more.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deepwell.errors import StorageError
from deepwell.settings.storage import StorageSettings

__all__ = ["Marker", "Markers", "Memory", "StoreLost"]

_log = logging.getLogger("deepwell.storage")

_LINES = re.compile(rb"deepwell store 1\nid ([0-9a-f]{32})\nkeys ([01])\nfiles ([01])\ngeneration (\d{20})\n")
_GENERATION_AT = 79
_INIT = "restore it from a backup, or give it up and start once with --init"


class StoreLost(StorageError):
    """Raised at a start when the database is not the one that was here before, or only an earlier state of it."""

    code = "store_lost"


@dataclass(frozen=True, slots=True)
class Memory:
    """The content of a marker.

    Attributes:
        id: the id of the database. Empty: the marker is damaged.
        keys: whether API keys were ever made.
        files: whether the folder of files beside the marker had any.
        generation: the last state of the database that was seen.
    """

    id: str
    keys: bool = False
    files: bool = False
    generation: int = 0


class Marker:
    """One marker. Nothing is kept open, for the file may be removed and made again by others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Memory | None:
        """Returns what the marker remembers; None: there is no such file.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            text = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be read: {error.strerror}",
                fix="run Deepwell as the user who owns it, or set DEEPWELL_DATA_DIR to another place",
            ) from None
        found = _LINES.fullmatch(text)
        if found is None:
            return Memory("", keys=True)
        return Memory(found[1].decode(), found[2] == b"1", found[3] == b"1", int(found[4]))

    def write(self, memory: Memory) -> None:
        """Replaces the marker as a whole, on the disk when the call returns."""
        text = b"deepwell store 1\nid %b\nkeys %d\nfiles %d\ngeneration %020d\n" % (
            memory.id.encode(),
            memory.keys,
            memory.files,
            memory.generation,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def advance(self, generation: int) -> None:
        """Overwrites the generation; does nothing if there is no marker."""
        with suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(self.path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, b"%020d" % generation, _GENERATION_AT)
            finally:
                os.close(descriptor)

    def forget(self) -> None:
        """Removes the marker."""
        self.path.unlink(missing_ok=True)


class Markers:
    """The markers of one database: one in `data_dir`, and one in `state_dir` once there have been keys."""

    def __init__(self, inside: Marker, outside: Marker, database: Path | None, files: Path | None) -> None:
        """Names the markers. `database` is the file of an SQLite database, `files` the folder of files, if they have one."""
        self.inside = inside
        self.outside = outside
        self._database = database
        self._files = files
        self._warned = False

    @classmethod
    def of(cls, settings: StorageSettings) -> Markers:
        """Returns the markers of the database that the settings name."""
        folder = settings.data_dir.absolute()
        if settings.database_url is None:
            database = folder / "deepwell.db"
            address, name = str(database), "deepwell"
        else:
            database = None
            address = _without_credentials(settings.database_url.get_secret_value())
            name = f"postgresql-{_digest(address)[:12]}"
        outside = settings.state_dir / "stores" / f"{_digest(address)[:32]}.marker"
        files = folder / "files" if settings.blobs is None else None
        return cls(Marker(folder / f"{name}.marker"), Marker(outside), database, files)

    def read(self) -> Sequence[Memory]:
        """Returns what the markers remember, of those that there are.

        Raises:
            StorageError: the marker in `data_dir` cannot be read. The other is then only missed, with a warning.
        """
        found = [self.inside.read()]
        try:
            found.append(self.outside.read())
        except StorageError as error:
            self._warn(self.outside, error)
        return [memory for memory in found if memory is not None]

    def require_file(self) -> None:
        """Checks, without opening it, that the file of a remembered SQLite database is there.

        Raises:
            StoreLost: it is missing or empty.
        """
        if self._database is None or not self.read():
            return
        try:
            size = self._database.stat().st_size
        except FileNotFoundError:
            raise StoreLost(f"the database {self._database} was here and is gone", fix=_INIT) from None
        except OSError:  # reported when it is opened
            return
        if size == 0:
            raise StoreLost(f"the database {self._database} is empty, and was not before", fix=_INIT)

    @property
    def has_folder(self) -> bool:
        """True if files are in a folder of this machine."""
        return self._files is not None

    def has_files(self) -> bool:
        """Returns whether the folder of files holds any."""
        return self._files is not None and next(self._files.glob("[0-9a-f][0-9a-f]/*"), None) is not None

    def remember(self, memory: Memory) -> None:
        """Writes the markers that the database is to have, if they are not as they should be.

        A marker that cannot be written is reported once, and is no reason to stop.
        """
        for marker in (self.inside, self.outside) if memory.keys else (self.inside,):
            try:
                before, now = marker.read(), memory
                if before is not None and before.id == memory.id:  # another process may have seen more
                    now = Memory(
                        memory.id,
                        memory.keys or before.keys,
                        memory.files or before.files,
                        max(memory.generation, before.generation),
                    )
                if before != now:
                    marker.write(now)
            except (OSError, StorageError) as error:
                self._warn(marker, error)

    def advance(self, generation: int) -> None:
        """Overwrites the generation in the markers that there are."""
        for marker in (self.inside, self.outside):
            try:
                marker.advance(generation)
            except OSError as error:
                self._warn(marker, error)

    def forget(self) -> int:
        """Removes the markers, and returns the newest generation that they remembered."""
        newest = max((memory.generation for memory in self.read()), default=0)
        for marker in (self.inside, self.outside):
            marker.forget()
        return newest

    def _warn(self, marker: Marker, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s cannot be used, so a loss of the database may go unnoticed: %s; set DEEPWELL_STATE_DIR to a "
                "folder that outlives DEEPWELL_DATA_DIR",
                marker.path,
                error,
            )


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


def _without_credentials(url: str) -> str:
    """Returns host, port and name of a database: another user or password is no other database."""
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(url)
    query = parse_qs(parts.query)
    # Not `hostname` and `port`: a URL may list several servers.
    host = (query.get("host") or [parts.netloc.rpartition("@")[2]])[0]
    port = query.get("port", [""])[0]
    name = (query.get("dbname") or [parts.path.lstrip("/")])[0]
    return f"postgresql://{host}:{port}/{name}"
