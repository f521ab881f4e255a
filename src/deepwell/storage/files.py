"""Stored files: one row each, with the bytes in a blob that equal files share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound
from deepwell.storage.blobs import Blobs, Draft
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.knowledge.attached import detach_everywhere
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import batches, eval_runs, files, fine_tuning_jobs, upload_parts

__all__ = ["FileStore", "StoredFile"]

# A younger blob may belong to a row that is being written, a younger draft to a slow client
_GRACE_S = 3600.0
_ROWS = 200  # deleted in one write
_NAMING = (
    files.c.sha256,
    upload_parts.c.sha256,
    batches.c.input_sha256,
    fine_tuning_jobs.c.training_sha256,
    fine_tuning_jobs.c.validation_sha256,
    eval_runs.c.source_sha256,
)  # columns that keep a blob


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file. Times are Unix seconds; `sha256` names its blob."""

    id: str
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    bytes: int
    sha256: str


_COLUMNS = [files.c[name] for name in StoredFile.__dataclass_fields__]


class FileStore:
    """Files by tenant and id, in order of arrival. An expired file is treated as deleted."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self.blobs = Blobs(folder)

    def draft(self) -> Draft:
        """Returns a draft to write the bytes of a new file to."""
        return self.blobs.draft()

    async def create(
        self,
        tenant: Tenant,
        *,
        filename: str,
        purpose: str,
        content: AsyncIterable[bytes] | Path | Draft,
        expires_at: int | None = None,
    ) -> StoredFile:
        """Stores a file. A draft is consumed; a path is copied.

        Raises:
            StorageError: the disk cannot be written; nothing was kept.
        """
        draft = content if isinstance(content, Draft) else await asyncio.to_thread(self.draft)
        try:
            if isinstance(content, Path):
                await asyncio.to_thread(draft.copy, content)
            elif not isinstance(content, Draft):
                async for data in content:
                    await asyncio.to_thread(draft.write, data)
            await asyncio.to_thread(draft.close)
            return await self._database.write(
                lambda connection: self.insert(
                    connection,
                    tenant,
                    draft,
                    filename=filename,
                    purpose=purpose,
                    expires_at=expires_at,
                )
            )
        finally:
            draft.discard()

    def insert(
        self,
        connection: Connection,
        tenant: Tenant,
        draft: Draft,
        *,
        filename: str,
        purpose: str,
        expires_at: int | None = None,
    ) -> StoredFile:
        """Turns a closed draft into a file inside the caller's transaction, which commits both with its other changes."""
        stored = StoredFile(
            id=f"file-{uuid.uuid4().hex}",
            created_at=int(shared_time()),
            expires_at=expires_at,
            filename=filename,
            purpose=purpose,
            bytes=draft.bytes,
            sha256=self.place(connection, draft),
        )
        values = {name: getattr(stored, name) for name in StoredFile.__dataclass_fields__}
        connection.execute(sa.insert(files).values(tenant=tenant, **values))
        return stored

    def place(self, connection: Connection, draft: Draft) -> str:
        """Turns a closed draft into a blob and returns its hash. The caller's transaction writes the row that names it."""
        _lock(connection, draft.sha256)
        return self.blobs.place(draft)

    async def get(self, tenant: Tenant, id: str) -> StoredFile:
        """Returns the file.

        Raises:
            NotFound: the tenant has none of this id.
        """
        return await self._database.read(lambda connection: self.find(connection, tenant, id))

    def find(self, connection: Connection, tenant: Tenant, id: str) -> StoredFile:
        """Does the same as `get` inside the caller's transaction."""
        row = connection.execute(
            sa.select(*_COLUMNS).where(files.c.tenant == tenant, files.c.id == id, _alive())
        ).one_or_none()
        if row is None:
            raise _missing(id)
        return StoredFile(**row._mapping)

    async def list(
        self,
        tenant: Tenant,
        *,
        after: str | None = None,
        limit: int,
        order: Order,
        purpose: str | None = None,
    ) -> Page[StoredFile]:
        """Returns one page of the files with a purpose, or of all files."""
        query = sa.select(*_COLUMNS).where(files.c.tenant == tenant, _alive())
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)

        def work(connection: Connection) -> Page[StoredFile]:
            page = page_of(connection, query, files.c.seq, files.c.id, after=after, limit=limit, order=order)
            return Page([StoredFile(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes the file from here and from every vector store, and its bytes if no other file shares them.

        Raises:
            NotFound: the tenant has none of this id.
        """

        def work(connection: Connection) -> str:
            found = self.find(connection, tenant, id)
            detach_everywhere(connection, tenant, id)
            connection.execute(sa.delete(files).where(files.c.tenant == tenant, files.c.id == id))
            return found.sha256

        await self.release([await self._database.write(work)])

    async def path(self, tenant: Tenant, id: str) -> Path:
        """Returns the path of the bytes, which may be read but not changed.

        Raises:
            NotFound: the tenant has no file of this id.
        """
        return self.blobs.path((await self.get(tenant, id)).sha256)

    async def release(self, hashes: Iterable[str]) -> int:
        """Deletes those blobs that no row names and returns their number. The deletion of the rows must be committed."""
        unused = await self._database.read(lambda connection: _unnamed(connection, sorted(set(hashes))))
        removed = 0
        for sha256 in unused:
            removed += await self._database.write(
                lambda connection, sha256=sha256: self._remove(connection, sha256)
            )
        return removed

    def _remove(self, connection: Connection, sha256: str) -> bool:
        # The check is repeated under the lock, where no other writer can work on the same blob.
        _lock(connection, sha256)
        if not _unnamed(connection, [sha256]):
            return False
        with suppress(OSError):  # the next sweep retries
            self.blobs.remove(sha256)
        return True

    async def sweep(self) -> int:
        """Deletes expired files, blobs without a row and drafts of killed processes. Returns the number of blobs deleted."""

        def expired(connection: Connection) -> int:
            chosen = sa.select(files.c.seq).where(sa.not_(_alive())).limit(_ROWS)
            return connection.execute(sa.delete(files).where(files.c.seq.in_(chosen))).rowcount

        while await self._database.write(expired):
            pass
        old = await asyncio.to_thread(lambda: list(self.blobs.older_than(_GRACE_S)))
        await asyncio.to_thread(self.blobs.remove_drafts, _GRACE_S)
        return await self.release(old)


def _alive() -> sa.ColumnElement[bool]:
    return sa.or_(files.c.expires_at.is_(None), files.c.expires_at > int(shared_time()))


def _unnamed(connection: Connection, hashes: list[str]) -> list[str]:
    """Returns the hashes that no row names."""
    unnamed: list[str] = []
    for sha256 in hashes:
        named = [sa.select(sa.literal(1)).where(column == sha256).exists() for column in _NAMING]
        if not connection.execute(sa.select(sa.or_(*named))).scalar_one():
            unnamed.append(sha256)
    return unnamed


def _lock(connection: Connection, sha256: str) -> None:
    """Keeps others from placing or removing this blob until the transaction ends. SQLite has only one writer anyway."""
    if connection.dialect.name == "postgresql":
        key = int(sha256[:15], 16)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.cast(key, sa.BigInteger))))


def _missing(id: str) -> NotFound:
    return NotFound(
        f"there is no file {id!r}", fix="it was never uploaded, was deleted, or has expired: list the files"
    )
