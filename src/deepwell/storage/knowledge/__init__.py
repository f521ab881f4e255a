"""Data at rest of knowledge: vector stores, their files and sources, documents, chunks and vectors."""

from __future__ import annotations

from sqlalchemy import Connection

from deepwell.storage.database import Database, Tenant
from deepwell.storage.knowledge.attached import requeue
from deepwell.storage.knowledge.chunks import Chunks
from deepwell.storage.knowledge.files import StoreFiles
from deepwell.storage.knowledge.sources import StoreSources
from deepwell.storage.knowledge.stores import VectorStores, find_store, set_embedder

__all__ = ["KnowledgeStorage"]


class KnowledgeStorage:
    """The stores of knowledge over one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.stores = VectorStores(database)
        self.chunks = Chunks(database)
        self.files = StoreFiles(database, self.chunks)
        self.sources = StoreSources(database)

    async def rebuild(
        self, tenant: Tenant, store_id: str, *, embedder: str, embedder_hash: str, dimensions: int
    ) -> None:
        """Gives a store another embedder, and queues its files again. Nothing is found until they are embedded."""

        def work(connection: Connection) -> None:
            find_store(connection, tenant, store_id, lock=True)
            set_embedder(connection, tenant, store_id, embedder, embedder_hash, dimensions)
            requeue(connection, tenant, store_id)

        await self.database.write(work)

    async def sweep(self, *, at_once: bool = False) -> None:
        """Deletes what has expired, lost its file, or is needed by nobody, of all tenants. `at_once`: see `Chunks.sweep`."""
        await self.files.orphans()
        await self.stores.sweep()
        await self.chunks.sweep(at_once=at_once)
