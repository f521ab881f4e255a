"""`SharedVectors`: the vectors of all stores in the database itself, searched by every server that shares it.

The table `chunk_vector_states` says to which generation the vectors of a store have been brought. A search that finds them
behind applies what is missing, a page and a transaction at a time.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest
from deepwell.knowledge.index.pgvector import (
    PgVectorIndex,
    add_vectors,
    build_hnsw,
    make_table,
    remove_vectors,
    vector_rows,
)
from deepwell.knowledge.index.side import SideIndex, SideOptions
from deepwell.storage.database import Tenant
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.chunks import ChunksDelta
from deepwell.storage.knowledge.stores import StoredStore, find_store

__all__ = ["EXPANSION", "SharedVectors"]

EXPANSION: Final = 200
"""Candidates of a search of the HNSW index."""

_log = logging.getLogger("deepwell")
_LOCK: Final = 0x64767673  # this module's advisory locks
_HNSW_FROM: Final = 100_000  # chunks of a store; fewer are compared one by one
_DROPPED: Final = 10_000  # rows deleted in one transaction
_MOST_KEPT: Final = 256
_DROPPING: Final = -1  # generation of a store whose old vectors are being deleted

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS chunk_vector_states (
    tenant text NOT NULL,
    store_id text NOT NULL,
    embedder_hash text NOT NULL,
    generation bigint NOT NULL,
    PRIMARY KEY (tenant, store_id)
)
"""
_MINE: Final = "tenant = :tenant AND store_id = :store"
_STATE: Final = sa.text(f"SELECT embedder_hash, generation FROM chunk_vector_states WHERE {_MINE}")  # noqa: S608
_REACHED: Final = sa.text(
    "INSERT INTO chunk_vector_states VALUES (:tenant, :store, :hash, :generation)"
    " ON CONFLICT (tenant, store_id) DO UPDATE"
    " SET embedder_hash = excluded.embedder_hash, generation = excluded.generation"
)
_DROP: Final = sa.text(
    f"DELETE FROM chunk_vectors WHERE ctid IN (SELECT ctid FROM chunk_vectors WHERE {_MINE} LIMIT {_DROPPED})"  # noqa: S608
)
_FORGET: Final = sa.text(f"DELETE FROM chunk_vector_states WHERE {_MINE}")  # noqa: S608
_GONE: Final = sa.text(
    "SELECT tenant, store_id FROM chunk_vector_states AS one WHERE NOT EXISTS"
    " (SELECT 1 FROM vector_stores WHERE vector_stores.tenant = one.tenant AND vector_stores.id = one.store_id)"
)


@dataclass(frozen=True, slots=True)
class _State:
    embedder_hash: str = ""
    generation: int = _DROPPING


