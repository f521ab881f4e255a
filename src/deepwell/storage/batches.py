"""Stored batches, and the lines of their output until they become files.

A line's result is a row whose key is the line's number. It is written only once. A second writer, such as a worker that
was thought dead or the same line run again after a crash, finds the row there. At the end, when the batch accepts no more
rows, they become the files. One transaction adds the files to the batch and deletes the rows. Whenever the server is
killed, a line is therefore in at most one of the two.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.blobs import Draft
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import insert_job
from deepwell.storage.pages import Page, page_of
from deepwell.storage.tables import batch_lines, batches, jobs

__all__ = ["BATCH_JOB", "BatchStatus", "BatchStore", "LineResult", "StoredBatch", "Tokens"]

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
_ROWS = 500  # rows read at a time


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one line."""

    input: int = 0
    cached: int = 0  # part of the input
    output: int = 0


@dataclass(frozen=True, slots=True)
class LineResult:
    """The result of one line; `body` is JSON, the line of the output or error file."""

    line: int  # line number in the input, from 1
    failed: bool
    body: str
    tokens: Tokens = Tokens()


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch as read from its row. `metadata` and `errors` are JSON; times are Unix seconds."""

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
    ) -> StoredBatch:
        """Adds a batch, and the job that runs it.

        Raises:
            NotFound: the tenant has no such file.
            InvalidRequest: the file was not uploaded for a batch.
        """
        now = int(time.time())

        def work(connection: Connection) -> StoredBatch:
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
            values = {name: getattr(batch, name) for name in StoredBatch.__dataclass_fields__}
            connection.execute(sa.insert(batches).values(tenant=tenant, **values))
            insert_job(connection, tenant, BATCH_JOB, "{}", id=batch.id)
            return batch

        return await self._database.write(work)

    async def get(self, tenant: Tenant, id: str) -> StoredBatch:
        """Returns the batch."""
        return await self._database.read(lambda connection: _find(connection, tenant, id))

    async def list(self, tenant: Tenant, *, after: str | None = None, limit: int = 20) -> Page[StoredBatch]:
        """Returns one page of batches."""
        query = sa.select(*_COLUMNS).where(batches.c.tenant == tenant)

        def work(connection: Connection) -> Page[StoredBatch]:
            page = page_of(
                connection, query, batches.c.seq, batches.c.id, after=after, limit=limit, order="desc"
            )
            return Page([StoredBatch(**row._mapping) for row in page.data], page.has_more)

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
        query = sa.select(batch_lines.c.line).where(_lines_of(tenant, id))
        return await self._database.read(lambda connection: set(connection.scalars(query)))

    async def record(self, tenant: Tenant, id: str, results: Sequence[LineResult]) -> BatchStatus:
        """Stores the results of lines that have none yet. Returns the batch's status, which tells whether to go on.

        Nothing is stored for a batch that is not in progress, because its files may be being written.
        """

        def work(connection: Connection) -> BatchStatus:
            batch = _find(connection, tenant, id, lock=True)
            if batch.status != "in_progress":
                return batch.status
            fresh = [result for result in results if _keep(connection, tenant, id, result)]
            columns = batches.c
            added = {
                columns.completed: sum(not one.failed for one in fresh),
                columns.failed: sum(one.failed for one in fresh),
                columns.input_tokens: sum(one.tokens.input for one in fresh),
                columns.cached_tokens: sum(one.tokens.cached for one in fresh),
                columns.output_tokens: sum(one.tokens.output for one in fresh),
            }
            connection.execute(
                sa.update(batches)
                .where(columns.tenant == tenant, columns.id == id)
                .values({column: column + count for column, count in added.items()})
            )
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

        A cancelling batch becomes cancelled; a finalizing one becomes completed or expired. Any other stays unchanged.
        """
        before = "cancelling" if status == "cancelled" else "finalizing"
        batch = await self.get(tenant, id)
        if batch.status != before:
            return batch
        drafts: list[Draft] = []
        try:
            for failed in (False, True):
                drafts.append(await asyncio.to_thread(self._files.draft))
                await self._write_lines(tenant, id, drafts[-1], failed=failed)
                await asyncio.to_thread(drafts[-1].close)
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
                        expires_at=None if lasts is None else _now() + lasts,
                    )
                    return stored.id

                values = {
                    "status": status,
                    f"{status}_at": _now(),
                    "output_file_id": keep(output, "output"),
                    "error_file_id": keep(errors, "error"),
                    "input_sha256": None,
                }
                connection.execute(sa.delete(batch_lines).where(_lines_of(tenant, id)))
                return _change(connection, tenant, id, values)

            ended = await self._database.write(work)
        finally:
            for draft in drafts:
                draft.discard()
        if batch.input_sha256 is not None:
            await self._files.release([batch.input_sha256])
        return ended

    async def _write_lines(self, tenant: Tenant, id: str, draft: Draft, *, failed: bool) -> None:
        columns = batch_lines.c
        query = (
            sa.select(columns.line, columns.body)
            .where(_lines_of(tenant, id), columns.failed == int(failed))
            .order_by(columns.line)
            .limit(_ROWS)
        )
        last = 0
        while rows := await self._database.read(
            lambda connection, last=last: connection.execute(query.where(columns.line > last)).all()
        ):
            last = rows[-1].line
            text = "".join(f"{row.body}\n" for row in rows)
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
    return int(time.time())


def _find(connection: Connection, tenant: Tenant, id: str, *, lock: bool = False) -> StoredBatch:
    query = sa.select(*_COLUMNS).where(batches.c.tenant == tenant, batches.c.id == id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"there is no batch {id!r}", fix="it was never made: list the batches")
    return StoredBatch(**row._mapping)


def _change(connection: Connection, tenant: Tenant, id: str, values: Mapping[str, Any]) -> StoredBatch:
    connection.execute(
        sa.update(batches).where(batches.c.tenant == tenant, batches.c.id == id).values(**values)
    )
    return _find(connection, tenant, id)


def _lines_of(tenant: Tenant, id: str) -> sa.ColumnElement[bool]:
    return (batch_lines.c.tenant == tenant) & (batch_lines.c.batch_id == id)


def _keep(connection: Connection, tenant: Tenant, id: str, result: LineResult) -> bool:
    """Writes a result; returns False if the line already has one."""
    columns = batch_lines.c
    there = sa.select(columns.line).where(_lines_of(tenant, id), columns.line == result.line)
    if connection.execute(there).one_or_none() is not None:
        return False
    connection.execute(
        sa.insert(batch_lines).values(
            tenant=tenant, batch_id=id, line=result.line, failed=int(result.failed), body=result.body
        )
    )
    return True
