"""`PolicyStore`: the policies of tenants that are stricter than the server's, every version of each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.database import Database, Tenant
from deepwell.storage.tables import guard_policies as table

__all__ = ["PolicyStore", "StoredPolicy"]


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """One version of a tenant's policy. `text` is YAML; an empty one means that the server's policy alone is in force."""

    version: int
    text: str
    hash: str
    created_at: int
    created_by: str


_COLUMNS = [table.c[name] for name in StoredPolicy.__dataclass_fields__]


class PolicyStore:
    """Policies by tenant. The highest version is in force; earlier ones stay, because audit entries name their hashes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, tenant: Tenant, text: str, created_by: str) -> StoredPolicy:
        """Adds a version, which is in force from now on, and returns it. The text of the current version changes nothing."""
        digest = hashlib.sha256(text.encode()).hexdigest()

        def work(connection: Connection) -> StoredPolicy:
            current = _current(connection, tenant)
            if current is not None and current.hash == digest:
                return current
            version = 1 if current is None else current.version + 1
            stored = StoredPolicy(version, text, digest, int(time.time()), created_by)
            values = {name: getattr(stored, name) for name in StoredPolicy.__dataclass_fields__}
            connection.execute(sa.insert(table).values(tenant=tenant, **values))
            return stored

        return await self._database.write(work)

    async def current(self, tenant: Tenant) -> StoredPolicy | None:
        """Returns the version in force, or None if the tenant never had one of its own."""
        return await self._database.read(lambda connection: _current(connection, tenant))

    async def versions(self, tenant: Tenant) -> Sequence[StoredPolicy]:
        """Returns all versions, the newest first."""
        query = sa.select(*_COLUMNS).where(table.c.tenant == tenant).order_by(table.c.version.desc())
        return await self._database.read(
            lambda connection: [StoredPolicy(**row._mapping) for row in connection.execute(query)]
        )


def _current(connection: Connection, tenant: Tenant) -> StoredPolicy | None:
    query = sa.select(*_COLUMNS).where(table.c.tenant == tenant).order_by(table.c.version.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else StoredPolicy(**row._mapping)
