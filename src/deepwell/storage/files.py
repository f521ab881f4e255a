"""Stored files: one row each, with the bytes in a blob that equal files share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound, StorageError, StorageUnavailable
from deepwell.storage.blobs import Draft, FolderBlobs
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.knowledge.attached import detach_everywhere
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import batches, eval_runs, files, fine_tuning_jobs, installation, upload_parts

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

    def __init__(self, database: Database, place: Path | FolderBlobs) -> None:
        """Keeps files in a folder, or in the blobs that are given."""
        self._database = database
        self.blobs = FolderBlobs(place) if isinstance(place, Path) else place
        self._claimed = False

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
        lasts_s: int | None = None,
    ) -> StoredFile:
        """Stores a file. A draft is consumed; a path is copied.

        Raises:
            StorageError: the disk cannot be written, or the object store not reached; nothing was kept.
        """
        draft = content if isinstance(content, Draft) else await asyncio.to_thread(self.draft)
        try:
            if isinstance(content, Path):
                await asyncio.to_thread(draft.copy, content)
            elif not isinstance(content, Draft):
                async for data in content:
                    await asyncio.to_thread(draft.write, data)
            async with self.placing(draft):
                return await self._database.write(
                    lambda connection: self.insert(
                        connection,
                        tenant,
                        draft,
                        filename=filename,
                        purpose=purpose,
                        lasts_s=lasts_s,
                    )
                )
        finally:
            draft.discard()

    @asynccontextmanager
    async def placing(self, *drafts: Draft) -> AsyncGenerator[None]:
        """Prepares drafts for a transaction inside, which places them or not, and leaves nothing of those it does not.

        Raises:
            StorageError: the bytes cannot be kept.
        """
        await self._claim()
        prepared: list[Draft] = []
        try:
            for draft in drafts:
                await asyncio.to_thread(self.blobs.prepare, draft)
                prepared.append(draft)
            yield
        finally:
            placed = [one.sha256 for one in prepared if not one.path.exists()]
            left = [one.sha256 for one in prepared if one.path.exists()]
            await asyncio.to_thread(self.blobs.confirm, placed)
            with suppress(StorageError):  # the next sweep finds what is left
                if await asyncio.to_thread(lambda: any(map(self.blobs.has, left))):
                    await self.release(left)

    async def _claim(self) -> None:
        """Makes sure, once, that the blobs are those of this database.

        Raises:
            StorageError: they are another one's.
        """
        if not self._claimed:
            query = sa.select(installation.c.id)
            owner = await self._database.read(lambda connection: connection.scalars(query).one())
            await asyncio.to_thread(self.blobs.claim, owner)
            self._claimed = True

    def insert(
        self,
        connection: Connection,
        tenant: Tenant,
        draft: Draft,
        *,
        filename: str,
        purpose: str,
        lasts_s: int | None = None,
    ) -> StoredFile:
        """Turns a prepared draft into a file inside the caller's transaction, which commits both with its other changes."""
        now = int(shared_time())
        stored = StoredFile(
            id=f"file-{uuid.uuid4().hex}",
            created_at=now,
            expires_at=None if lasts_s is None else now + lasts_s,
            filename=filename,
            purpose=purpose,
            bytes=draft.bytes,
            sha256=self.place(connection, draft),
        )
        values = {name: getattr(stored, name) for name in StoredFile.__dataclass_fields__}
        connection.execute(sa.insert(files).values(tenant=tenant, **values))
        return stored

    def place(self, connection: Connection, draft: Draft) -> str:
        """Turns a prepared draft into a blob and returns its hash. The caller's transaction writes the row that names it."""
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

        await self.release([await self._database.free(work)])

    async def path(self, tenant: Tenant, id: str) -> Path:
        """Returns the path of the bytes, which may be read but not changed.

        Raises:
            NotFound: the tenant has no file of this id.
            FileNotFoundError: the bytes are gone.
        """
        return await self.local((await self.get(tenant, id)).sha256)

    async def local(self, sha256: str) -> Path:
        """Returns the path of the bytes with this hash on this machine, where they are fetched to if need be.

        Raises:
            FileNotFoundError: they are gone, here or where the path is opened.
            StorageError: the object store does not answer.
        """
        return await asyncio.to_thread(self.blobs.fetch, sha256)

    async def release(self, hashes: Iterable[str]) -> int:
        """Deletes those blobs that no row names and returns their number. The deletion of the rows must be committed.

        One that cannot be deleted is left to the next sweep.
        """
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
        try:
            self.blobs.remove(sha256)
        except (OSError, StorageUnavailable):
            return False
        return True

    async def erase(self, hashes: Iterable[str]) -> int:
        """Does the same as `release`, where it has to be certain.

        Raises:
            StorageUnavailable: one cannot be deleted now.
        """
        removed = await self.release(hashes)
        left = await self._database.read(lambda connection: _unnamed(connection, sorted(set(hashes))))
        if count := await asyncio.to_thread(lambda: sum(map(self.blobs.has, left))):
            raise StorageUnavailable.of("blobs_not_erased", count=count)
        return removed

    async def sweep(self) -> int:
        """Deletes expired files, blobs without a row and drafts of killed processes. Returns the number of blobs deleted."""
        await self._claim()

        def expired(connection: Connection) -> int:
            chosen = sa.select(files.c.seq).where(sa.not_(_alive())).limit(_ROWS)
            return connection.execute(sa.delete(files).where(files.c.seq.in_(chosen))).rowcount

        while await self._database.free(expired):
            pass
        old = await asyncio.to_thread(lambda: list(self.blobs.older_than(_GRACE_S)))
        await asyncio.to_thread(self.blobs.remove_drafts, _GRACE_S)
        removed = await self.release(old)
        await asyncio.to_thread(self.blobs.tend, _GRACE_S)
        return removed


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
