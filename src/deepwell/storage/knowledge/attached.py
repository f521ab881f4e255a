"""Rows of attached files and their batches: what stores of knowledge do to them inside a transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant
from deepwell.storage.jobs import insert_job
from deepwell.storage.knowledge.chunks import remove_chunks
from deepwell.storage.knowledge.stores import find_store
from deepwell.storage.tables import (
    files,
    jobs,
    vector_store_batches,
    vector_store_files,
    vector_store_sources,
)

__all__ = [
    "COLUMNS",
    "INGEST_JOB",
    "MOST_IDS",
    "Attachment",
    "FileStatus",
    "StoredBatchOfFiles",
    "StoredStoreFile",
    "attach_file",
    "cancel_jobs",
    "detach_everywhere",
    "detach_files",
    "drop_files",
    "find_batch",
    "find_file",
    "key_of",
    "requeue",
    "require_files",
    "require_sources",
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


COLUMNS = [vector_store_files.c[name] for name in StoredStoreFile.__dataclass_fields__]
"""The columns of a `StoredStoreFile`, in its order."""

MOST_IDS = 500
"""Variables of one IN list."""

_BATCH_COLUMNS = [vector_store_batches.c[name] for name in StoredBatchOfFiles.__dataclass_fields__]


def attach_file(
    connection: Connection, tenant: Tenant, store_id: str, attachment: Attachment, batch_id: str | None
) -> StoredStoreFile:
    """Attaches a file and queues its job. A job that ingests the file already is cancelled."""
    payload = json.dumps({"store_id": store_id, "file_id": attachment.file_id})
    key = key_of(tenant, store_id, attachment.file_id)
    before = connection.execute(sa.select(*COLUMNS).where(key)).one_or_none()
    if before is not None and before.job_id is not None:
        cancel_jobs(connection, tenant, [before.job_id])
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
            "created_at": int(shared_time()),
            "usage_bytes": 0,
        }
        connection.execute(sa.insert(vector_store_files).values(**values))
    else:
        connection.execute(sa.update(vector_store_files).where(key).values(**values))
    return find_file(connection, tenant, store_id, attachment.file_id)


def detach_files(connection: Connection, tenant: Tenant, store_id: str, file_ids: Collection[str]) -> int:
    """Removes files from a store with their chunks, and cancels their jobs. Returns the number that was attached."""
    found: list[str] = []
    waiting: list[str] = []
    columns = vector_store_files.c
    chosen = list(file_ids)
    for begin in range(0, len(chosen), MOST_IDS):
        rows = connection.execute(
            sa.delete(vector_store_files)
            .where(
                columns.tenant == tenant,
                columns.store_id == store_id,
                columns.file_id.in_(chosen[begin : begin + MOST_IDS]),
            )
            .returning(columns.file_id, columns.job_id)
        ).all()
        found += [row.file_id for row in rows]
        waiting += [row.job_id for row in rows if row.job_id is not None]
    if found:
        remove_chunks(connection, tenant, store_id, found)
        cancel_jobs(connection, tenant, waiting)
    return len(found)


def requeue(connection: Connection, tenant: Tenant, store_id: str) -> None:
    """Removes the chunks of a store and queues its files again, but for those that failed, in the caller's transaction."""
    columns = vector_store_files.c
    rows = connection.execute(
        sa.select(*COLUMNS)
        .where(columns.tenant == tenant, columns.store_id == store_id, columns.status != "failed")
        .order_by(columns.seq)
    ).all()
    attached = [StoredStoreFile(*row) for row in rows]
    remove_chunks(connection, tenant, store_id, [one.file_id for one in attached])
    for one in attached:
        again = Attachment(one.file_id, one.attributes, one.chunking, one.source_id, one.uri, one.version)
        attach_file(connection, tenant, store_id, again, one.batch_id)


def detach_everywhere(connection: Connection, tenant: Tenant, file_id: str) -> None:
    """Removes a file from every store of the tenant inside the caller's transaction, which deletes the file."""
    columns = vector_store_files.c
    query = sa.select(columns.store_id).where(columns.tenant == tenant, columns.file_id == file_id)
    for store_id in connection.scalars(query).all():
        detach_files(connection, tenant, store_id, [file_id])


