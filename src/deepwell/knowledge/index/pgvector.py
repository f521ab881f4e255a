"""`PgVectorIndex`: the vectors of one store in PostgreSQL's pgvector, compared one by one or found by its HNSW index.

Vectors of all stores lie in one table, which is made where it is needed: the extension is not everywhere. An index belongs to
one length of vectors, so each length has its own, over an expression. A query that does not repeat the expression is exact.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from deepwell.errors import StorageError
from deepwell.knowledge.index.nearest import checked_query, checked_vectors, exact_scores, hits
from deepwell.knowledge.index.protocol import Hits
from deepwell.storage.database import Database, Tenant

__all__ = ["PgVectorIndex", "add_vectors", "build_hnsw", "make_table", "remove_vectors", "vector_rows"]

_LOCK: Final = 0x64767663  # this module's advisory lock
_MOST_COMPARED: Final = 10_000  # allowed keys that are all compared
_SPARE: Final = 2
_MAX_EXPANSION: Final = 1000  # of pgvector
_PAUSE_S: Final = 0.5

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS chunk_vectors (
    tenant text NOT NULL,
    store_id text NOT NULL,
    key bigint NOT NULL,
    vector vector NOT NULL,
    PRIMARY KEY (tenant, store_id, key)
)
"""
_MINE: Final = "tenant = :tenant AND store_id = :store"


