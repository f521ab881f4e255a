"""One database with readers in threads, and one thread that writes and commits in groups."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NewType, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from deepwell.errors import StorageError, StorageUnavailable
from deepwell.settings.storage import StorageSettings
from deepwell.storage.backend import (
    NOTHING_KEPT,
    Backend,
    StorageFull,
    StoreReplaced,
    cannot_open,
    is_disconnect,
    release_cursors,
    translated,
)
from deepwell.storage.installation import Installation
from deepwell.storage.marker import Markers
from deepwell.storage.migrations import bring_up_to_date
from deepwell.storage.sqlite import SQLite

__all__ = ["LOCAL", "Database", "Tenant"]

Tenant = NewType("Tenant", str)
"""The owner of data. Stores require it in every call so that no query can forget it."""

LOCAL = Tenant("local")
"""Tenant of all requests to a server without keys."""

T = TypeVar("T")

_LARGEST_GROUP = 64  # writes per commit, so that later ones do not wait longer
_RACES = 3  # retries of a write, alone in its transaction, after a conflict with another server's writer
_IN_DOUBT = "it is not known whether this change was kept: look before sending it again"


@dataclass(frozen=True, slots=True)
class _Write:
    work: Callable[[Connection], Any]
    done: Future[Any] | asyncio.Future[Any]  # an asyncio.Future if there is a loop
    loop: asyncio.AbstractEventLoop | None
    frees: bool = False


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


class Database:
    """A database. Reads see the last commit; a write is committed when its call returns.

    `work` must use nothing but the connection, because it may run more than once: after a connection broke before the commit,
    or after a conflict with another server's writer. A database that is unreachable, full or locked raises
    `StorageUnavailable`, which says what became of the change. Later calls work again when the database is back.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        folder: tempfile.TemporaryDirectory[str] | None = None,
        installation: Installation | None = None,
    ) -> None:
        """Opens the database and brings its tables up to date.

        Raises:
            StorageError: the database cannot be opened, or was made by a newer Deepwell.
            StoreLost: `installation` has markers, and they remember another database, or a later state of this one.
        """
        self._backend = backend
        self._installation = installation or Installation()
        self._unrecorded = 0  # commits since the last record
        self._folder = folder
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        try:
            with backend.writer.connect() as connection, connection.begin():
                bring_up_to_date(connection, backend, self._installation)
                self._installation.adopt(connection, backend)
                self._installation.require_files(connection, backend.shown)
                backend.look_at_clock(connection)
        except SQLAlchemyError as error:
            raise cannot_open(backend, error) from None
        except StorageError:
            backend.writer.dispose()
            raise
        backend.settle()
        backend.reserve()
        self._installation.remember()
        self._closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._write_all, name="deepwell-storage", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, settings: StorageSettings, *, init: bool = False) -> Database:
        """Opens the database that the settings name: `database_url`, else a file in `data_dir`.

        With `init`, a database that was lost is given up: what there is now is accepted, or made anew.

        Raises:
            StorageError: it cannot be opened.
            StoreLost: it is gone, empty, another one, or an earlier state of itself, and `init` is not set.
        """
        markers = Markers.of(settings)
        floor = markers.forget() if init else 0
        markers.require_file()
        installation = Installation(markers, floor=floor)
        if settings.database_url is not None:
            return cls.connect(settings.database_url.get_secret_value(), installation)
        return cls.open(settings.data_dir / "deepwell.db", installation)

    @classmethod
    def connect(cls, url: str, installation: Installation | None = None) -> Database:
        """Opens a PostgreSQL database by its URL."""
        from deepwell.storage.postgres import PostgreSQL

        return cls(PostgreSQL(url), installation=installation)

    @classmethod
    def open(cls, path: Path, installation: Installation | None = None) -> Database:
        """Opens the SQLite database in a file. A missing file is created, readable by its owner only."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise StorageError.of("data_unwritable", path=path, reason=error.strerror) from None
        return cls(SQLite(f"sqlite:///{path}"), installation=installation)

    @property
    def file(self) -> Path | None:
        """The file of the database, or None if it is on PostgreSQL."""
        return self._backend.file

    @classmethod
    def temporary(cls) -> Database:
        """Opens a database that is deleted with the object, for tests and for servers that keep nothing."""
        folder = tempfile.TemporaryDirectory(prefix="deepwell-", ignore_cleanup_errors=True)
        return cls(SQLite(f"sqlite:///{folder.name}/deepwell.db", synchronous="OFF"), folder=folder)

    @property
    def id(self) -> str:
        """Random id of the database, which nothing but its own rows and markers tells."""
        return self._installation.id

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a thread, so that the event loop does not wait for the disk, and returns its result."""
        return await asyncio.to_thread(self._read, work)

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """Does the same as `read` for a caller without an event loop."""
        return self._read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in the writer's thread. An exception undoes the changes of `work` and reaches the caller.

        A caller that is cancelled does not learn whether its change was made.
        """
        return await self._written(work, frees=False)

    async def free(self, work: Callable[[Connection], T]) -> T:
        """Does the same as `write` for work that deletes. On a full disk it may use the room that is kept for it."""
        return await self._written(work, frees=True)

    async def _written(self, work: Callable[[Connection], T], *, frees: bool) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._submit(_Write(work, done, loop, frees))
        return await done

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """Does the same as `write` for a caller without an event loop."""
        done: Future[T] = Future()
        self._submit(_Write(work, done, None))
        return done.result()

    async def probe(self) -> None:
        """Reads the identity of the database, and compares it with that of the one that was opened.

        Raises:
            StorageUnavailable: the database does not answer, or is another one.
        """
        await asyncio.to_thread(self._probe)

    async def record(self) -> None:
        """Brings the markers up to date. Called about once a minute.

        Raises:
            StorageUnavailable: the database does not answer, or is another one.
        """
        await asyncio.to_thread(self._record)

    def maintain_now(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on a connection of its own, outside of transactions and without time limits, and returns its result.

        It is for statements that take minutes, such as the building of an index. PostgreSQL alone has them.
        """
        options = {"isolation_level": "AUTOCOMMIT", "postgresql_readonly": False}
        try:
            with self._backend.reader.execution_options(**options).connect() as connection:
                try:
                    for limit in ("statement_timeout", "lock_timeout"):
                        connection.exec_driver_sql(f"SET {limit} = 0")
                    return work(connection)
                finally:
                    connection.invalidate()  # nobody else gets a connection without limits
        except SQLAlchemyError as error:
            raise translated(self._backend, error, "") from error

    def scrub_now(self) -> bool:
        """Overwrites what deleted rows left in the files of the database, and returns whether its engine can.

        It takes seconds for each gigabyte, and writers wait meanwhile.

        Raises:
            StorageUnavailable: another process holds the database for too long.
        """
        try:
            return self._backend.scrub()
        except sqlite3.OperationalError as error:
            raise StorageUnavailable(
                f"freed pages of the database were not overwritten: {error}",
                fix="try again when less is written",
            ) from None

    def _probe(self) -> None:
        def look(connection: Connection) -> None:
            self._installation.compare(connection)
            self._backend.look_at_clock(connection)

        self._read(look, asks=True)

    def _record(self) -> None:
        self._backend.reserve()
        if not self._installation.is_remembered:
            return
        self._probe()
        if self._unrecorded and not self._backend.rises_with_commits:
            self._installation.committed(self.write_now(self._installation.rise))
        self._unrecorded = 0
        self._installation.remember()

    def close(self) -> None:
        """Commits the pending writes and closes the database."""
        if not self._closed and self._unrecorded:
            with suppress(StorageError):  # it is away: the next start has less to compare with
                self._record()
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._writes.put(None)
        self._thread.join()
        self._backend.reader.dispose()
        self._backend.writer.dispose()
        if self._folder is not None:
            self._folder.cleanup()

    def _read(self, work: Callable[[Connection], T], *, asks: bool = False) -> T:
        """Reads. With `asks`, the read itself finds out whether the database is the right one."""
        try:
            self._backend.check()
            if not asks:
                self._installation.check()
            try:
                return self._read_once(work)
            except SQLAlchemyError as error:
                if not is_disconnect(error):
                    raise
            return self._read_once(work)  # the pool's connections belonged to a server that is gone
        except (SQLAlchemyError, StoreReplaced) as error:
            raise translated(self._backend, error, "") from error

    def _read_once(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._backend.reader.connect() as connection, self._backend.bounded(connection):
                return work(connection)
        except Exception as error:
            release_cursors(error)
            raise

    def _submit(self, write: _Write) -> None:
        with self._closing:  # a write queued after the order to close would never run
            if self._closed:
                raise StorageError(
                    "the database is closed", fix="send the request again when the server is back"
                )
            self._writes.put(write)

    def _write_all(self) -> None:
        while (first := self._writes.get()) is not None:
            group = _wanted([first])
            outcomes = self._outcomes(group, self._waiting)
            self._free_first(group, outcomes)
            _tell(group, outcomes)

    def _outcomes(self, group: list[_Write], arriving: Callable[[int | None], Sequence[_Write]]) -> list[Any]:
        """Commits a group, which writes that arrive meanwhile join, and returns a result or `_Failed` for each write."""
        try:
            outcomes = _commit(self._backend, self._installation, group, arriving)
            self._unrecorded += 1
        except _Broken as broken:
            if broken.stage == "begin":
                # Writes that arrived in the meantime have waited too. Failing one group at a time would never
                # empty the queue.
                group += arriving(None)
            outcomes = [_Failed(broken.told(self._backend))] * len(group)
        return outcomes

    def _free_first(self, group: Sequence[_Write], outcomes: list[Any]) -> None:
        """Repeats the writes that free space, if the disk had no room for them, in the room that is kept for them."""
        refused = [
            number
            for number, (write, outcome) in enumerate(zip(group, outcomes, strict=True))
            if write.frees and isinstance(outcome, _Failed) and isinstance(outcome.error, StorageFull)
        ]
        if not refused:
            return
        with self._backend.reserve_used() as is_there:
            if is_there:
                again = self._outcomes([group[number] for number in refused], lambda _most: ())
                for number, outcome in zip(refused, again, strict=True):
                    outcomes[number] = outcome

    def _waiting(self, most: int | None) -> list[_Write]:
        """Takes the writes from the queue, up to the order to close, and returns those whose callers still wait."""
        found: list[_Write] = []
        while (most is None or len(found) < most) and not self._writes.empty():
            following = self._writes.get()
            if following is None:
                self._writes.put(None)
                break
            found.append(following)
        return _wanted(found)


class _Broken(Exception):
    """Raised when a transaction fails as a whole, at its begin, in its work, or at its commit."""

    def __init__(self, error: Exception, stage: Literal["begin", "work", "commit"]) -> None:
        super().__init__(str(error))
        self.error = error
        self.stage = stage
        self.disconnected = isinstance(error, SQLAlchemyError) and is_disconnect(error)

    def told(self, backend: Backend) -> Exception:
        """Returns the error that each caller gets."""
        in_doubt = self.stage == "commit" and (self.disconnected or isinstance(self.error, StoreReplaced))
        return translated(backend, self.error, _IN_DOUBT if in_doubt else NOTHING_KEPT)


class _Lost(Exception):
    """Raised when the database aborts the transaction while one of its writes runs."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _commit(
    backend: Backend,
    installation: Installation,
    group: list[_Write],
    arriving: Callable[[int], Sequence[_Write]],
) -> list[Any]:
    """Runs all the work in one transaction and returns a result or `_Failed` for each write.

    Writes that arrive in the meantime (`arriving`, given a limit) join the group. Clients that get their results together
    send their next writes together. A transaction that started with the first of these would leave the others to another
    commit.

    Most groups succeed as a whole. If a write fails, the group is rolled back and run again with a savepoint around each
    write. Savepoints are not used at first because they cost more than most writes.

    Raises:
        _Broken: nothing was kept, or the outcome is unknown.
    """
    try:
        return _transact(backend, installation, group, _plain, arriving)
    except _Broken as broken:
        again = broken.disconnected or backend.is_race(broken.error)
        if broken.stage == "commit" or (broken.stage == "begin" and not again):
            raise
        if len(group) == 1 and not again:
            return [_Failed(broken.told(backend))]
    outcomes = _transact(backend, installation, group, _guarded)
    for number, outcome in enumerate(outcomes):
        tries = 0
        while isinstance(outcome, _Failed) and backend.is_race(outcome.error) and tries < _RACES:
            tries += 1
            try:
                [outcome] = _transact(backend, installation, [group[number]], _guarded)
            except _Broken as broken:
                outcome = _Failed(broken.told(backend))
        if isinstance(outcome, _Failed):
            outcome = _Failed(translated(backend, outcome.error, NOTHING_KEPT))
        outcomes[number] = outcome
    return outcomes


def _transact(
    backend: Backend,
    installation: Installation,
    group: list[_Write],
    run: Callable[[Backend, Connection, _Write], Any],
    arriving: Callable[[int], Sequence[_Write]] = lambda _most: (),
) -> list[Any]:
    stage = "begin"
    outcomes: list[Any] = []
    try:
        backend.check()
        installation.check()
        with backend.writer.connect() as connection, backend.bounded(connection):
            with connection.begin():
                stage = "work"
                for write in group:
                    outcomes.append(run(backend, connection, write))
                    if len(outcomes) == len(group):
                        group += arriving(_LARGEST_GROUP - len(group))
                changed = installation.is_remembered and backend.has_changed(connection)
                generation = installation.rise(connection) if changed else None
                stage = "commit"
            # If the file went away just now, the commit may have gone with it.
            backend.check()
            if generation is not None:
                installation.committed(generation)
            return outcomes
    except Exception as error:
        release_cursors(error)
        raise _Broken(error.error if isinstance(error, _Lost) else error, stage) from None


def _plain(_backend: Backend, connection: Connection, write: _Write) -> Any:
    return write.work(connection)


def _guarded(backend: Backend, connection: Connection, write: _Write) -> Any:
    """Returns the result of the work, or `_Failed` after undoing its changes."""
    savepoint = connection.begin_nested()
    try:
        result = write.work(connection)
        savepoint.commit()
    except Exception as error:  # reaches only the caller of this write
        release_cursors(error)
        if backend.is_lost(connection):
            raise _Lost(error) from None
        savepoint.rollback()
        return _Failed(error)
    return result


def _wanted(writes: Sequence[_Write]) -> list[_Write]:
    """Returns the writes whose callers still wait."""
    return [write for write in writes if not write.done.cancelled()]


def _tell(group: Sequence[_Write], outcomes: Sequence[Any]) -> None:
    """Hands the outcomes to the callers, with one call per event loop. One call per write would wake the loop each time."""
    loops: dict[asyncio.AbstractEventLoop | None, list[tuple[Any, Any]]] = {}
    for write, outcome in zip(group, outcomes, strict=True):
        loops.setdefault(write.loop, []).append((write.done, outcome))
    for loop, told in loops.items():
        if loop is None:
            _resolve(told)
        else:
            with suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(_resolve, told)


def _resolve(told: Sequence[tuple[Future[Any] | asyncio.Future[Any], Any]]) -> None:
    for done, outcome in told:
        if done.cancelled():
            continue
        if isinstance(outcome, _Failed):
            done.set_exception(outcome.error)
        else:
            done.set_result(outcome)