def drop_files(connection: Connection, tenant: Tenant, store_id: str, file_ids: Sequence[str]) -> list[str]:
    """Drops attached files, and the files themselves that no store has then. Returns the hashes of these."""
    columns = vector_store_files.c
    used = sa.exists().where(columns.tenant == files.c.tenant, columns.file_id == files.c.id)
    hashes: list[str] = []
    for begin in range(0, len(file_ids), MOST_IDS):
        some = file_ids[begin : begin + MOST_IDS]
        connection.execute(
            sa.delete(vector_store_files).where(
                columns.tenant == tenant, columns.store_id == store_id, columns.file_id.in_(some)
            )
        )
        unused = sa.delete(files).where(files.c.tenant == tenant, files.c.id.in_(some), ~used)
        hashes += connection.scalars(unused.returning(files.c.sha256))
    return hashes


def cancel_jobs(connection: Connection, tenant: Tenant, ids: Sequence[str]) -> None:
    """Cancels those of some jobs that have not ended. Running ones end at their next look."""
    queued = jobs.c.status == "queued"
    for begin in range(0, len(ids), MOST_IDS):
        connection.execute(
            sa.update(jobs)
            .where(
                jobs.c.tenant == tenant,
                jobs.c.id.in_(ids[begin : begin + MOST_IDS]),
                jobs.c.status.in_(["queued", "running"]),
            )
            .values(
                cancel_requested=True,
                status=sa.case((queued, "cancelled"), else_=jobs.c.status),
                finished_at=sa.case((queued, int(shared_time())), else_=jobs.c.finished_at),
            )
        )


def require_sources(connection: Connection, tenant: Tenant, store_id: str, ids: Collection[str]) -> None:
    """Checks that a store has some sources.

    Raises:
        NotFound: it has one of them no more.
    """
    columns = vector_store_sources.c
    for id in ids:
        mine = sa.and_(columns.tenant == tenant, columns.store_id == store_id, columns.id == id)
        if connection.execute(sa.select(columns.seq).where(mine)).first() is None:
            raise NotFound(f"there is no source {id!r}", fix="it was removed meanwhile")


def require_files(connection: Connection, tenant: Tenant, ids: Sequence[str]) -> None:
    """Checks that a tenant has some files, and that none of them has expired.

    Raises:
        NotFound: it has not.
    """
    there: set[str] = set()
    alive = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > int(shared_time()))
    for begin in range(0, len(ids), MOST_IDS):
        there.update(
            connection.scalars(
                sa.select(files.c.id).where(
                    files.c.tenant == tenant, files.c.id.in_(ids[begin : begin + MOST_IDS]), alive
                )
            )
        )
    missing = [id for id in ids if id not in there]
    if missing:
        raise NotFound(f"there is no file {missing[0]!r}", fix="upload it through /v1/files first")


def key_of(tenant: Tenant, store_id: str, file_id: str) -> sa.ColumnElement[bool]:
    """Returns the condition that chooses one attached file."""
    columns = vector_store_files.c
    return sa.and_(columns.tenant == tenant, columns.store_id == store_id, columns.file_id == file_id)


def find_file(connection: Connection, tenant: Tenant, store_id: str, file_id: str) -> StoredStoreFile:
    """Returns an attached file.

    Raises:
        NotFound: the tenant has no such store, or the store no such file.
    """
    row = connection.execute(sa.select(*COLUMNS).where(key_of(tenant, store_id, file_id))).one_or_none()
    if row is None:
        find_store(connection, tenant, store_id)
        raise NotFound(
            f"there is no file {file_id!r} in the vector store {store_id!r}",
            fix="list the files of the store",
        )
    return StoredStoreFile(*row)


def find_batch(connection: Connection, tenant: Tenant, store_id: str, id: str) -> StoredBatchOfFiles:
    """Returns a batch of files.

    Raises:
        NotFound: the tenant has no such store, or the store no such batch.
    """
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
