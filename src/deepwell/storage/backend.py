"""The interface between `Database` and the database engine below it, and the translation of that engine's errors."""

from __future__ import annotations

import logging
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from deepwell.errors import InvalidRequest, StorageError, StorageUnavailable

__all__ = [
    "NOTHING_KEPT",
    "Backend",
    "StorageFull",
    "StoreReplaced",
    "cannot_open",
    "is_disconnect",
    "release_cursors",
    "translated",
]

_log = logging.getLogger("deepwell.storage")

NOTHING_KEPT = "nothing of this change was kept"


class StoreReplaced(StorageUnavailable):
    """Raised while the database that was opened is not the one that its name leads to any more."""


class StorageFull(StorageUnavailable):
    """Raised when the disk of the database has no room for a change."""


class Backend(Protocol):
    """A database engine: SQLite or PostgreSQL."""

    @property
    def setting(self) -> str:
        """Environment variable that names the database."""
        ...

    @property
    def shown(self) -> str:
        """URL for display, without its password."""
        ...

    @property
    def file(self) -> Path | None:
        """File of the database, or None if it is a server's."""
        ...

    @property
    def reader(self) -> Engine:
        """Engine for reading. A transaction sees one commit and changes nothing."""
        ...

    @property
    def writer(self) -> Engine:
        """Engine for writing. Its transactions run one at a time."""
        ...

    def check(self) -> None:
        """Checks, in some microseconds, that the open database is still the one that its name leads to.

        Raises:
            StoreReplaced: it was removed, or another one was put into its place.
        """
        ...

    def settle(self) -> None:
        """Notes what `check` is to compare with. Called when the database is open."""
        ...

    @property
    def rises_with_commits(self) -> bool:
        """True if the installation's generation rises with every commit that changes a row; else it does once a minute.

        Writers of several servers on PostgreSQL would queue for its row.
        """
        ...

    def has_changed(self, connection: Connection) -> bool:
        """Returns whether the generation has to rise with this transaction of the writer."""
        ...

    def look_at_clock(self, connection: Connection) -> None:
        """Compares the database's clock with that of this machine, if it may be another one; see `storage.clock`."""
        ...

    def scrub(self) -> bool:
        """Overwrites what deleted rows left in the database's files, and returns whether it can. Writers wait meanwhile."""
        ...

    def reserve(self) -> None:
        """Keeps room on the disk, so that a full disk can be freed by deleting; does nothing while the room is there."""
        ...

    def reserve_used(self) -> AbstractContextManager[bool]:
        """Gives up the room that `reserve` keeps inside the block, which gets whether there was any."""
        ...

    def is_full(self, error: DBAPIError) -> bool:
        """Returns whether the change failed because the disk has no room for it."""
        ...

    def lock_migrations(self, connection: Connection) -> None:
        """Waits for other processes that change tables, and keeps them out until the end of the transaction."""
        ...

    def bounded(self, connection: Connection) -> AbstractContextManager[None]:
        """Makes a database that does not answer in time fail inside the block, instead of waiting for ever."""
        ...

    def is_lost(self, connection: Connection) -> bool:
        """Returns whether the whole transaction is gone, including its savepoints."""
        ...

    def is_race(self, error: Exception) -> bool:
        """Returns whether the error is a conflict with another writer, so that a retry is likely to succeed."""
        ...

    def explain(self, error: DBAPIError) -> tuple[str, str] | None:
        """Returns what happened and its fix, or None if the query and not the database is at fault."""
        ...


def translated(backend: Backend, error: Exception, outcome: str) -> Exception:
    """Turns an error of the database itself into `StorageUnavailable`, and returns any other unchanged, but one about a NUL.

    `outcome` says what became of the request. The driver's message goes only to the log, for the operator, because it may
    name hosts and paths.
    """
    if isinstance(error, StoreReplaced):  # logged where it was noticed
        return StoreReplaced(f"{error.message}: {outcome}" if outcome else error.message, fix=error.fix)
    if isinstance(error, DataError) and "NUL" in str(
        error.orig
    ):  # PostgreSQL's driver, before it sends anything
        return InvalidRequest("a text holds the character NUL, which no text here has", fix="leave it out")
    if isinstance(error, PoolTimeout):
        told = "the database is too slow: every connection is in use", "send the request again a little later"
    elif isinstance(error, DBAPIError):
        told = backend.explain(error)
    else:
        told = None
    if told is None:
        return error
    message, fix = told
    _log.warning("%s (%s): %s; %s", message, backend.shown, _words(error), outcome)
    full = isinstance(error, DBAPIError) and backend.is_full(error)
    kind = StorageFull if full else StorageUnavailable
    return kind(f"{message}: {outcome}" if outcome else message, fix=fix)


def cannot_open(backend: Backend, error: SQLAlchemyError) -> StorageError:
    """Returns the error that stops a start. It holds the driver's own message because the operator reads it."""
    told = backend.explain(error) if isinstance(error, DBAPIError) else None
    fix = told[1] if told else f"check {backend.setting}, and that this is a Deepwell database"
    return StorageError(f"the database {backend.shown} cannot be opened: {_words(error)}", fix=fix)


def _words(error: Exception) -> str:
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(original).split())


def is_disconnect(error: SQLAlchemyError) -> bool:
    """Returns whether the connection broke, so that a new one may work."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def release_cursors(error: BaseException | None) -> None:
    """Releases the cursors that the frames of a failed call still hold.

    SQLite's ROLLBACK leaves a SELECT that was not read to its end as it is. As long as its cursor lives, in the frames of the
    exception, its connection reads the commit of back then, and cannot write behind another process.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
