"""Stored batches, and the lines of their output until they become files.

A line's result is a row whose key is the line's number. It is written only once. A second writer, such as a worker that
was thought dead or the same line run again after a crash, finds the row there. At the end, when the batch accepts no more
rows, they become the files. One transaction adds the files to the batch and deletes the rows. Whenever the server is
killed, a line is therefore in at most one of the two.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.storage.batches.lines import LineResult, add_lines, bodies_behind, lines_of
from deepwell.storage.blobs import Draft
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import delete_job, insert_job
from deepwell.storage.pages import Page, page_of
from deepwell.storage.tables import batch_lines, batches, jobs

__all__ = ["BATCH_JOB", "BatchStatus", "BatchStore", "StoredBatch", "TooManyBatches"]

BATCH_JOB = "batch"
"""Kind of the job that runs a batch. The job and the batch have the same id."""

BatchStatus = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
WINDOW_S = 24 * 3600
MOST_OPEN = 100  # batches of a tenant at a time


class TooManyBatches(DeepwellError):
    """Raised when a tenant has as many unfinished batches as it may."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch as read from its row. `metadata` and `errors` are JSON; times are Unix seconds.

    A batch without files was made of the requests themselves. Its `input_file_id` is empty, and its results stay rows.
    """

    id: str
    status: BatchStatus
    endpoint: str
    input_file_id: str
    input_sha256: str | None
    completion_window: str
    created_at: int
    expires_at: int
    metadata: str | None = None
    output_expires_after: int | None = None
    model: str | None = None
    errors: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def ended(self) -> bool:
        """True if the batch no longer changes."""
        return self.status not in OPEN

    @property
    def without_files(self) -> bool:
        """True if it was made of the requests themselves."""
        return not self.input_file_id


_COLUMNS = [batches.c[name] for name in StoredBatch.__dataclass_fields__]


class BatchStore:
    """Batches by tenant and id, the newest first. Calls with an id raise `NotFound` if the tenant has no such batch."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database = database
        self._files = files

    async def create(
        self,
        tenant: Tenant,
        *,
        endpoint: str,
        input_file_id: str,
        completion_window: str,
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
        payload: str = "{}",
    ) -> StoredBatch:
        """Adds a batch, and the job that runs it. `payload` is the job's.

        Raises:
            NotFound: the tenant has no such file.
            InvalidRequest: the file was not uploaded for a batch.
            TooManyBatches: the tenant has too many that have not ended.
        """
        now = int(shared_time())

        def work(connection: Connection) -> StoredBatch:
            _check_open(connection, tenant)
            source = self._files.find(connection, tenant, input_file_id)
            if source.purpose != "batch":
                raise InvalidRequest(
                    f"the file {input_file_id!r} was uploaded for {source.purpose!r}",
                    fix="upload it with purpose 'batch'",
                    param="input_file_id",
                )
            batch = StoredBatch(
                id=f"batch_{uuid.uuid4().hex}",
                status="validating",
                endpoint=endpoint,
                input_file_id=input_file_id,
                input_sha256=source.sha256,
                completion_window=completion_window,
                created_at=now,
                expires_at=now + WINDOW_S,
                metadata=None if metadata is None else json.dumps(dict(metadata)),
                output_expires_after=output_expires_after,
            )
            return _insert(connection, tenant, batch, payload)

        return await self._database.write(work)

    async def create_without_files(
        self, tenant: Tenant, *, endpoint: str, lines: Draft, total: int, payload: str = "{}"
    ) -> StoredBatch:
        """Adds a batch of `total` requests, whose lines are in a draft, and the job that runs it.

        Raises:
            TooManyBatches: the tenant has too many that have not ended.
        """
        now = int(shared_time())

        def work(connection: Connection) -> StoredBatch:
            _check_open(connection, tenant)
            batch = StoredBatch(
                id=f"msgbatch_{uuid.uuid4().hex}",
                status="in_progress",
                endpoint=endpoint,
                input_file_id="",
                input_sha256=self._files.place(connection, lines),
                completion_window="24h",
                created_at=now,
                expires_at=now + WINDOW_S,
                in_progress_at=now,
                total=total,
            )
            return _insert(connection, tenant, batch, payload)

        async with self._files.placing(lines):
            return await self._database.write(work)

    async def get(self, tenant: Tenant, id: str, *, without_files: bool | None = None) -> StoredBatch:
        """Returns the batch. With `without_files`, a batch of the other kind is not found."""

        def work(connection: Connection) -> StoredBatch:
            batch = _find(connection, tenant, id)
            if without_files is not None and batch.without_files != without_files:
                raise _missing(id)
            return batch

        return await self._database.read(work)

    async def list(
        self,
        tenant: Tenant,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        without_files: bool = False,
    ) -> Page[StoredBatch]:
        """Returns one page of the batches with, or without, files: those behind `after`, or those just before `before`."""
        columns = batches.c
        kind = columns.input_file_id == "" if without_files else columns.input_file_id != ""
        query = sa.select(*_COLUMNS).where(columns.tenant == tenant, kind)

        def work(connection: Connection) -> Page[StoredBatch]:
            page = page_of(
                connection,
                query,
                columns.seq,
                columns.id,
                after=before or after,
                limit=limit,
                order="asc" if before else "desc",
            )
            data = [StoredBatch(**row._mapping) for row in page.data]
            return Page(data[::-1] if before else data, page.has_more)

        return await self._database.read(work)

    async def begin(self, tenant: Tenant, id: str, *, total: int, model: str | None) -> StoredBatch:
        """Starts a batch whose input is sound and has `total` lines. A batch that is not validating stays unchanged."""
        return await self._move(
            tenant,
            id,
            ["validating"],
            {"status": "in_progress", "in_progress_at": _now(), "total": total, "model": model},
        )

    async def cancel(self, tenant: Tenant, id: str) -> StoredBatch:
        """Asks for the end of a batch.

        Raises:
            InvalidRequest: the batch has ended, or is being finalized.
        """

        def work(connection: Connection) -> StoredBatch:
            batch = _find(connection, tenant, id)
            if batch.status == "cancelling":
                return batch
            if batch.status not in ("validating", "in_progress"):
                raise InvalidRequest(
                    f"the batch {id!r} is {batch.status} and cannot be cancelled",
                    fix="only a batch that is validating or in progress can be",
                )
            return _change(connection, tenant, id, {"status": "cancelling", "cancelling_at": _now()})

        return await self._database.write(work)

    async def fail(self, tenant: Tenant, id: str, errors: Sequence[Mapping[str, Any]]) -> StoredBatch:
        """Fails a batch whose input is not sound. `errors` (`code`, `message`, `line`, `param` each) say why."""
        return await self._move(
            tenant,
            id,
            ["validating", "in_progress"],
            {
                "status": "failed",
                "failed_at": _now(),
                "errors": json.dumps(list(errors), ensure_ascii=False),
                "input_sha256": None,
            },
        )

    async def done(self, tenant: Tenant, id: str) -> set[int]:
        """Returns the numbers of the lines that have ended."""
        query = sa.select(batch_lines.c.line).where(lines_of(tenant, id))
        return await self._database.read(lambda connection: set(connection.scalars(query)))

    async def record(
        self,
        tenant: Tenant,
        id: str,
        results: Sequence[LineResult],
        during: Literal["in_progress", "cancelling"] = "in_progress",
    ) -> BatchStatus:
        """Stores the results of lines that have none yet. Returns the batch's status, which tells whether to go on.

        Nothing is stored for a batch with another status than `during`, because its files may be being written.
        """

        def work(connection: Connection) -> BatchStatus:
            batch = _find(connection, tenant, id, lock=True)
            if batch.status != during:
                return batch.status
            add_lines(connection, tenant, id, results)
            return batch.status

        return await self._database.write(work)

    async def finalize(self, tenant: Tenant, id: str) -> StoredBatch:
        """Marks that all lines have ended. From then on the batch can only be concluded."""
        return await self._move(
            tenant, id, ["in_progress"], {"status": "finalizing", "finalizing_at": _now()}
        )

    async def conclude(
        self, tenant: Tenant, id: str, status: Literal["completed", "expired", "cancelled"]
    ) -> StoredBatch:
        """Ends the batch and turns its lines into its output and error files. If several callers try, one of them does it.

        A cancelling batch becomes cancelled; a finalizing one becomes completed or expired. Any other stays unchanged. The
        lines of a batch without files stay.
        """
        before = "cancelling" if status == "cancelled" else "finalizing"
        batch = await self.get(tenant, id)
        if batch.status != before:
            return batch
        if batch.without_files:
            values = {"status": status, f"{status}_at": _now(), "input_sha256": None}
            ended = await self._move(tenant, id, [before], values)
            await self._release(batch)
            return ended
        drafts: list[Draft] = []
        try:
            for failed in (False, True):
                drafts.append(await asyncio.to_thread(self._files.draft))
                await self._write_lines(tenant, id, drafts[-1], failed=failed)
            output, errors = drafts

            def work(connection: Connection) -> StoredBatch:
                now = _find(connection, tenant, id, lock=True)
                if now.status != before:
                    return now
                lasts = now.output_expires_after

                def keep(draft: Draft, name: str) -> str | None:
                    if not draft.bytes:
                        return None
                    stored = self._files.insert(
                        connection,
                        tenant,
                        draft,
                        filename=f"{id}_{name}.jsonl",
                        purpose="batch_output",
                        lasts_s=lasts,
                    )
                    return stored.id

                values = {
                    "status": status,
                    f"{status}_at": _now(),
                    "output_file_id": keep(output, "output"),
                    "error_file_id": keep(errors, "error"),
                    "input_sha256": None,
                }
                connection.execute(sa.delete(batch_lines).where(lines_of(tenant, id)))
                return _change(connection, tenant, id, values)

            async with self._files.placing(*(draft for draft in drafts if draft.bytes)):
                ended = await self._database.write(work)
        finally:
            for draft in drafts:
                draft.discard()
        await self._release(batch)
        return ended

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes a batch without files that has ended, with its results.

        Raises:
            NotFound: the tenant has no such batch, or it has files.
            InvalidRequest: the batch has not ended.
        """

        def work(connection: Connection) -> None:
            batch = _find(connection, tenant, id, lock=True)
            if not batch.without_files:
                raise _missing(id)
            if not batch.ended:
                raise InvalidRequest(
                    f"the batch {id!r} has not ended", fix="cancel it, and delete it when it has ended"
                )
            # A worker that stopped between the end of the batch and that of its job has left the job.
            delete_job(connection, tenant, BATCH_JOB, id)
            connection.execute(sa.delete(batch_lines).where(lines_of(tenant, id)))
            connection.execute(sa.delete(batches).where(batches.c.tenant == tenant, batches.c.id == id))

        await self._database.free(work)

    async def results(self, tenant: Tenant, id: str, last: int = 0) -> Sequence[tuple[int, str]]:
        """Returns some results of a batch without files with their line numbers: those behind line `last`, in order."""
        return await self._database.read(lambda connection: bodies_behind(connection, tenant, id, last))

    async def _release(self, batch: StoredBatch) -> None:
        if batch.input_sha256 is not None:
            await self._files.release([batch.input_sha256])

    async def _write_lines(self, tenant: Tenant, id: str, draft: Draft, *, failed: bool) -> None:
        last = 0
        while rows := await self._database.read(
            lambda connection, last=last: bodies_behind(connection, tenant, id, last, failed)
        ):
            last = rows[-1][0]
            text = "".join(f"{body}\n" for _, body in rows)
            await asyncio.to_thread(draft.write, text.encode())

    async def orphans(self) -> Sequence[tuple[Tenant, StoredBatch]]:
        """Returns open batches whose job has ended, because their server was killed between the two steps."""
        query = (
            sa.select(batches.c.tenant, *_COLUMNS)
            .join(jobs, (jobs.c.tenant == batches.c.tenant) & (jobs.c.id == batches.c.id))
            .where(batches.c.status.in_(OPEN), jobs.c.status.not_in(["queued", "running"]))
        )

        def work(connection: Connection) -> Sequence[tuple[Tenant, StoredBatch]]:
            found: list[tuple[Tenant, StoredBatch]] = []
            for row in connection.execute(query):
                values = dict(row._mapping)
                found.append((Tenant(values.pop("tenant")), StoredBatch(**values)))
            return found

        return await self._database.read(work)

    async def _move(
        self, tenant: Tenant, id: str, before: Sequence[str], values: Mapping[str, Any]
    ) -> StoredBatch:
        """Changes the batch if it has one of the statuses `before`, and returns its current state."""

        def work(connection: Connection) -> StoredBatch:
            batch = _find(connection, tenant, id, lock=True)
            return _change(connection, tenant, id, values) if batch.status in before else batch

        return await self._database.write(work)


def _now() -> int:
    return int(shared_time())


def _find(connection: Connection, tenant: Tenant, id: str, *, lock: bool = False) -> StoredBatch:
    query = sa.select(*_COLUMNS).where(batches.c.tenant == tenant, batches.c.id == id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise _missing(id)
    return StoredBatch(**row._mapping)


def _missing(id: str) -> NotFound:
    return NotFound(f"there is no batch {id!r}", fix="it was never made: list the batches")


def _check_open(connection: Connection, tenant: Tenant) -> None:
    own = sa.select(sa.func.count()).where(batches.c.tenant == tenant, batches.c.status.in_(OPEN))
    if (count := connection.execute(own).scalar_one()) >= MOST_OPEN:
        error = TooManyBatches(
            f"{count} batches have not ended, and a tenant may have {MOST_OPEN}",
            fix="wait until one has ended, or cancel it",
        )
        error.retry_after = 60
        raise error


def _insert(connection: Connection, tenant: Tenant, batch: StoredBatch, payload: str) -> StoredBatch:
    """Writes a new batch, and the job that runs it."""
    values = {name: getattr(batch, name) for name in StoredBatch.__dataclass_fields__}
    connection.execute(sa.insert(batches).values(tenant=tenant, **values))
    insert_job(connection, tenant, BATCH_JOB, payload, id=batch.id)
    return batch


def _change(connection: Connection, tenant: Tenant, id: str, values: Mapping[str, Any]) -> StoredBatch:
    connection.execute(
        sa.update(batches).where(batches.c.tenant == tenant, batches.c.id == id).values(**values)
    )
    return _find(connection, tenant, id)
