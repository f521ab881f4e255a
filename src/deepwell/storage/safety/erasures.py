"""`ErasureStore`: the proofs of erasures, which tell servers to empty their caches."""

from __future__ import annotations

import sqlalchemy as sa

from deepwell.storage.database import Database
from deepwell.storage.tables import erasures

__all__ = ["ErasureStore"]


class ErasureStore:
    """Erasures of all tenants. They name nobody, so that calls take no tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self) -> int:
        """Returns a number that rises with every erasure; 0: there was none."""
        query = sa.select(sa.func.max(erasures.c.seq))
        return await self._database.read(lambda connection: connection.execute(query).scalar()) or 0