class PgVectorIndex:
    """A `VectorIndex` in PostgreSQL, for callers without an event loop.

    Exact search gives bitwise the hits of `FlatIndex`.

    Args:
        database: a PostgreSQL database.
        tenant: owner of the store.
        store_id: the store.
        dimensions: length of a vector.
        expansion: candidates that the HNSW index looks at for a query (`hnsw.ef_search`), up to 1000. None: exact search.
        prepared: whether the caller has seen to `make_table`.

    Raises:
        StorageError: the extension is not installed, or may not be created.
    """

    def __init__(
        self,
        database: Database,
        tenant: Tenant,
        store_id: str,
        dimensions: int,
        *,
        expansion: int | None = None,
        prepared: bool = False,
    ) -> None:
        if expansion is not None and not 1 <= expansion <= _MAX_EXPANSION:
            raise ValueError(f"expansion has to be from 1 to {_MAX_EXPANSION}, is {expansion}")
        self._database = database
        self._tenant, self._store_id = tenant, store_id
        self._mine: dict[str, Any] = {"tenant": tenant, "store": store_id}
        self._dimensions = dimensions
        self._expansion = expansion
        if not prepared:
            database.write_now(make_table)

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def __len__(self) -> int:
        query = sa.text(f"SELECT count(*) FROM chunk_vectors WHERE {_MINE}")  # noqa: S608
        return self._database.read_now(lambda connection: connection.execute(query, self._mine).scalar_one())

    def add(self, keys: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        keys, vectors = checked_vectors(keys, vectors, self._dimensions)
        if not len(keys):
            return
        rows = vector_rows(self._tenant, self._store_id, keys, vectors)
        self._database.write_now(lambda connection: add_vectors(connection, rows))

    def remove(self, keys: NDArray[np.int64]) -> None:
        if len(keys):
            self._database.write_now(
                lambda connection: remove_vectors(connection, self._tenant, self._store_id, keys)
            )

    def search(
        self, query: NDArray[np.float32], limit: int, *, allowed: NDArray[np.int64] | None = None
    ) -> Hits:
        query = checked_query(query, self._dimensions, limit)
        values = {**self._mine, "query": _literal(query), "limit": limit}
        condition = _MINE
        if allowed is not None:
            condition += " AND key = ANY(CAST(:allowed AS bigint[]))"
            values["allowed"] = np.asarray(allowed).tolist()
        exact = self._expansion is None or (allowed is not None and len(allowed) <= _MOST_COMPARED)

        def work(connection: Connection) -> Sequence[Any]:
            if exact:
                return _compared(connection, condition, values, self._dimensions)
            return _searched(connection, condition, values, self._dimensions, self._expansion or 1)

        keys, vectors = self._unpacked(self._database.read_now(work))
        return hits(keys, exact_scores(vectors, query), limit)

    def fetch(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        query = sa.text(
            f"""
            SELECT chunk_vectors.key, vector_send(vector)
            FROM unnest(CAST(:keys AS bigint[])) WITH ORDINALITY AS wanted (key, number)
            JOIN chunk_vectors ON chunk_vectors.key = wanted.key AND {_MINE} ORDER BY number
            """  # noqa: S608
        )
        values = {**self._mine, "keys": np.asarray(keys).astype(np.int64).tolist()}
        return self._unpacked(
            self._database.read_now(lambda connection: connection.execute(query, values).all())
        )

    def _unpacked(self, rows: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Returns keys and vectors. The wire form of a vector is two 16-bit numbers, then its numbers as big-endian float32."""
        packed = b"".join(bytes(row[1])[4:] for row in rows)
        vectors = np.frombuffer(packed, ">f4").astype(np.float32).reshape(-1, self._dimensions)
        return np.array([row[0] for row in rows], np.int64), vectors


def vector_rows(
    tenant: Tenant, store_id: str, keys: NDArray[np.int64], vectors: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Returns `vectors` [n, dimensions] under `keys` [n] as rows for `add_vectors`."""
    return [
        {"tenant": tenant, "store": store_id, "key": key, "vector": _literal(vector)}
        for key, vector in zip(keys.tolist(), vectors, strict=True)
    ]


def add_vectors(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Adds or replaces vectors inside the caller's transaction."""
    query = sa.text(
        "INSERT INTO chunk_vectors (tenant, store_id, key, vector)"
        " VALUES (:tenant, :store, :key, CAST(:vector AS vector))"
        " ON CONFLICT (tenant, store_id, key) DO UPDATE SET vector = excluded.vector"
    )
    connection.execute(query, rows)


def remove_vectors(connection: Connection, tenant: Tenant, store_id: str, keys: NDArray[np.int64]) -> None:
    """Removes vectors inside the caller's transaction. Keys that are not there are ignored."""
    query = sa.text(
        f"DELETE FROM chunk_vectors WHERE {_MINE} AND key = ANY(CAST(:keys AS bigint[]))"  # noqa: S608
    )
    values = {"tenant": tenant, "store": store_id, "keys": np.asarray(keys).astype(np.int64).tolist()}
    connection.execute(query, values)


def build_hnsw(database: Database, dimensions: int, *, connectivity: int = 16, expansion: int = 64) -> None:
    """Makes the HNSW index over all vectors of one length, if there is none. Searches and writes go on meanwhile.

    Args:
        connectivity, expansion: pgvector's `m` and `ef_construction`.
    """
    name = f"ix_chunk_vectors_hnsw_{int(dimensions)}"
    valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    index = sa.text(
        f"CREATE INDEX CONCURRENTLY {name} ON chunk_vectors"
        f" USING hnsw ((CAST(vector AS vector({int(dimensions)}))) vector_ip_ops)"
        f" WITH (m = {int(connectivity)}, ef_construction = {int(expansion)})"
        f" WHERE vector_dims(vector) = {int(dimensions)}"
    )

    lock = {"lock": _LOCK + 1}

    def work(connection: Connection) -> None:
        # A statement that waits for the lock would hold a snapshot, for whose end the holder of the lock waits.
        while not connection.execute(sa.text("SELECT pg_try_advisory_lock(:lock)"), lock).scalar_one():
            time.sleep(_PAUSE_S)
        found = connection.execute(valid, {"name": name}).scalar_one_or_none()
        if found:
            return
        if found is not None:  # its building was broken off
            connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {name}"))
        connection.execute(index)

    database.write_now(make_table)
    database.maintain_now(work)


def make_table(connection: Connection) -> None:
    """Makes the extension and the table, if they are not there.

    Raises:
        StorageError: the database is not PostgreSQL, or its server lacks the extension.
    """
    if connection.dialect.name != "postgresql":
        raise StorageError(
            "pgvector needs PostgreSQL",
            fix="set DEEPWELL_DATABASE_URL, or DEEPWELL_KNOWLEDGE_VECTORS=files",
        )
    if connection.execute(sa.text("SELECT to_regclass('chunk_vectors')")).scalar_one() is not None:
        return
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    available = "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
    if connection.execute(sa.text(available)).scalar_one_or_none() is None:
        raise StorageError(
            "PostgreSQL has no extension `vector`",
            fix="install pgvector beside the server (Debian: apt-get install postgresql-17-pgvector)",
        )
    connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS vector"))
    connection.execute(sa.text(_TABLE))


def _compared(
    connection: Connection, condition: str, values: dict[str, Any], dimensions: int
) -> Sequence[Any]:
    """Returns keys and vectors of all that rounding could bring among the best; see `nearest`."""
    query = f"""
        WITH compared AS MATERIALIZED (
            SELECT key, vector <#> CAST(:query AS vector) AS distance FROM chunk_vectors WHERE {condition}
        ), last AS (
            SELECT distance FROM compared ORDER BY distance LIMIT 1 OFFSET :limit - 1
        )
        SELECT key, vector_send(vector) FROM chunk_vectors JOIN compared USING (key)
        WHERE {_MINE} AND distance <= coalesce((SELECT distance FROM last), 'infinity') + :error
        """  # noqa: S608
    error = 5 * dimensions * 2.0**-24
    return connection.execute(sa.text(query), {**values, "error": error}).all()


def _searched(
    connection: Connection, condition: str, values: dict[str, Any], dimensions: int, expansion: int
) -> Sequence[Any]:
    """Returns keys and vectors of the best that the HNSW index leads to."""
    for setting in (
        f"hnsw.ef_search = {int(expansion)}",
        "hnsw.iterative_scan = strict_order",  # goes on until enough fit the condition
        "enable_sort = off",  # what is sorted is compared: the planner guesses that it is cheaper
    ):
        connection.execute(sa.text(f"SET LOCAL {setting}"))
    vector = f"vector({int(dimensions)})"
    query = f"""
        SELECT key, vector_send(vector) FROM chunk_vectors
        WHERE {condition} AND vector_dims(vector) = {int(dimensions)}
        ORDER BY CAST(vector AS {vector}) <#> CAST(:query AS {vector}) LIMIT :count
        """  # noqa: S608
    return connection.execute(
        sa.text(query), {**values, "count": max(_SPARE * values["limit"], expansion)}
    ).all()


def _literal(vector: NDArray[np.float32]) -> str:
    return f"[{','.join(map(repr, vector.tolist()))}]"
