"""`FineTuningStore`: fine-tuning jobs as clients see and change them.

A fine-tuning job and the durable job that runs it (`storage/jobs`) have the same id. A paused job is kept in the queue under
another kind, which no worker claims, so that lists of jobs go on to show it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore, StoredFile
from deepwell.storage.jobs import insert_job
from deepwell.storage.pages import Page, page_of
from deepwell.storage.tables import fine_tuning_checkpoints, fine_tuning_events, fine_tuning_jobs, jobs
from deepwell.storage.tuning.records import (
    CHECKPOINT_COLUMNS,
    EVENT_COLUMNS,
    JOB_COLUMNS,
    OPEN,
    EventLevel,
    StoredCheckpoint,
    StoredEvent,
    StoredFineTuning,
)

__all__ = [
    "MOST_OPEN",
    "PARKED_JOB",
    "TUNE_JOB",
    "FineTuningStore",
    "TooManyFineTunings",
    "add_event",
    "change",
    "find_job",
]

TUNE_JOB: Final = "fine_tuning"
"""Kind of the durable jobs that train."""

PARKED_JOB: Final = "fine_tuning.paused"
"""Kind of those that a client has paused."""

MOST_OPEN: Final = 8
"""Unfinished jobs of a tenant: each keeps checkpoints on the disk."""


class TooManyFineTunings(DeepwellError):
    """Raised when a tenant has as many unfinished jobs as it may."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class FineTuningStore:
    """Fine-tuning jobs by tenant and id, the newest first. Calls with an id raise `NotFound` if the tenant has no such job."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database = database
        self._files = files

    async def create(
        self,
        tenant: Tenant,
        *,
        model: str,
        training_file: str,
        validation_file: str | None,
        suffix: str,
        seed: int,
        hyperparameters: Mapping[str, Any],
        options: Mapping[str, Any],
        metadata: Mapping[str, str] | None,
        payload: str = "{}",
    ) -> StoredFineTuning:
        """Adds a job, and the durable job that runs it.

        Raises:
            NotFound: the tenant has no such file.
            InvalidRequest: a file was not uploaded for fine-tuning.
            TooManyFineTunings: the tenant has too many that have not ended.
        """
        now = int(shared_time())

        def work(connection: Connection) -> StoredFineTuning:
            _check_open(connection, tenant)
            training = self._file(connection, tenant, training_file, "training_file")
            validation = None
            if validation_file is not None:
                validation = self._file(connection, tenant, validation_file, "validation_file")
            job = StoredFineTuning(
                id=f"ftjob-{uuid.uuid4().hex[:24]}",
                status="queued",
                model=model,
                training_file=training.id,
                training_sha256=training.sha256,
                validation_file=None if validation is None else validation.id,
                validation_sha256=None if validation is None else validation.sha256,
                suffix=suffix,
                seed=seed,
                hyperparameters=json.dumps(dict(hyperparameters)),
                options=json.dumps(dict(options)),
                metadata=None if metadata is None else json.dumps(dict(metadata)),
                created_at=now,
            )
            values = {name: getattr(job, name) for name in StoredFineTuning.__dataclass_fields__}
            connection.execute(sa.insert(fine_tuning_jobs).values(tenant=tenant, **values))
            insert_job(connection, tenant, TUNE_JOB, payload, id=job.id)
            add_event(connection, tenant, job.id, f"Created fine-tuning job: {job.id}")
            return job

        return await self._database.write(work)

    def _file(self, connection: Connection, tenant: Tenant, id: str, param: str) -> StoredFile:
        try:
            found = self._files.find(connection, tenant, id)
        except NotFound as error:
            error.param = param
            raise
        if found.purpose != "fine-tune":
            raise InvalidRequest(
                f"the file {id!r} was uploaded for {found.purpose!r}",
                fix="upload it with purpose 'fine-tune'",
                param=param,
            )
        return found

    async def check_open(self, tenant: Tenant) -> None:
        """Checks that the tenant may have one more job.

        Raises:
            TooManyFineTunings: it has too many that have not ended.
        """
        await self._database.read(lambda connection: _check_open(connection, tenant))

    async def get(self, tenant: Tenant, id: str) -> StoredFineTuning:
        """Returns the job."""
        return await self._database.read(lambda connection: find_job(connection, tenant, id))

    async def list(
        self,
        tenant: Tenant,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = None,
        without_metadata: bool = False,
    ) -> Page[StoredFineTuning]:
        """Returns one page of the tenant's jobs.

        Args:
            metadata: pairs that a job must have.
            without_metadata: whether only jobs without metadata are wanted.
        """
        columns = fine_tuning_jobs.c
        query = sa.select(*JOB_COLUMNS).where(columns.tenant == tenant)
        if without_metadata:
            query = query.where(columns.metadata.is_(None))
        wanted = dict(metadata or {})

        def work(connection: Connection) -> Page[StoredFineTuning]:
            def page(after: str | None, limit: int) -> Page[Any]:
                return page_of(
                    connection, query, columns.seq, columns.id, after=after, limit=limit, order="desc"
                )

            if not wanted:
                found = page(after, limit)
                return Page([StoredFineTuning(**row._mapping) for row in found.data], found.has_more)
            # A tenant has few jobs, so its metadata are read here: both databases then compare alike.
            kept: list[StoredFineTuning] = []
            last, more = after, True
            while more and len(kept) <= limit:
                found = page(last, 200)
                for row in found.data:
                    job = StoredFineTuning(**row._mapping)
                    if wanted.items() <= json.loads(job.metadata or "{}").items():
                        kept.append(job)
                more, last = found.has_more, found.data[-1].id if found.data else None
            return Page(kept[:limit], len(kept) > limit)

        return await self._database.read(work)

    async def pause(self, tenant: Tenant, id: str) -> StoredFineTuning:
        """Takes a queued job out of the queue, or asks the worker of a running one to stop after a checkpoint.

        Raises:
            InvalidRequest: the job has ended.
        """

        def work(connection: Connection) -> StoredFineTuning:
            job = find_job(connection, tenant, id, lock=True)
            if job.status == "paused":
                return job
            _require(job, ("queued", "running"), "paused")
            _move(connection, tenant, id, TUNE_JOB, PARKED_JOB)
            add_event(connection, tenant, id, "The job is paused: resume it to go on")
            return change(connection, tenant, id, {"status": "paused", "estimated_finish": None})

        return await self._database.write(work)

    async def resume(self, tenant: Tenant, id: str) -> StoredFineTuning:
        """Puts a paused job back into the queue, where it goes on from its last checkpoint.

        Raises:
            InvalidRequest: the job is not paused.
        """

        def work(connection: Connection) -> StoredFineTuning:
            job = find_job(connection, tenant, id, lock=True)
            _require(job, ("paused",), "resumed")
            _move(connection, tenant, id, PARKED_JOB, TUNE_JOB)
            add_event(connection, tenant, id, "The job is resumed")
            return change(connection, tenant, id, {"status": "queued"})

        return await self._database.write(work)

    async def cancel(self, tenant: Tenant, id: str) -> StoredFineTuning:
        """Ends a job. Its worker, if it has one, stops within a second.

        Raises:
            InvalidRequest: the job has ended.
        """
        now = int(shared_time())

        def work(connection: Connection) -> StoredFineTuning:
            job = find_job(connection, tenant, id, lock=True)
            if job.status == "cancelled":
                return job
            _require(job, OPEN, "cancelled")
            mine = (jobs.c.tenant == tenant) & (jobs.c.id == id)
            connection.execute(
                sa.update(jobs).where(mine, jobs.c.status == "running").values(cancel_requested=True)
            )
            connection.execute(
                sa.update(jobs)
                .where(mine, jobs.c.status == "queued")
                .values(status="cancelled", kind=TUNE_JOB, cancel_requested=True, finished_at=now)
            )
            add_event(connection, tenant, id, "The job was cancelled")
            return change(connection, tenant, id, _end("cancelled", now))

        cancelled = await self._database.write(work)
        await self.release(cancelled)
        return cancelled

    async def requeue(self, tenant: Tenant, id: str) -> None:
        """Brings an open job whose durable job has ended back into the queue; one that was cancelled there ends here too."""

        def work(connection: Connection) -> None:
            job = find_job(connection, tenant, id, lock=True)
            mine = (jobs.c.tenant == tenant) & (jobs.c.id == id)
            row = connection.execute(sa.select(jobs.c.status, jobs.c.payload).where(mine)).one_or_none()
            if job.ended or (row is not None and row.status in ("queued", "running")):
                return
            if row is not None and row.status == "cancelled":
                change(connection, tenant, id, _end("cancelled", int(shared_time())))
                return
            connection.execute(sa.delete(jobs).where(mine))
            kind = PARKED_JOB if job.status == "paused" else TUNE_JOB
            insert_job(connection, tenant, kind, "{}" if row is None else row.payload, id=id)

        await self._database.write(work)

    async def events(
        self, tenant: Tenant, id: str, *, after: str | None = None, limit: int = 20
    ) -> Page[StoredEvent]:
        """Returns one page of a job's events, the newest first."""
        columns = fine_tuning_events.c
        query = sa.select(*EVENT_COLUMNS).where(columns.tenant == tenant, columns.job_id == id)

        def work(connection: Connection) -> Page[StoredEvent]:
            find_job(connection, tenant, id)
            page = page_of(connection, query, columns.seq, columns.id, after=after, limit=limit, order="desc")
            return Page([StoredEvent(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def checkpoints(
        self, tenant: Tenant, id: str, *, after: str | None = None, limit: int = 10
    ) -> Page[StoredCheckpoint]:
        """Returns one page of a job's checkpoints, the newest first."""
        columns = fine_tuning_checkpoints.c
        query = sa.select(*CHECKPOINT_COLUMNS).where(columns.tenant == tenant, columns.job_id == id)

        def work(connection: Connection) -> Page[StoredCheckpoint]:
            find_job(connection, tenant, id)
            page = page_of(connection, query, columns.seq, columns.id, after=after, limit=limit, order="desc")
            return Page([StoredCheckpoint(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def release(self, job: StoredFineTuning) -> None:
        """Lets go of the bytes of a job that has ended."""
        found = [one for one in (job.training_sha256, job.validation_sha256) if one is not None]
        if not found:
            return
        values = {"training_sha256": None, "validation_sha256": None}
        mine = fine_tuning_jobs.c.id == job.id
        await self._database.write(
            lambda connection: (
                connection.execute(sa.update(fine_tuning_jobs).where(mine).values(values)).rowcount
            )
        )
        await self._files.release(found)


def find_job(connection: Connection, tenant: Tenant, id: str, *, lock: bool = False) -> StoredFineTuning:
    """Returns a job.

    Raises:
        NotFound: the tenant has none of this id.
    """
    columns = fine_tuning_jobs.c
    query = sa.select(*JOB_COLUMNS).where(columns.tenant == tenant, columns.id == id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"there is no fine-tuning job {id!r}", fix="it was never made: list the jobs")
    return StoredFineTuning(**row._mapping)


def change(connection: Connection, tenant: Tenant, id: str, values: Mapping[str, Any]) -> StoredFineTuning:
    """Changes a job and returns it."""
    mine = (fine_tuning_jobs.c.tenant == tenant) & (fine_tuning_jobs.c.id == id)
    connection.execute(sa.update(fine_tuning_jobs).where(mine).values(dict(values)))
    return find_job(connection, tenant, id)


def add_event(
    connection: Connection,
    tenant: Tenant,
    job_id: str,
    message: str,
    *,
    level: EventLevel = "info",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Adds an event to a job: one of metrics, if it has data."""
    connection.execute(
        sa.insert(fine_tuning_events).values(
            tenant=tenant,
            job_id=job_id,
            id=f"ftevent-{uuid.uuid4().hex[:24]}",
            created_at=int(shared_time()),
            level=level,
            type="message" if data is None else "metrics",
            message=message,
            data=None if data is None else json.dumps(dict(data)),
        )
    )


def _end(status: str, now: int) -> dict[str, Any]:
    return {"status": status, "finished_at": now, "estimated_finish": None}


def _move(connection: Connection, tenant: Tenant, id: str, before: str, after: str) -> None:
    """Changes the kind of a durable job that no worker has."""
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.tenant == tenant, jobs.c.id == id, jobs.c.kind == before, jobs.c.status == "queued")
        .values(kind=after)
    )


def _require(job: StoredFineTuning, statuses: Sequence[str], what: str) -> None:
    if job.status not in statuses:
        raise InvalidRequest(
            f"the fine-tuning job {job.id!r} is {job.status} and cannot be {what}",
            fix=f"only a job that is {' or '.join(statuses)} can be",
        )


def _check_open(connection: Connection, tenant: Tenant) -> None:
    columns = fine_tuning_jobs.c
    own = sa.select(sa.func.count()).where(columns.tenant == tenant, columns.status.in_(OPEN))
    if (count := connection.execute(own).scalar_one()) >= MOST_OPEN:
        error = TooManyFineTunings(
            f"{count} fine-tuning jobs have not ended, and a tenant may have {MOST_OPEN}",
            fix="wait until one has ended, or cancel it",
        )
        error.retry_after = 60
        raise error
