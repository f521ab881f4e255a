"""`WorkStore`: jobs that compress a model or search for a prompt. They have no rows but those of `storage.jobs`.

Such a job keeps its request in the payload, with the ids of the files that it reads, and its result in the job.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import DeepwellError, NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import Job, JobStore, insert_job
from deepwell.storage.pages import Order, Page
from deepwell.storage.tables import installation, jobs

__all__ = [
    "COMPRESS_JOB",
    "OPTIMISE_JOB",
    "WORKS",
    "TooManyWorks",
    "WorkPayload",
    "WorkStore",
    "database_id",
    "made_of_files",
    "owner_of",
]

OPTIMISE_JOB: Final = "prompts.optimise"
"""Kind of the jobs that search for a better prompt."""

COMPRESS_JOB: Final = "compression"
"""Kind of the jobs that make a smaller model."""

WORKS: Final[Mapping[str, str]] = {OPTIMISE_JOB: "promptopt-", COMPRESS_JOB: "cmpjob-"}
"""Kinds with the beginning of their ids, which the folders of their runs have too."""

MOST_OPEN: Final = 8
"""Unfinished jobs of a kind that a tenant may have."""


_OPEN: Final = ("queued", "running")


class WorkPayload(msgspec.Struct, frozen=True):
    """A job as it was asked for.

    Attributes:
        asked: the checked request.
        files: ids of the files that it reads.
        key_id: key that asked for it; empty: the server has none.
    """

    asked: dict[str, Any]
    files: tuple[str, ...] = ()
    key_id: str = ""


class TooManyWorks(DeepwellError):
    """Raised when a tenant has as many unfinished jobs of a kind as it may."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class WorkStore:
    """Jobs of the kinds in `WORKS` by tenant and id. `JobStore` claims and ends them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs = JobStore(database)

    async def create(self, tenant: Tenant, kind: str, payload: WorkPayload) -> Job:
        """Queues a job.

        Raises:
            TooManyWorks: the tenant has too many of this kind that have not ended.
        """
        id = f"{WORKS[kind]}{uuid.uuid4().hex[:24]}"
        open_ones = sa.select(sa.func.count()).where(
            jobs.c.tenant == tenant, jobs.c.kind == kind, jobs.c.status.in_(_OPEN)
        )

        def work(connection: Connection) -> Job:
            if (count := connection.execute(open_ones).scalar_one()) >= MOST_OPEN:
                error = TooManyWorks(
                    f"{count} such jobs have not ended, and a tenant may have {MOST_OPEN}",
                    fix="wait until one has ended, or cancel it",
                )
                error.retry_after = 60
                raise error
            return insert_job(connection, tenant, kind, msgspec.json.encode(payload).decode(), id=id)

        return await self._database.write(work)

    async def get(self, tenant: Tenant, kind: str, id: str) -> Job:
        """Returns a job.

        Raises:
            NotFound: the tenant has none of this kind and id.
        """
        try:
            found = await self._jobs.get(tenant, id)
        except NotFound:
            found = None
        if found is None or found.kind != kind:
            raise NotFound(f"there is no job {id!r}", fix="it was never made, or is gone: list the jobs")
        return found

    async def list(
        self, tenant: Tenant, kind: str, *, after: str | None, limit: int, order: Order
    ) -> Page[Job]:
        """Returns one page of the tenant's jobs of a kind."""
        return await self._jobs.list(tenant, kind, after=after, limit=limit, order=order)

    async def cancel(self, tenant: Tenant, kind: str, id: str) -> Job:
        """Ends a queued job, or asks the worker of a running one to stop. A job that has ended stays unchanged.

        Raises:
            NotFound: the tenant has none of this kind and id.
        """
        await self.get(tenant, kind, id)
        return await self._jobs.cancel(tenant, id)

    async def owner(self, tenant: Tenant, job_id: str) -> str:
        """Returns the digest by which the result of a job is known as a tenant's."""
        return owner_of(await self._database.read(database_id), tenant, job_id)

    async def open_requests(self, kind: str) -> list[dict[str, Any]]:
        """Returns the requests of the jobs of a kind, of all tenants, that have not ended."""
        query = sa.select(jobs.c.payload).where(jobs.c.kind == kind, jobs.c.status.in_(_OPEN))
        payloads = await self._database.read(lambda connection: connection.scalars(query).all())
        return [msgspec.json.decode(one, type=WorkPayload).asked for one in payloads]

    async def unfinished(self) -> set[str]:
        """Returns the ids of the jobs of all tenants that have not ended."""
        query = sa.select(jobs.c.id).where(jobs.c.kind.in_(list(WORKS)), jobs.c.status.in_(_OPEN))
        return set(await self._database.read(lambda connection: connection.scalars(query).all()))


def database_id(connection: Connection) -> str:
    """Returns the random id of the database."""
    return connection.execute(sa.select(installation.c.id)).scalar_one()


def owner_of(database: str, tenant: Tenant, job_id: str) -> str:
    """Returns the digest by which what a job has left outside of the database is known as a tenant's of that database."""
    return hashlib.sha256(f"{database}\0{tenant}\0{job_id}".encode()).hexdigest()[:32]


def made_of_files(tenant: Tenant, file_ids: Sequence[str]) -> sa.ColumnElement[bool]:
    """Returns the condition of jobs whose payload names one of some files."""
    # Ids are random, so none is a part of anything else
    named = [jobs.c.payload.contains(id, autoescape=True) for id in file_ids]
    return (jobs.c.tenant == tenant) & jobs.c.kind.in_(list(WORKS)) & sa.or_(sa.false(), *named)
