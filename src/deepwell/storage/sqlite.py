"""SQLite in write-ahead mode. Readers never wait, and one process writes at a time."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from deepwell.storage.backend import StoreReplaced

__all__ = ["SQLite"]

_log = logging.getLogger("deepwell.storage")

_CHECKPOINTS, _CHECKPOINT_PAUSE_S = 50, 0.1
_RESERVE_BYTES = 4 << 20  # what the log takes between two checkpoints
_RESERVE_PART = 4  # at most this part of the free space
BUSY_MS = 10_000  # longest wait for another process that writes

_SPACE = "free space on its disk: queued work goes on by itself then"
_REASONS = {
    sqlite3.SQLITE_BUSY: (
        f"the database is locked: another process has been writing for {BUSY_MS // 1000} seconds",
        "send the request again; end the process that holds the lock, or use PostgreSQL (DEEPWELL_DATABASE_URL)",
    ),
    sqlite3.SQLITE_LOCKED: ("the database is locked", "send the request again"),
    sqlite3.SQLITE_FULL: ("the disk of the database is full", _SPACE),
    sqlite3.SQLITE_IOERR: ("the disk of the database cannot be read or written", f"check it, and {_SPACE}"),
    sqlite3.SQLITE_READONLY: (
        "the database is read-only",
        "give its owner the right to write to DEEPWELL_DATA_DIR",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "the database cannot be opened",
        "check that DEEPWELL_DATA_DIR can be read and written",
    ),
    sqlite3.SQLITE_NOMEM: (
        "there is no memory left for the database",
        "send the request again a little later",
    ),
    sqlite3.SQLITE_CORRUPT: (
        "the file of the database is damaged",
        "stop the server and restore DEEPWELL_DATA_DIR from a backup",
    ),
    sqlite3.SQLITE_NOTADB: (
        "the file of the database is none",
        "stop the server and restore DEEPWELL_DATA_DIR from a backup",
    ),
}


class SQLite:
    """The database engine for a single machine.

    With `synchronous=FULL` a commit is on the disk when the write returns, provided that the disk reports truthfully. `OFF`
    leaves syncing to the operating system, for databases that need not outlive their process.
    """

    setting = "DEEPWELL_DATA_DIR"
    rises_with_commits = True

    def __init__(
        self, url: str, *, synchronous: Literal["FULL", "OFF"] = "FULL", busy_ms: int = BUSY_MS
    ) -> None:
        self.shown = url
        main = sa.make_url(url).database or ""
        self.file = Path(main)
        self._files = (main, f"{main}-wal", f"{main}-shm")
        self._reserve = self.file.with_name(f"{self.file.name}-reserve")
        self._reserve_bytes = None if synchronous == "FULL" else 0
        self._busy_s = busy_ms / 1000
        self._seen: dict[str, tuple[int, int]] = {}
        self._missed = False
        self._changes = 0
        pragmas = (
            f"busy_timeout={busy_ms}",
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
        )
        self.writer = self._engine(url, "BEGIN IMMEDIATE", pragmas, pool_size=1, max_overflow=0)
        reading = (*pragmas, "query_only=ON")
        self.reader = self._engine(url, "BEGIN", reading, pool_size=4, max_overflow=4, pool_timeout=10)

    def check(self) -> None:
        """Compares device and inode of the files with those that are open.

        SQLite itself would go on with files that nobody else can see, and all that it wrote would go with the process.
        """
        for path, seen in self._seen.items():
            try:
                now = os.stat(path)  # noqa: PTH116 - once for every read and write
            except OSError:
                now = None
            if (
                now is None
                or (now.st_dev, now.st_ino) != seen
                or (now.st_size == 0 and path == self._files[0])
            ):
                what = "was removed" if now is None else "was replaced" if now.st_size else "was emptied"
                if not self._missed:
                    self._missed = True
                    _log.error(
                        "%s %s while it was open: nothing is read or written until it is back", path, what
                    )
                raise StoreReplaced(
                    f"the file of the database {what} while the server runs",
                    fix="stop the server, put the file back or restore a backup, and start it again",
                )
        if self._missed:
            self._missed = False
            _log.warning("%s is back", self._files[0])

    def settle(self) -> None:
        """Notes device and inode of the open files."""
        for path in self._files:
            with suppress(FileNotFoundError):
                found = os.stat(path)  # noqa: PTH116
                self._seen[path] = found.st_dev, found.st_ino

    def has_changed(self, connection: Connection) -> bool:
        """Returns whether the writer has changed a row since the last call."""
        raw = connection.connection.dbapi_connection
        before, self._changes = self._changes, raw.total_changes  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        return self._changes != before

    def look_at_clock(self, connection: Connection) -> None:
        """Does nothing: who shares the file has the same clock."""

    def scrub(self) -> bool:
        """Rewrites the file without its free pages, and empties the log. Returns False if readers keep the log."""
        connection = sqlite3.connect(self._files[0], isolation_level=None, timeout=self._busy_s)
        try:
            connection.execute("VACUUM")
            for _ in range(_CHECKPOINTS):  # a reader of an old commit keeps the log for as long as it reads
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not busy:
                    return True
                time.sleep(_CHECKPOINT_PAUSE_S)
            _log.warning("readers keep the log of the database: it is emptied when the last one closes")
            return False
        finally:
            connection.close()

    def reserve(self) -> None:
        """Allocates a file beside the database, or as much of it as there is room for."""
        with suppress(OSError):
            kept = self._reserve.stat().st_size if self._reserve.exists() else 0
            if self._reserve_bytes is None:
                self._reserve_bytes = min(_RESERVE_BYTES, (_free(self._reserve) + kept) // _RESERVE_PART)
            if kept >= self._reserve_bytes:
                return
            size = min(self._reserve_bytes, _free(self._reserve) + kept)
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)

    @contextmanager
    def reserve_used(self) -> Generator[bool]:
        """Removes the file that `reserve` allocates, and moves the log into the database before it is allocated again.

        The log can then be written from its start, and later deletions take no more room.
        """
        try:
            self._reserve.unlink()
        except OSError:
            yield False
            return
        yield True
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(self._files[0])) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self.reserve()

    def is_full(self, error: DBAPIError) -> bool:
        """Returns whether the disk, or a quota, has no room. SQLite calls a quota an error of writing."""
        code = getattr(error.orig, "sqlite_errorcode", None)
        return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)

    def lock_migrations(self, connection: Connection) -> None:
        """Does nothing, because the transaction has been the only writer since it began."""

    def bounded(self, connection: Connection) -> AbstractContextManager[None]:
        """Does nothing, because `busy_timeout` limits every wait."""
        return nullcontext()

    def is_lost(self, connection: Connection) -> bool:
        """Returns whether SQLite undid the whole transaction, as it does on a full disk (sqlite.org/lang_transaction.html)."""
        raw = connection.connection.dbapi_connection
        return raw is None or not raw.in_transaction  # pyright: ignore[reportAttributeAccessIssue]

    def is_race(self, error: Exception) -> bool:
        """Returns False: writers take turns, so there are no conflicts."""
        return False

    def explain(self, error: DBAPIError) -> tuple[str, str] | None:
        """Looks up SQLite's error code. A code without an entry comes from a mistake in a query."""
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None and "decode" in str(
            error.orig
        ):  # the driver's own error, about text that is no UTF-8
            code = sqlite3.SQLITE_CORRUPT
        return None if code is None else _REASONS.get(code & 0xFF)

    def _engine(self, url: str, begin: str, pragmas: Sequence[str], **options: Any) -> Engine:
        arguments = {"check_same_thread": False}
        engine = sa.create_engine(
            url, poolclass=QueuePool, connect_args=arguments, hide_parameters=True, **options
        )

        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _record: Any) -> None:
            # The driver would begin transactions by itself, later than asked, and never before a savepoint.
            connection.isolation_level = None
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine


def _free(path: Path) -> int:
    """Returns the bytes that are free on the disk of a file."""
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize
