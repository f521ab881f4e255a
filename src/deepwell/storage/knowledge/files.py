"""`StoreFiles`: files attached to vector stores, alone or in batches, each with the durable job that ingests it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import insert_job
from deepwell.storage.knowledge.chunks import Chunks, NewChunk, remove_chunks
from deepwell.storage.knowledge.stores import bounded, find_store, raise_generation
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import (
    files,
    jobs,
    vector_store_batches,
    vector_store_files,
    vector_store_sources,
)

__all__ = [
    "INGEST_JOB",
    "Attachment",
    "FileStatus",
    "StoreFiles",
    "StoredBatchOfFiles",
    "StoredStoreFile",
    "detach_everywhere",
]

INGEST_JOB = "ingest"
"""Kind of the jobs that ingest a file."""

FileStatus = Literal["in_progress", "completed", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file to attach. `attributes` and `chunking` are JSON; the rest says which source brought it."""

    file_id: str
    attributes: str = "{}"
    chunking: str | None = None
    source_id: str | None = None
    uri: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class StoredStoreFile:
    """One attached file. `error_code` is OpenAI's; `usage_bytes` counts texts and vectors of its chunks."""

    store_id: str
    file_id: str
    created_at: int
    status: FileStatus
    error_code: str | None
    error: str | None
    usage_bytes: int
    attributes: str
    chunking: str | None
    batch_id: str | None
    job_id: str | None
    source_id: str | None
    uri: str | None
    version: str | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class StoredBatchOfFiles:
    """One batch of attached files."""

    id: str
    store_id: str
    created_at: int
    cancelled_at: int | None


_COLUMNS = [vector_store_files.c[name] for name in StoredStoreFile.__dataclass_fields__]
_BATCH_COLUMNS = [vector_store_batches.c[name] for name in StoredBatchOfFiles.__dataclass_fields__]
_MOST = 500  # variables of one IN list


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
            _require_sources(connection, tenant, store_id, sources)
            if store.expired():
                raise InvalidRequest.of("store_expired", id=store_id)
            _require_files(connection, tenant, [one.file_id for one in attachments])
            made = None
            if batch:
                made = StoredBatchOfFiles(f"vsfb_{uuid.uuid4().hex}", store_id, int(time.time()), None)
                values = {name: getattr(made, name) for name in StoredBatchOfFiles.__dataclass_fields__}
                connection.execute(sa.insert(vector_store_batches).values(tenant=tenant, **values))
            attached = [
                _attach(connection, tenant, store_id, one, None if made is None else made.id)
                for one in attachments
            ]
            return made, attached

        return await self._database.write(work)

    async def get(self, tenant: Tenant, store_id: str, file_id: str) -> StoredStoreFile:
        """Returns the attached file."""
        return await self._database.read(lambda connection: _find(connection, tenant, store_id, file_id))

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
        query = sa.select(*_COLUMNS).where(columns.tenant == tenant, columns.store_id == store_id)
        if status is not None:
            query = query.where(columns.status == status)
        if batch_id is not None:
            query = query.where(columns.batch_id == batch_id)

        def work(connection: Connection) -> Page[StoredStoreFile]:
            find_store(connection, tenant, store_id)
            if batch_id is not None:
                _find_batch(connection, tenant, store_id, batch_id)
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
                .where(_one(tenant, store_id, file_id))
                .values(attributes=attributes)
            )
            # An answer or a filter that was computed for the old attributes is of an earlier generation.
            found = _find(connection, tenant, store_id, file_id)
            raise_generation(connection, tenant, store_id)
            return found

        return await self._database.write(work)

    async def detach(self, tenant: Tenant, store_id: str, file_ids: Collection[str]) -> int:
        """Removes files from a store with their chunks, in one commit, and cancels their jobs. The files stay.

        Returns the number of files that were attached.
        """

        def work(connection: Connection) -> int:
            find_store(connection, tenant, store_id)
            return _detach(connection, tenant, store_id, file_ids)

        return await self._database.write(work)

    async def batch(self, tenant: Tenant, store_id: str, batch_id: str) -> StoredBatchOfFiles:
        """Returns a batch of files."""
        return await self._database.read(
            lambda connection: _find_batch(connection, tenant, store_id, batch_id)
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
            _find_batch(connection, tenant, store_id, batch_id)
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
            _cancel_jobs(connection, tenant, [one for one in job_ids if one])
            connection.execute(
                sa.update(vector_store_batches)
                .where(vector_store_batches.c.tenant == tenant, vector_store_batches.c.id == batch_id)
                .values(cancelled_at=sa.func.coalesce(vector_store_batches.c.cancelled_at, int(time.time())))
            )
            return _find_batch(connection, tenant, store_id, batch_id)

        return await self._database.write(work)

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
            key = _one(tenant, attached.store_id, attached.file_id)
            row = connection.execute(sa.select(*_COLUMNS).where(key)).one_or_none()
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
            return _drop_rows(connection, tenant, attached.store_id, replaced)

        return await self._database.write(work)

    async def fail(self, tenant: Tenant, attached: StoredStoreFile, code: str, error: str) -> None:
        """Records that a file cannot be ingested. Chunks that it had before stay out of searches."""

        def work(connection: Connection) -> None:
            key = _one(tenant, attached.store_id, attached.file_id)
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
            sa.select(*_COLUMNS)
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
            for begin in range(0, len(file_ids), _MOST):
                found += connection.scalars(
                    sa.select(files.c.id).where(
                        files.c.tenant == tenant, files.c.id.in_(file_ids[begin : begin + _MOST]), ~used
                    )
                )
            return found

        return await self._database.read(work)

    async def orphans(self) -> int:
        """Removes attached files whose file was deleted or has expired, of all tenants. Returns their number."""
        columns = vector_store_files.c
        alive = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > int(time.time()))
        there = sa.exists().where(files.c.tenant == columns.tenant, files.c.id == columns.file_id, alive)
        chosen = sa.select(columns.tenant, columns.store_id, columns.file_id).where(~there).limit(100)

        def work(connection: Connection) -> int:
            rows = connection.execute(chosen).all()
            for row in rows:
                _detach(connection, row.tenant, row.store_id, [row.file_id])
            return len(rows)

        total = 0
        while count := await self._database.write(work):
            total += count
        return total


def _attach(
    connection: Connection, tenant: Tenant, store_id: str, attachment: Attachment, batch_id: str | None
) -> StoredStoreFile:
    payload = json.dumps({"store_id": store_id, "file_id": attachment.file_id})
    key = _one(tenant, store_id, attachment.file_id)
    before = connection.execute(sa.select(*_COLUMNS).where(key)).one_or_none()
    if before is not None and before.job_id is not None:
        _cancel_jobs(connection, tenant, [before.job_id])
    job = insert_job(connection, tenant, INGEST_JOB, payload)
    values = {
        "status": "in_progress",
        "error_code": None,
        "error": None,
        "attributes": attachment.attributes,
        "chunking": attachment.chunking,
        "batch_id": batch_id,
        "job_id": job.id,
        "source_id": attachment.source_id,
        "uri": attachment.uri,
        "version": attachment.version,
    }
    if before is None:
        values |= {
            "tenant": tenant,
            "store_id": store_id,
            "file_id": attachment.file_id,
            "created_at": int(time.time()),
            "usage_bytes": 0,
        }
        connection.execute(sa.insert(vector_store_files).values(**values))
    else:
        connection.execute(sa.update(vector_store_files).where(key).values(**values))
    return _find(connection, tenant, store_id, attachment.file_id)


def _detach(connection: Connection, tenant: Tenant, store_id: str, file_ids: Collection[str]) -> int:
    found: list[str] = []
    waiting: list[str] = []
    columns = vector_store_files.c
    chosen = list(file_ids)
    for begin in range(0, len(chosen), _MOST):
        rows = connection.execute(
            sa.delete(vector_store_files)
            .where(
                columns.tenant == tenant,
                columns.store_id == store_id,
                columns.file_id.in_(chosen[begin : begin + _MOST]),
            )
            .returning(columns.file_id, columns.job_id)
        ).all()
        found += [row.file_id for row in rows]
        waiting += [row.job_id for row in rows if row.job_id is not None]
    if found:
        remove_chunks(connection, tenant, store_id, found)
        _cancel_jobs(connection, tenant, waiting)
    return len(found)


def requeue(connection: Connection, tenant: Tenant, store_id: str) -> None:
    """Removes the chunks of a store and queues its files again, but for those that failed, in the caller's transaction."""
    columns = vector_store_files.c
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(columns.tenant == tenant, columns.store_id == store_id, columns.status != "failed")
        .order_by(columns.seq)
    ).all()
    attached = [StoredStoreFile(*row) for row in rows]
    remove_chunks(connection, tenant, store_id, [one.file_id for one in attached])
    for one in attached:
        again = Attachment(one.file_id, one.attributes, one.chunking, one.source_id, one.uri, one.version)
        _attach(connection, tenant, store_id, again, one.batch_id)


