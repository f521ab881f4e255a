"""One database: SQLite in write-ahead mode, readers in threads, one thread that writes and commits in groups."""

from __future__ import annotations

import asyncio
import queue
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool, QueuePool

from deepwell.errors import StorageError
from deepwell.storage.tables import HEAD

__all__ = ["LOCAL", "Database", "Tenant"]

Tenant = NewType("Tenant", str)
"""Whose data it is. Stores ask for it in every call, so that no query can forget it."""

LOCAL = Tenant("local")
"""Who asks where a server has no keys."""

T = TypeVar("T")

_LARGEST_GROUP = 64  # writes of one commit: later ones should not wait for more
_BUSY_MS = 10_000  # to wait for another process that writes


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[Connection], Any]
    done: Future[Any]


class Database:
    """Reads see the last commit; a write has been committed when its call returns."""

    def __init__(self, url: str, *, folder: tempfile.TemporaryDirectory[str] | None = None) -> None:
        """Open the database at an SQLAlchemy URL, and bring its tables up to date.

        Raises:
            StorageError: it cannot be opened, or a newer Deepwell made it.
        """
        self.url = url
        self._folder = folder
        self._reader = _engine(url, "BEGIN", QueuePool, pool_size=4, max_overflow=4)
        self._writer = _engine(url, "BEGIN IMMEDIATE", NullPool)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        try:
            with self._writer.connect() as connection:
                _bring_up_to_date(connection)
        except DatabaseError as error:
            raise StorageError(
                f"the database {url} cannot be opened: {error.orig}",
                fix="check that its directory can be written to and that it is a Deepwell database",
            ) from None
        self._closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._write_all, name="deepwell-storage", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path) -> Database:
        """The SQLite database in a file, which is made where there is none, for its owner's eyes alone."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise StorageError(
                f"the database {path} cannot be made: {error.strerror}",
                fix="set DEEPWELL_DATA_DIR to another place",
            ) from None
        return cls(f"sqlite:///{path}")

    @classmethod
    def temporary(cls) -> Database:
        """A database that is gone with the object: of tests, and of servers that are to keep nothing."""
        folder = tempfile.TemporaryDirectory(prefix="deepwell-", ignore_cleanup_errors=True)
        return cls(f"sqlite:///{folder.name}/deepwell.db", folder=folder)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds, in a thread: the event loop does not wait for the disk."""

        def run() -> T:
            with self._reader.connect() as connection:
                return work(connection)

        return await asyncio.to_thread(run)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in the writer's thread. What it raises undoes its own changes and reaches the caller.

        A caller that is cancelled does not learn whether its change was made.
        """
        return await asyncio.wrap_future(self._submit(work))

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """`write` for a caller without an event loop."""
        return self._submit(work).result()

    def _submit(self, work: Callable[[Connection], T]) -> Future[T]:
        done: Future[T] = Future()
        with self._closing:  # a job behind the last one would never be done
            if self._closed:
                raise StorageError(
                    "the database is closed", fix="send the request again when the server is back"
                )
            self._jobs.put(_Job(work, done))
        return done

    def close(self) -> None:
        """Commit what was asked for, and let go of the file."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join()
        self._reader.dispose()
        self._writer.dispose()
        if self._folder is not None:
            self._folder.cleanup()

    def _write_all(self) -> None:
        with self._writer.connect() as connection:
            while (job := self._jobs.get()) is not None:
                group = [job]
                while len(group) < _LARGEST_GROUP and not self._jobs.empty():
                    following = self._jobs.get()
                    if following is None:
                        self._jobs.put(None)
                        break
                    group.append(following)
                _commit(connection, [job for job in group if job.done.set_running_or_notify_cancel()])


def _commit(connection: Connection, group: list[_Job]) -> None:
    """Do all the work in one transaction, each job in a savepoint of its own; tell everybody afterwards."""
    results: list[Any] = []
    errors: dict[int, Exception] = {}
    try:
        with connection.begin():
            for number, job in enumerate(group):
                result = None
                try:
                    with connection.begin_nested():
                        result = job.work(connection)
                except Exception as error:  # reaches the caller of this job alone
                    errors[number] = error
                results.append(result)
    except Exception as error:  # the commit failed: nobody's change was made
        errors = dict.fromkeys(range(len(group)), error)
        results = [None] * len(group)
    for number, job in enumerate(group):
        if number in errors:
            job.done.set_exception(errors[number])
        else:
            job.done.set_result(results[number])


def _engine(url: str, begin: str, pool: type[sa.Pool], **options: Any) -> Engine:
    engine = sa.create_engine(url, poolclass=pool, connect_args={"check_same_thread": False}, **options)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # The driver would begin transactions by itself, later than told, and never in front of a savepoint.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout={_BUSY_MS}",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _bring_up_to_date(connection: Connection) -> None:
    with connection.begin():
        if _revision(connection) == HEAD:
            return
        # Alembic takes longer to import than the whole start of a server whose tables are as they should be.
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option(
            "script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%")
        )
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StorageError(
                f"the database {connection.engine.url} is of revision {_revision(connection)}, which is unknown here: {error}",
                fix="use the Deepwell that made it, or a newer one",
            ) from None


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
