"""`StoreSources`: the places that a vector store's documents come from."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import delete_job, insert_job
from deepwell.storage.knowledge.stores import find_store, raise_generation
from deepwell.storage.tables import vector_store_sources

__all__ = ["FOLLOW_JOB", "StoreSources", "StoredSource"]

FOLLOW_JOB = "follow"
"""Kind of the jobs that follow a source: one process at a time, for as long as the source is there."""


@dataclass(frozen=True, slots=True)
class StoredSource:
    """One source. `spec` is JSON; `error` tells why the last look failed."""

    id: str
    store_id: str
    created_at: int
    spec: str
    checked_at: int | None
    error: str | None


_COLUMNS = [vector_store_sources.c[name] for name in StoredSource.__dataclass_fields__]


class StoreSources:
    """Sources by tenant and store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self,
        tenant: Tenant,
        store_id: str,
        spec: str,
        *,
        followed: bool = False,
    ) -> StoredSource:
        """Adds a source, and with `followed` the job that follows it. A store that has one of this `spec` keeps that one."""

        def work(connection: Connection) -> StoredSource:
            find_store(connection, tenant, store_id)
            columns = vector_store_sources.c
            mine = (columns.tenant == tenant) & (columns.store_id == store_id) & (columns.spec == spec)
            row = connection.execute(sa.select(*_COLUMNS).where(mine)).first()
            if row is not None:
                return StoredSource(*row)
            source = StoredSource(f"src_{uuid.uuid4().hex}", store_id, int(shared_time()), spec, None, None)
            values = {name: getattr(source, name) for name in StoredSource.__dataclass_fields__}
            connection.execute(sa.insert(vector_store_sources).values(tenant=tenant, **values))
            raise_generation(connection, tenant, store_id)
            if followed:
                payload = json.dumps({"store_id": store_id, "source_id": source.id})
                insert_job(connection, tenant, FOLLOW_JOB, payload, id=_follower(source.id))
            return source

        return await self._database.write(work)

    async def list(self, tenant: Tenant, store_id: str) -> list[StoredSource]:
        """Returns the sources of a store, the oldest first."""
        columns = vector_store_sources.c
        query = (
            sa.select(*_COLUMNS)
            .where(columns.tenant == tenant, columns.store_id == store_id)
            .order_by(columns.seq)
        )
        return await self._database.read(
            lambda connection: [StoredSource(*row) for row in connection.execute(query)]
        )

    async def get(self, tenant: Tenant, store_id: str, id: str) -> StoredSource:
        """Returns a source.

        Raises:
            NotFound: the store has no such source.
        """
        found = [one for one in await self.list(tenant, store_id) if one.id == id]
        if not found:
            raise NotFound(f"there is no source {id!r}", fix="list the sources of the knowledge base")
        return found[0]

    async def checked(self, tenant: Tenant, id: str, error: str | None) -> None:
        """Records the end of a look at a source."""
        statement = (
            sa.update(vector_store_sources)
            .where(vector_store_sources.c.tenant == tenant, vector_store_sources.c.id == id)
            .values(checked_at=int(shared_time()), error=error)
        )
        await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def remove(self, tenant: Tenant, store_id: str, id: str) -> None:
        """Removes a source and the job that follows it. Its files stay until they are detached.

        Raises:
            NotFound: the store has no such source.
        """
        columns = vector_store_sources.c
        statement = sa.delete(vector_store_sources).where(
            columns.tenant == tenant, columns.store_id == store_id, columns.id == id
        )

        def work(connection: Connection) -> None:
            if not connection.execute(statement).rowcount:
                raise NotFound(f"there is no source {id!r}", fix="list the sources of the knowledge base")
            raise_generation(connection, tenant, store_id)
            delete_job(connection, tenant, FOLLOW_JOB, _follower(id))

        await self._database.free(work)


def _follower(source_id: str) -> str:
    return f"follow_{source_id}"
