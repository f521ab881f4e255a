"""Data at rest of knowledge: vector stores, their files and sources, documents, chunks and vectors."""

from __future__ import annotations

from deepwell.storage.database import Database
from deepwell.storage.knowledge.chunks import Chunks
from deepwell.storage.knowledge.files import StoreFiles
from deepwell.storage.knowledge.sources import StoreSources
from deepwell.storage.knowledge.stores import VectorStores

__all__ = ["KnowledgeStorage"]


class KnowledgeStorage:
    """The stores of knowledge over one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.stores = VectorStores(database)
        self.chunks = Chunks(database)
        self.files = StoreFiles(database, self.chunks)
        self.sources = StoreSources(database)

    async def sweep(self) -> None:
        """Deletes what has expired, lost its file, or is needed by nobody, of all tenants."""
        await self.files.orphans()
        await self.stores.sweep()
        await self.chunks.sweep()