class SharedVectors:
    """The vector indexes of all stores in one PostgreSQL database. It belongs to one event loop.

    Args:
        kept: the rows of the stores.
        hnsw_from: number of chunks from which on a store is searched by the HNSW index.
    """

    def __init__(self, kept: KnowledgeStorage, *, hnsw_from: int = _HNSW_FROM) -> None:
        self._kept = kept
        self._database = kept.database
        self._hnsw_from = hnsw_from
        self._made = False
        self._reached: OrderedDict[tuple[str, str], _State] = OrderedDict()
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._builds: dict[int, threading.Thread] = {}
        self._built: set[int] = set()

    async def prepare(self) -> None:
        """Makes the extension and the tables, if they are not there.

        Raises:
            StorageError: the database is not PostgreSQL, or lacks the extension.
        """
        if not self._made:
            await self._database.write(_make_tables)
            self._made = True

    async def current(self, tenant: Tenant, store: StoredStore, size: int) -> PgVectorIndex:
        """Returns the index of a store, at least as new as its row.

        Args:
            size: about how many chunks the store has.

        Raises:
            StorageError: the database is not PostgreSQL, or lacks the extension.
            InvalidRequest: the store was given another embedder meanwhile.
        """
        await self.prepare()
        place = (tenant, store.id)
        if self._reached.get(place) != _State(store.embedder_hash, store.generation):
            lock = self._locks.setdefault(place, asyncio.Lock())
            async with lock:
                self._reached[place] = await self._caught_up(tenant, store)
        self._reached.move_to_end(place)
        while len(self._reached) > _MOST_KEPT:
            self._reached.popitem(last=False)
        expansion = EXPANSION if self._has_graph(store.dimensions, size) else None
        return PgVectorIndex(
            self._database, tenant, store.id, store.dimensions, expansion=expansion, prepared=True
        )

    def side(self, folder: Path, store: StoredStore) -> SideIndex:
        """Returns the side index of a store's texts. Its rows, a zero for each chunk, count them: no graph is over them."""
        return SideIndex(folder, 1, store.embedder_hash, options=SideOptions(graph_from=sys.maxsize))

    def counted(self, delta: ChunksDelta) -> ChunksDelta:
        """Returns the changes as such a side index takes them."""
        return replace(delta, vectors=np.zeros((len(delta.keys), 1), np.float32))

    async def sweep(self) -> int:
        """Deletes the vectors of stores that are gone. Returns the number of stores."""
        await self.prepare()
        gone = await self._database.read(lambda connection: connection.execute(_GONE).all())
        for tenant, store_id in gone:
            place = {"tenant": tenant, "store": store_id}
            while await self._delete(_DROP, place) == _DROPPED:
                pass
            await self._delete(_FORGET, place)
        return len(gone)

    async def _delete(self, statement: sa.TextClause, place: dict[str, Any]) -> int:
        return await self._database.write(lambda connection: connection.execute(statement, place).rowcount)

    async def _caught_up(self, tenant: Tenant, store: StoredStore) -> _State:
        """Brings the vectors of a store to its row's generation or a later one, which it returns."""
        anew = False
        state = await self._database.read(lambda connection: _state(connection, tenant, store.id))
        while state.embedder_hash != store.embedder_hash or state.generation < store.generation:
            anew = anew or state.generation == 0
            state = await self._advance(tenant, store, state, anew=anew)
        return state

    async def _advance(self, tenant: Tenant, store: StoredStore, seen: _State, *, anew: bool) -> _State:
        """Takes one step from the state `seen`, unless another server has taken it. Returns the new state."""
        delta, rows = None, []
        if seen.embedder_hash == store.embedder_hash and seen.generation >= 0:
            delta = await self._kept.chunks.delta(tenant, store.id, seen.generation, anew=anew)
            rows = await asyncio.to_thread(vector_rows, tenant, store.id, delta.keys, delta.vectors)
        values: dict[str, Any] = {"tenant": tenant, "store": store.id}

        def work(connection: Connection) -> _State:
            lock = sa.text("SELECT pg_advisory_xact_lock(CAST(:lock AS integer), hashtext(:store))")
            connection.execute(lock, {"lock": _LOCK, "store": store.id})
            if find_store(connection, tenant, store.id).embedder_hash != store.embedder_hash:
                raise InvalidRequest("the store was given another embedder meanwhile", fix="search again")
            if (now := _state(connection, tenant, store.id)) != seen:
                return now
            if seen.generation == _DROPPING and seen.embedder_hash == store.embedder_hash:
                dropped = connection.execute(_DROP, values).rowcount
                reached = _DROPPING if dropped == _DROPPED else 0
            elif delta is None or (delta.rebuild and seen.generation):
                reached = _DROPPING
            else:
                remove_vectors(connection, tenant, store.id, delta.removed)
                if rows:
                    add_vectors(connection, rows)
                reached = delta.generation
            connection.execute(_REACHED, {**values, "hash": store.embedder_hash, "generation": reached})
            return _State(store.embedder_hash, reached)

        return await self._database.write(work)

    def _has_graph(self, dimensions: int, size: int) -> bool:
        """Returns whether the HNSW index serves a store of this size. The first large store has it built, in a thread."""
        if size >= self._hnsw_from and dimensions not in self._builds:
            self._builds[dimensions] = threading.Thread(
                target=self._build, args=(dimensions,), name="deepwell-hnsw", daemon=True
            )
            self._builds[dimensions].start()
        return size >= self._hnsw_from and dimensions in self._built

    def _build(self, dimensions: int) -> None:
        try:
            build_hnsw(self._database, dimensions)
            self._built.add(dimensions)
        except Exception as error:
            _log.warning("the HNSW index was not built, searches stay exact: %s", error)


def _state(connection: Connection, tenant: Tenant, store_id: str) -> _State:
    row = connection.execute(_STATE, {"tenant": tenant, "store": store_id}).one_or_none()
    return _State() if row is None else _State(*row)


def _make_tables(connection: Connection) -> None:
    make_table(connection)
    connection.execute(sa.text(_TABLE))
