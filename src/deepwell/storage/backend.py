"""What `Database` asks of the database below it, and the errors it makes of that one's."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from deepwell.errors import StorageError, StorageUnavailable

__all__ = ["NOTHING_KEPT", "Backend", "cannot_open", "is_disconnect", "translated"]

_log = logging.getLogger("deepwell.storage")

NOTHING_KEPT = "nothing of this change was kept"


class Backend(Protocol):
    """SQLite or PostgreSQL."""

    @property
    def setting(self) -> str:
        """The variable that names it."""
        ...

    @property
    def shown(self) -> str:
        """The URL for people to read, without its password."""
        ...

    @property
    def reader(self) -> Engine:
        """Its transactions see one commit and change nothing."""
        ...

    @property
    def writer(self) -> Engine:
        """Its transactions change rows, one at a time."""
        ...

    def lock_migrations(self, connection: Connection) -> None:
        """Wait until no other process changes tables, until the end of the transaction."""
        ...

    def bounded(self, connection: Connection) -> AbstractContextManager[None]:
        """Inside, a database that does not answer in time fails instead of waiting for ever."""
        ...

    def is_lost(self, connection: Connection) -> bool:
        """Whether the transaction is gone, whatever its savepoints said."""
        ...

    def is_race(self, error: Exception) -> bool:
        """Whether another writer was in the way, so that the same work done again may well succeed."""
        ...

    def explain(self, error: DBAPIError) -> tuple[str, str] | None:
        """What happened and its fix, where that lies with the database and not with the query."""
        ...


def translated(backend: Backend, error: Exception, outcome: str) -> Exception:
    """`StorageUnavailable` for an error that is the database's own, any other as it is. `outcome`: what became of the request.

    The driver's own words go to the log alone: they may name hosts and paths, and are the operator's to read.
    """
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
    return StorageUnavailable(f"{message}: {outcome}" if outcome else message, fix=fix)


def cannot_open(backend: Backend, error: SQLAlchemyError) -> StorageError:
    """What stops a start, in the driver's own words: the operator reads them."""
    told = backend.explain(error) if isinstance(error, DBAPIError) else None
    fix = told[1] if told else f"check {backend.setting}, and that this is a Deepwell database"
    return StorageError(f"the database {backend.shown} cannot be opened: {_words(error)}", fix=fix)


def _words(error: Exception) -> str:
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(original).split())


def is_disconnect(error: SQLAlchemyError) -> bool:
    """Whether the connection broke, so that a new one may do."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
