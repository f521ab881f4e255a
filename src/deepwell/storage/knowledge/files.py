"""`StoreFiles`: files attached to vector stores, alone or in batches, each with the durable job that ingests it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.knowledge.attached import (
    COLUMNS,
    INGEST_JOB,
    MOST_IDS,
    Attachment,
    FileStatus,
    StoredBatchOfFiles,
    StoredStoreFile,
    attach_file,
    cancel_jobs,
    detach_files,
    drop_files,
    find_batch,
    find_file,
    key_of,
    require_files,
    require_sources,
)
from deepwell.storage.knowledge.chunks import Chunks, NewChunk, remove_chunks
from deepwell.storage.knowledge.stores import bounded, find_store, raise_generation
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import files, vector_store_batches, vector_store_files

__all__ = [
    "INGEST_JOB",
    "Attachment",
    "FileStatus",
    "StoreFiles",
    "StoredBatchOfFiles",
    "StoredStoreFile",
]


class StoreFiles:
    """Attached files by tenant, store and file. Calls raise `NotFound` for what the tenant does not have."""

    def __init__(self, database: Database, chunks: Chunks) -> None:
        self._database = database
        self._chunks = chunks

    async def attach(
        self, tenant: Tenant, store_id: str, attachments: Sequence[Attachment], *, batch: bool = False
    ) -> tuple[StoredBatchOfFiles | None, list[StoredStoreFile]]:
        """Attaches files and queues a job for each, all in one commit. A file that is attached already is ingested anew.

        Its old chunks are found until the new ones are there.

        Raises:
            NotFound: the tenant has no such store, or not one of the files, or the store no such source any more.
            InvalidRequest: the store has expired.
        """
        sources = {one.source_id for one in attachments if one.source_id is not None}

        def work(connection: Connection) -> tuple[StoredBatchOfFiles | None, list[StoredStoreFile]]:
            # Locked, so that no source is removed between the look at it and the commit.
            store = find_store(connection, tenant, store_id, lock=bool(sources))
            require_sources(connection, tenant, store_id, sources)
            if store.expired():
                raise InvalidRequest.of("store_expired", id=store_id)
            require_files(connection, tenant, [one.file_id for one in attachments])
            made = None
            if batch:
                made = StoredBatchOfFiles(f"vsfb_{uuid.uuid4().hex}", store_id, int(shared_time()), None)
                values = {name: getattr(made, name) for name in StoredBatchOfFiles.__dataclass_fields__}
                connection.execute(sa.insert(vector_store_batches).values(tenant=tenant, **values))
            attached = [
                attach_file(connection, tenant, store_id, one, None if made is None else made.id)
                for one in attachments
            ]
            return made, attached

        return await self._database.write(work)

    async def get(self, tenant: Tenant, store_id: str, file_id: str) -> StoredStoreFile:
        """Returns the attached file."""
        return await self._database.read(lambda connection: find_file(connection, tenant, store_id, file_id))

    async def list(
        self,
        tenant: Tenant,
        store_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        status: str | None = None,
        batch_id: str | None = None,
    ) -> Page[StoredStoreFile]:
        """Returns one page of the attached files, of one status or batch if asked for."""
        columns = vector_store_files.c
        query = sa.select(*COLUMNS).where(columns.tenant == tenant, columns.store_id == store_id)
        if status is not None:
            query = query.where(columns.status == status)
        if batch_id is not None:
            query = query.where(columns.batch_id == batch_id)

        def work(connection: Connection) -> Page[StoredStoreFile]:
            find_store(connection, tenant, store_id)
            if batch_id is not None:
                find_batch(connection, tenant, store_id, batch_id)
            page = page_of(
                connection,
                bounded(connection, query, columns.seq, columns.file_id, before, order),
                columns.seq,
                columns.file_id,
                after=after,
                limit=limit,
                order=order,
            )
            return Page([StoredStoreFile(*row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def attributes(self, tenant: Tenant, store_id: str) -> dict[str, dict[str, Any]]:
        """Returns the attributes of every ingested file of a store."""
        columns = vector_store_files.c
        query = sa.select(columns.file_id, columns.attributes).where(
            columns.tenant == tenant, columns.store_id == store_id
        )

        def work(connection: Connection) -> dict[str, dict[str, Any]]:
            return {row.file_id: json.loads(row.attributes) for row in connection.execute(query)}

        return await self._database.read(work)

    async def set_attributes(
        self, tenant: Tenant, store_id: str, file_id: str, attributes: str
    ) -> StoredStoreFile:
        """Replaces the attributes (JSON) of a file. Searches see them at once."""

        def work(connection: Connection) -> StoredStoreFile:
            connection.execute(
                sa.update(vector_store_files)
                .where(key_of(tenant, store_id, file_id))
                .values(attributes=attributes)
            )
            # An answer or a filter that was computed for the old attributes is of an earlier generation.
            found = find_file(connection, tenant, store_id, file_id)
            raise_generation(connection, tenant, store_id)
            return found

        return await self._database.write(work)

    async def detach(self, tenant: Tenant, store_id: str, file_ids: Collection[str]) -> int:
        """Removes files from a store with their chunks, in one commit, and cancels their jobs. The files stay.

        Returns the number of files that were attached.
        """

        def work(connection: Connection) -> int:
            find_store(connection, tenant, store_id)
            return detach_files(connection, tenant, store_id, file_ids)

        return await self._database.free(work)

    async def batch(self, tenant: Tenant, store_id: str, batch_id: str) -> StoredBatchOfFiles:
        """Returns a batch of files."""
        return await self._database.read(
            lambda connection: find_batch(connection, tenant, store_id, batch_id)
        )

    async def batch_counts(self, tenant: Tenant, batch_id: str) -> dict[str, int]:
        """Returns the number of files of a batch by status."""
        columns = vector_store_files.c
        query = (
            sa.select(columns.status, sa.func.count())
            .where(columns.tenant == tenant, columns.batch_id == batch_id)
            .group_by(columns.status)
        )
        return await self._database.read(
            lambda connection: {row[0]: row[1] for row in connection.execute(query)}
        )

    async def cancel_batch(self, tenant: Tenant, store_id: str, batch_id: str) -> StoredBatchOfFiles:
        """Cancels those files of a batch that are not ingested yet."""

        def work(connection: Connection) -> StoredBatchOfFiles:
            find_batch(connection, tenant, store_id, batch_id)
            columns = vector_store_files.c
            open_ones = (
                (columns.tenant == tenant)
                & (columns.batch_id == batch_id)
                & (columns.status == "in_progress")
            )
            job_ids = connection.scalars(
                sa.update(vector_store_files)
                .where(open_ones)
                .values(status="cancelled")
                .returning(columns.job_id)
            ).all()
            cancel_jobs(connection, tenant, [one for one in job_ids if one])
            connection.execute(
                sa.update(vector_store_batches)
                .where(vector_store_batches.c.tenant == tenant, vector_store_batches.c.id == batch_id)
                .values(
                    cancelled_at=sa.func.coalesce(vector_store_batches.c.cancelled_at, int(shared_time()))
                )
            )
            return find_batch(connection, tenant, store_id, batch_id)

        return await self._database.write(work)

    async def cancel_job(self, tenant: Tenant, job_id: str) -> None:
        """Cancels a job, with the file that it ingests unless that has ended."""
        columns = vector_store_files.c
        mine = (columns.tenant == tenant) & (columns.job_id == job_id) & (columns.status == "in_progress")

        def work(connection: Connection) -> None:
            connection.execute(sa.update(vector_store_files).where(mine).values(status="cancelled"))
            cancel_jobs(connection, tenant, [job_id])

        await self._database.write(work)

    async def complete(
        self,
        tenant: Tenant,
        attached: StoredStoreFile,
        digest: str,
        new: Sequence[NewChunk],
        *,
        usage_bytes: int,
        embedder_hash: str,
    ) -> list[str] | None:
        """Publishes the chunks of a file and marks it as completed, in one commit.

        An older file from the same address of the same source disappears in the same moment, from the tenant's files too
        unless another store has it.

        Returns:
            Hashes of the files that disappeared. None, and nothing is changed, if the file was removed or cancelled
            meanwhile, is being ingested by a later job, or the store has another embedder by now.

        Raises:
            StorageError: a vector is missing. Ingesting the file again is right.
        """

        def work(connection: Connection) -> list[str] | None:
            store = find_store(connection, tenant, attached.store_id, lock=True)
            key = key_of(tenant, attached.store_id, attached.file_id)
            row = connection.execute(sa.select(*COLUMNS).where(key)).one_or_none()
            now = None if row is None else StoredStoreFile(*row)
            if now is None or now.job_id != attached.job_id or now.status == "cancelled":
                return None
            if store.embedder_hash != embedder_hash:
                return None
            self._chunks.require_vectors(connection, tenant, embedder_hash, new)
            replaced: list[str] = []
            if attached.uri is not None and attached.source_id is not None:
                columns = vector_store_files.c
                replaced = list(
                    connection.scalars(
                        sa.select(columns.file_id).where(
                            columns.tenant == tenant,
                            columns.store_id == attached.store_id,
                            columns.source_id == attached.source_id,
                            columns.uri == attached.uri,
                            columns.file_id != attached.file_id,
                            columns.seq < sa.select(columns.seq).where(key).scalar_subquery(),
                        )
                    )
                )
            self._chunks.publish(connection, tenant, attached.store_id, attached.file_id, new, replaced)
            connection.execute(
                sa.update(vector_store_files)
                .where(key)
                .values(
                    status="completed", error_code=None, error=None, usage_bytes=usage_bytes, digest=digest
                )
            )
            return drop_files(connection, tenant, attached.store_id, replaced)

        return await self._database.write(work)

    async def fail(self, tenant: Tenant, attached: StoredStoreFile, code: str, error: str) -> None:
        """Records that a file cannot be ingested. Chunks that it had before stay out of searches."""

        def work(connection: Connection) -> None:
            key = key_of(tenant, attached.store_id, attached.file_id)
            changed = connection.execute(
                sa.update(vector_store_files)
                .where(
                    key,
                    vector_store_files.c.job_id == attached.job_id,
                    vector_store_files.c.status != "cancelled",
                )
                .values(status="failed", error_code=code, error=error)
            ).rowcount
            if changed:
                remove_chunks(connection, tenant, attached.store_id, [attached.file_id])

        await self._database.write(work)

    async def of_source(self, tenant: Tenant, store_id: str, source_id: str) -> dict[str, StoredStoreFile]:
        """Returns the newest attached file of every address of a source."""
        columns = vector_store_files.c
        query = (
            sa.select(*COLUMNS)
            .where(columns.tenant == tenant, columns.store_id == store_id, columns.source_id == source_id)
            .order_by(columns.seq)
        )

        def work(connection: Connection) -> dict[str, StoredStoreFile]:
            found = [StoredStoreFile(*row) for row in connection.execute(query)]
            return {one.uri: one for one in found if one.uri is not None}

        return await self._database.read(work)

    async def at_address(self, tenant: Tenant, store_id: str, source_id: str, uri: str) -> list[str]:
        """Returns every attached file of an address of a source: the newest, and those that it is about to replace."""
        columns = vector_store_files.c
        query = sa.select(columns.file_id).where(
            columns.tenant == tenant,
            columns.store_id == store_id,
            columns.source_id == source_id,
            columns.uri == uri,
        )
        return await self._database.read(lambda connection: list(connection.scalars(query)))

    async def set_version(
        self, tenant: Tenant, store_id: str, source_id: str, uri: str, version: str
    ) -> None:
        """Records another token for the same content of a source's document. One that is known already writes nothing."""
        columns = vector_store_files.c
        mine = sa.and_(
            columns.tenant == tenant,
            columns.store_id == store_id,
            columns.source_id == source_id,
            columns.uri == uri,
            columns.version != version,
        )
        query = sa.select(columns.seq).where(mine).limit(1)
        if await self._database.read(lambda connection: connection.execute(query).first()) is not None:
            statement = sa.update(vector_store_files).where(mine).values(version=version)
            await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def unattached(self, tenant: Tenant, file_ids: Sequence[str]) -> list[str]:
        """Returns those files that exist and that no store has."""
        columns = vector_store_files.c
        used = sa.exists().where(columns.tenant == files.c.tenant, columns.file_id == files.c.id)

        def work(connection: Connection) -> list[str]:
            found: list[str] = []
            for begin in range(0, len(file_ids), MOST_IDS):
                found += connection.scalars(
                    sa.select(files.c.id).where(
                        files.c.tenant == tenant, files.c.id.in_(file_ids[begin : begin + MOST_IDS]), ~used
                    )
                )
            return found

        return await self._database.read(work)

    async def orphans(self) -> int:
        """Removes attached files whose file was deleted or has expired, of all tenants. Returns their number."""
        columns = vector_store_files.c
        alive = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > int(shared_time()))
        there = sa.exists().where(files.c.tenant == columns.tenant, files.c.id == columns.file_id, alive)
        chosen = sa.select(columns.tenant, columns.store_id, columns.file_id).where(~there).limit(100)

        def work(connection: Connection) -> int:
            rows = connection.execute(chosen).all()
            for row in rows:
                detach_files(connection, row.tenant, row.store_id, [row.file_id])
            return len(rows)

        total = 0
        while count := await self._database.write(work):
            total += count
        return total