def detach_everywhere(connection: Connection, tenant: Tenant, file_id: str) -> None:
    """Removes a file from every store of the tenant inside the caller's transaction, which deletes the file."""
    columns = vector_store_files.c
    query = sa.select(columns.store_id).where(columns.tenant == tenant, columns.file_id == file_id)
    for store_id in connection.scalars(query).all():
        _detach(connection, tenant, store_id, [file_id])


def _drop_rows(connection: Connection, tenant: Tenant, store_id: str, file_ids: Sequence[str]) -> list[str]:
    """Drops attached files, and the files themselves that no store has then. Returns the hashes of these."""
    columns = vector_store_files.c
    used = sa.exists().where(columns.tenant == files.c.tenant, columns.file_id == files.c.id)
    hashes: list[str] = []
    for begin in range(0, len(file_ids), _MOST):
        some = file_ids[begin : begin + _MOST]
        connection.execute(
            sa.delete(vector_store_files).where(
                columns.tenant == tenant, columns.store_id == store_id, columns.file_id.in_(some)
            )
        )
        unused = sa.delete(files).where(files.c.tenant == tenant, files.c.id.in_(some), ~used)
        hashes += connection.scalars(unused.returning(files.c.sha256))
    return hashes


def _cancel_jobs(connection: Connection, tenant: Tenant, ids: Sequence[str]) -> None:
    queued = jobs.c.status == "queued"
    for begin in range(0, len(ids), _MOST):
        connection.execute(
            sa.update(jobs)
            .where(
                jobs.c.tenant == tenant,
                jobs.c.id.in_(ids[begin : begin + _MOST]),
                jobs.c.status.in_(["queued", "running"]),
            )
            .values(
                cancel_requested=True,
                status=sa.case((queued, "cancelled"), else_=jobs.c.status),
                finished_at=sa.case((queued, int(time.time())), else_=jobs.c.finished_at),
            )
        )


def _require_sources(connection: Connection, tenant: Tenant, store_id: str, ids: Collection[str]) -> None:
    columns = vector_store_sources.c
    for id in ids:
        mine = sa.and_(columns.tenant == tenant, columns.store_id == store_id, columns.id == id)
        if connection.execute(sa.select(columns.seq).where(mine)).first() is None:
            raise NotFound(f"there is no source {id!r}", fix="it was removed meanwhile")


def _require_files(connection: Connection, tenant: Tenant, ids: Sequence[str]) -> None:
    there: set[str] = set()
    alive = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > int(time.time()))
    for begin in range(0, len(ids), _MOST):
        there.update(
            connection.scalars(
                sa.select(files.c.id).where(
                    files.c.tenant == tenant, files.c.id.in_(ids[begin : begin + _MOST]), alive
                )
            )
        )
    missing = [id for id in ids if id not in there]
    if missing:
        raise NotFound(f"there is no file {missing[0]!r}", fix="upload it through /v1/files first")


def _one(tenant: Tenant, store_id: str, file_id: str) -> sa.ColumnElement[bool]:
    columns = vector_store_files.c
    return sa.and_(columns.tenant == tenant, columns.store_id == store_id, columns.file_id == file_id)


def _find(connection: Connection, tenant: Tenant, store_id: str, file_id: str) -> StoredStoreFile:
    row = connection.execute(sa.select(*_COLUMNS).where(_one(tenant, store_id, file_id))).one_or_none()
    if row is None:
        find_store(connection, tenant, store_id)
        raise NotFound(
            f"there is no file {file_id!r} in the vector store {store_id!r}",
            fix="list the files of the store",
        )
    return StoredStoreFile(*row)


def _find_batch(connection: Connection, tenant: Tenant, store_id: str, id: str) -> StoredBatchOfFiles:
    columns = vector_store_batches.c
    row = connection.execute(
        sa.select(*_BATCH_COLUMNS).where(
            columns.tenant == tenant, columns.store_id == store_id, columns.id == id
        )
    ).one_or_none()
    if row is None:
        find_store(connection, tenant, store_id)
        raise NotFound(f"there is no batch {id!r} in the vector store {store_id!r}", fix="check the id")
    return StoredBatchOfFiles(*row)
