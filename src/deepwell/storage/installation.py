"""The identity of a database, compared with what its markers remember: at a start, and while a server runs.

The table `installation` has one row: a random id, and a generation that rises as the database changes. A database is lost
if it has another id than its markers, a lower generation (an older copy was restored), or no keys where it had some.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.backend import Backend, StoreReplaced
from deepwell.storage.marker import Markers, Memory, StoreLost
from deepwell.storage.tables import api_keys, files, installation

__all__ = ["Installation"]

_log = logging.getLogger("deepwell.storage")

_ROW = sa.select(installation.c.id, installation.c.generation)
_RISE = "UPDATE installation SET generation = generation + 1 RETURNING generation"  # built once: it is in every commit
_KEYS = sa.select(api_keys.c.id).limit(1)
_FIX = "restore the newest backup, or accept the database as it is: start once with --init"


class Installation:
    """The knowledge of the open database. Without markers it is only given an id.

    The methods that take a connection run inside of a transaction. Those that write a marker follow its commit.
    """

    def __init__(self, markers: Markers | None = None, *, floor: int = 0) -> None:
        """Prepares for a database. Its generation becomes higher than `floor`, if it is given an id here."""
        self._markers = markers
        self._floor = floor
        self._known = Memory("")
        self._lost = False

    @property
    def id(self) -> str:
        """Random id of the database."""
        return self._known.id

    @property
    def is_remembered(self) -> bool:
        """True if there are markers at all."""
        return self._markers is not None

    def require_tables(self, shown: str) -> None:
        """Refuses a database without tables that had some.

        Raises:
            StoreLost: a marker remembers it.
        """
        if self._markers is not None and self._markers.read():
            raise StoreLost(f"the database {shown} is empty, and was not before", fix=_FIX)

    def adopt(self, connection: Connection, backend: Backend) -> None:
        """Compares the database with its markers, and raises its generation: this start belongs to its history.

        A database without an id is given one, by one process alone: those that start together wait for the first.

        Raises:
            StoreLost: it is not the database that was here before.
        """
        shown = backend.shown
        row = connection.execute(_ROW).one_or_none()
        if row is None:
            backend.lock_migrations(connection)
            row = connection.execute(_ROW).one_or_none()
        keys = connection.execute(_KEYS).first() is not None
        if self._markers is not None:
            for memory in self._markers.read():
                _compare(
                    memory,
                    None if row is None else Memory(row.id, keys, generation=row.generation),
                    shown,
                    keys=keys,
                )
        if row is None:
            self._known = Memory(uuid.uuid4().hex, keys, generation=self._floor + 1)
            connection.execute(
                sa.insert(installation).values(id=self._known.id, generation=self._known.generation)
            )
        elif self._markers is None:
            self._known = Memory(row.id, keys, generation=row.generation)
        else:
            self._known = Memory(row.id, keys, generation=max(row.generation, self._floor) + 1)
            connection.execute(sa.update(installation).values(generation=self._known.generation))

    def require_files(self, connection: Connection, shown: str) -> None:
        """Checks that the folder of files is there if files are in it.

        Raises:
            StoreLost: there were some, and none is left.
        """
        if self._markers is None or not self._markers.has_folder or self._markers.has_files():
            return
        memory = self._markers.inside.read()
        if memory is None or not memory.files:
            return
        if connection.execute(sa.select(files.c.seq).limit(1)).first() is not None:
            raise StoreLost(
                f"the files that the database {shown} names are gone from data_dir",
                fix="restore the folder `files` from a backup, or give them up: start once with --init",
            )

    def remember(self) -> None:
        """Writes all that is known into the markers."""
        if self._markers is not None:
            self._known = replace(self._known, files=self._known.files or self._markers.has_files())
            self._markers.remember(self._known)

    def rise(self, connection: Connection) -> int:
        """Raises the generation with the transaction's other changes, and returns it.

        Raises:
            StoreReplaced: the row is gone, or is that of an earlier state.
        """
        risen = connection.exec_driver_sql(_RISE).scalar_one_or_none() or 0
        self._require(risen > self._known.generation)
        return risen

    def committed(self, generation: int) -> None:
        """Writes the generation of a committed transaction into the markers."""
        self._known = replace(self._known, generation=generation)
        if self._markers is not None:
            self._markers.advance(generation)

    def compare(self, connection: Connection) -> None:
        """Compares the database with what is known of it, while it is open.

        Raises:
            StoreReplaced: it is another one, or an earlier state of it.
        """
        known = self._known
        row = connection.execute(_ROW).one_or_none()
        keys = connection.execute(_KEYS).first() is not None
        self._require(
            row is not None
            and row.id == known.id
            and row.generation >= known.generation
            and (keys or not known.keys)
        )
        self._known = replace(self._known, keys=keys)

    def check(self) -> None:
        """Raises `StoreReplaced` if the last comparison failed."""
        self._require(not self._lost)

    def _require(self, fine: bool) -> None:
        if fine:
            if self._lost:
                _log.warning("the database is back")
            self._lost = False
            return
        if not self._lost:
            _log.error("the database was emptied or replaced while it was open: nothing is read or written")
        self._lost = True
        raise StoreReplaced(
            "the database was emptied or replaced while the server runs",
            fix="stop the server, restore the newest backup, and start it again",
        )


def _compare(memory: Memory, found: Memory | None, shown: str, *, keys: bool) -> None:
    if found is None:
        if memory.id:
            raise StoreLost(f"the database {shown} was emptied, or is an older copy of itself", fix=_FIX)
    elif memory.id and found.id != memory.id:
        raise StoreLost(f"the database {shown} is not the one that was here before", fix=_FIX)
    elif found.generation < memory.generation:
        raise StoreLost(f"the database {shown} is an older copy of itself", fix=_FIX)
    if memory.keys and not keys:
        raise StoreLost(f"the database {shown} had API keys, and they are gone", fix=_FIX)
