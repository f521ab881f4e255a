"""Durable jobs: rows that workers claim under a lease, and that another worker takes over after a crash.

Only the clock of the process that waits for the end of a lease decides over it. Every claim and heartbeat raises a counter
in the row. A process that has seen the counter unchanged for the length of the lease, on its own monotonic clock, may take
the job over. A jump of a wall clock on any machine therefore neither ends a lease early nor keeps a dead worker's job for
hours. (Kubernetes elects leaders by the same rule: k8s.io/client-go/tools/leaderelection.)
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from deepwell.errors import NotFound, StorageError
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import jobs

__all__ = ["Job", "JobStatus", "JobStore", "beat_jobs", "delete_job", "insert_job"]

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Job:
    """One job as read from its row. `payload`, `progress` and `result` are JSON; times are Unix seconds."""

    id: str
    tenant: Tenant
    kind: str
    status: JobStatus
    payload: str
    progress: str | None
    result: str | None
    error: str | None
    attempts: int  # claims so far; together with `owner` it proves that a worker still has the job
    priority: int
    created_at: int
    started_at: int | None  # time of the first claim
    finished_at: int | None
    owner: str | None
    lease_until: float | None  # by the owner's wall clock, for display only: nothing depends on it
    cancel_requested: bool


_COLUMNS = [jobs.c[name] for name in Job.__dataclass_fields__]


@dataclass(frozen=True, slots=True)
class _Running:
    """The state of a running job that a waiting process watches."""

    seq: int
    tenant: Tenant
    attempts: int
    beat: int
    lease_s: float
    priority: int


_WATCHED = [jobs.c[name] for name in _Running.__dataclass_fields__]


class JobStore:
    """Jobs of all kinds. Workers claim jobs of any tenant; every other call names a tenant."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Opens the jobs in `database`. `clock` (seconds, never set back) measures how long a lease has been silent."""
        self._database = database
        self._clock = clock
        # For each set of kinds: (seq, attempts, beat) of running jobs -> time when this state was first seen.
        self._watched: dict[tuple[str, ...], dict[tuple[int, int, int], float]] = {}

    async def enqueue(
        self, tenant: Tenant, kind: str, payload: str, *, id: str | None = None, priority: int = 0
    ) -> Job:
        """Adds a job. If the tenant already has a job with this `id`, returns that one unchanged."""
        return await self._database.write(
            lambda connection: insert_job(connection, tenant, kind, payload, id=id, priority=priority)
        )

    async def enqueue_once(self, tenant: Tenant, kind: str, payload: str) -> Job:
        """Adds a job, unless the tenant has one of this kind and payload that has not ended: then returns that one."""
        same = sa.select(*_COLUMNS).where(
            jobs.c.tenant == tenant,
            jobs.c.kind == kind,
            jobs.c.payload == payload,
            jobs.c.status.in_(["queued", "running"]),
            jobs.c.cancel_requested.is_(False),
        )

        def work(connection: Connection) -> Job:
            found = connection.execute(same.limit(1)).one_or_none()
            return insert_job(connection, tenant, kind, payload) if found is None else _read(found)

        return await self._database.write(work)

    async def claim(
        self, kinds: Sequence[str], owner: str, lease_s: float, *, besides: Collection[Tenant] = ()
    ) -> Job | None:
        """Claims the oldest job of the highest priority among those queued and those with a silent worker, if any.

        Jobs of the tenants in `besides` are left where they are.

        The worker must call `heartbeat` within every `lease_s` seconds, and `finish` or `release` at the end. A job taken
        from a silent worker keeps its progress and may have `cancel_requested`. Idle workers should call this often, because
        silence counts from the first call that sees it. `owner` names the worker and must be unique at any time. A call
        that is cancelled puts what it claimed back into the queue.
        """
        chosen = {"kinds": kinds, "besides": list(besides)}

        def work(connection: Connection) -> Job | None:
            mine = {**chosen, "new_owner": owner, "now": int(shared_time()), **_lease(lease_s)}
            lost = self._silent_job(connection, kinds, besides)
            if lost is not None:
                place = {"priority_of": lost.priority, "seq_of": lost.seq}
                job = _run(connection, _TAKE_BEFORE, {**mine, **place})
                if (
                    job is None
                ):  # the next claim fails if the job's worker is alive after all, or another was first
                    was = {"seq_of": lost.seq, "attempts_of": lost.attempts, "beat_of": lost.beat}
                    job = _run(connection, _TAKE_OVER, {**mine, **was})
                if job is not None:
                    return job
            return _run(connection, _TAKE, mine)

        claiming = asyncio.ensure_future(self._database.write(work))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await asyncio.wait((claiming,))
            if claiming.exception() is None and (job := claiming.result()) is not None:
                with suppress(StorageError):  # then the job waits until its lease ends
                    await self.release(job)
            raise

    async def heartbeat(self, job: Job, lease_s: float, progress: str | None = None) -> Job | None:
        """Keeps the job for another `lease_s` and updates its progress if given. None means stop: another worker has it."""
        values = {**_proof(job), **_lease(lease_s), "new_progress": progress}
        return await self._database.write(lambda connection: _run(connection, _BEAT, values))

    async def finish(
        self,
        job: Job,
        status: Literal["succeeded", "failed", "cancelled"],
        *,
        result: str | None = None,
        error: str | None = None,
    ) -> bool:
        """Ends the job. Returns False if another worker has it; this worker's result is then discarded."""
        values = {
            **_proof(job),
            "new_status": status,
            "new_result": result,
            "new_error": error,
            "now": int(shared_time()),
        }
        return await self._database.write(lambda connection: _run(connection, _FINISH, values)) is not None

    async def release(self, job: Job) -> bool:
        """Puts the job back into the queue with its progress, for a worker that must stop. False: another worker has it."""
        values = _proof(job)
        return await self._database.write(lambda connection: _run(connection, _RELEASE, values)) is not None

    async def get(self, tenant: Tenant, id: str) -> Job:
        """Returns the job.

        Raises:
            NotFound: the tenant has none of this id.
        """
        return await self._database.read(lambda connection: _find(connection, tenant, id))

    async def list(
        self,
        tenant: Tenant,
        kind: str | None = None,
        *,
        status: JobStatus | None = None,
        besides: Collection[str] = (),
        after: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> Page[Job]:
        """Returns one page of the tenant's jobs, by default the newest first.

        Args:
            kind: of the jobs; None: any. Those in `besides` are left out.
            status: of the jobs; None: any.
        """
        query = sa.select(*_COLUMNS).where(jobs.c.tenant == tenant)
        query = query.where(jobs.c.kind.not_in(list(besides)))
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        if status is not None:
            query = query.where(jobs.c.status == status)

        def work(connection: Connection) -> Page[Job]:
            page = page_of(connection, query, jobs.c.seq, jobs.c.id, after=after, limit=limit, order=order)
            return Page([_read(row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def cancel(self, tenant: Tenant, id: str) -> Job:
        """Ends a queued job at once, or asks the worker of a running one to stop. A job that has ended stays unchanged.

        Raises:
            NotFound: the tenant has none of this id.
        """
        queued = jobs.c.status == "queued"
        statement = (
            sa.update(jobs)
            .where(jobs.c.tenant == tenant, jobs.c.id == id, jobs.c.status.in_(["queued", "running"]))
            .values(
                cancel_requested=True,
                status=sa.case((queued, "cancelled"), else_=jobs.c.status),
                finished_at=sa.case((queued, int(shared_time())), else_=jobs.c.finished_at),
            )
        )

        def work(connection: Connection) -> Job:
            connection.execute(statement)
            return _find(connection, tenant, id)

        return await self._database.write(work)

    def _silent_job(
        self, connection: Connection, kinds: Sequence[str], besides: Collection[Tenant]
    ) -> _Running | None:
        """Returns the first running job whose counter this process has seen unchanged for the length of its lease."""
        running = [_Running(*row) for row in connection.execute(_WATCH, {"kinds": kinds})]
        now, before = self._clock(), self._watched.get(tuple(kinds), {})
        keys = [(row.seq, row.attempts, row.beat) for row in running]
        since = {key: before.get(key, now) for key in keys}
        self._watched[tuple(kinds)] = since
        silent = [
            row
            for row, seen in zip(running, since.values(), strict=True)
            if now - seen >= row.lease_s and row.tenant not in besides
        ]
        return min(silent, key=lambda row: (-row.priority, row.seq), default=None)


def insert_job(
    connection: Connection,
    tenant: Tenant,
    kind: str,
    payload: str,
    *,
    id: str | None = None,
    priority: int = 0,
    owner: str | None = None,
    lease_s: float | None = None,
) -> Job:
    """Does the same as `JobStore.enqueue` within a write that also makes other rows, so that all or none are kept.

    With `owner` and `lease_s` the job never waits in the queue: it is its maker's from the start.
    """
    if id is not None:
        found = _run(connection, _FIND, {"tenant_of": tenant, "id_of": id})
        if found is not None:
            return found
    values = {
        "tenant": tenant,
        "id": id or f"job_{uuid.uuid4().hex}",
        "kind": kind,
        "status": "queued" if owner is None else "running",
        "payload": payload,
        "attempts": 0 if owner is None else 1,
        "priority": priority,
        "created_at": int(shared_time()),
        "started_at": None if owner is None else int(shared_time()),
        "owner": owner,
        "lease_s": lease_s,
        "lease_until": None if lease_s is None else shared_time() + lease_s,
        "beat": 0,
        "cancel_requested": False,
    }
    job = _run(connection, _INSERT, values)
    assert job is not None
    return job


def beat_jobs(
    connection: Connection, kind: str, ids: Collection[str], owner: str, lease_s: float
) -> set[str]:
    """Keeps those of the jobs that `owner` still has for another `lease_s`, in one statement, and returns their ids."""
    if not ids:
        return set()
    values = {"kind_of": kind, "ids": list(ids), "owner_of": owner, **_lease(lease_s)}
    return set(connection.scalars(_BEAT_ALL, values))


def delete_job(connection: Connection, tenant: Tenant, kind: str, id: str, owner: str | None = None) -> bool:
    """Deletes a job whose result lies elsewhere. With `owner`, only if that worker still has it. Returns whether it did."""
    statement = _DELETE if owner is None else _DELETE.where(jobs.c.owner == owner)
    values = {"tenant_of": tenant, "kind_of": kind, "id_of": id}
    return connection.execute(statement, values).rowcount > 0


# Statements are built once because building one takes several times longer than SQLite takes to run it.
_OF_KIND = jobs.c.kind.in_(bindparam("kinds", expanding=True))
_WATCH = sa.select(*_WATCHED).where(jobs.c.status == "running", _OF_KIND)
_QUEUED = (
    sa.select(jobs.c.seq)
    .where(jobs.c.status == "queued", _OF_KIND, jobs.c.tenant.not_in(bindparam("besides", expanding=True)))
    .order_by(jobs.c.priority.desc(), jobs.c.seq)
    .limit(1)
    .with_for_update(skip_locked=True)  # skips jobs that another server is claiming
)
_BEFORE = (jobs.c.priority > bindparam("priority_of")) | (
    (jobs.c.priority == bindparam("priority_of")) & (jobs.c.seq < bindparam("seq_of"))
)
_LEASED = {
    "lease_s": bindparam("new_lease_s"),
    "lease_until": bindparam("new_lease_until"),
    "beat": jobs.c.beat + 1,
}
_CLAIM = (
    sa.update(jobs)
    .values(
        status="running",
        owner=bindparam("new_owner"),
        attempts=jobs.c.attempts + 1,
        started_at=sa.func.coalesce(jobs.c.started_at, bindparam("now")),
        **_LEASED,
    )
    .returning(*_COLUMNS)
)
_TAKE = _CLAIM.where(jobs.c.seq == _QUEUED.scalar_subquery())
_TAKE_BEFORE = _CLAIM.where(jobs.c.seq == _QUEUED.where(_BEFORE).scalar_subquery())
_TAKE_OVER = _CLAIM.where(
    jobs.c.seq == bindparam("seq_of"),
    jobs.c.status == "running",
    jobs.c.attempts == bindparam("attempts_of"),
    jobs.c.beat == bindparam("beat_of"),
)
_OWNED = (
    sa.update(jobs)
    .where(
        jobs.c.tenant == bindparam("tenant_of"),
        jobs.c.id == bindparam("id_of"),
        jobs.c.status == "running",
        jobs.c.owner == bindparam("owner_of"),
        jobs.c.attempts == bindparam("attempts_of"),
    )
    .returning(*_COLUMNS)
)
_BEAT = _OWNED.values(
    progress=sa.func.coalesce(bindparam("new_progress", type_=sa.Text), jobs.c.progress), **_LEASED
)
_BEAT_ALL = (
    sa.update(jobs)
    .where(
        jobs.c.kind == bindparam("kind_of"),
        jobs.c.status == "running",
        jobs.c.owner == bindparam("owner_of"),
        jobs.c.id.in_(bindparam("ids", expanding=True)),
    )
    .values(**_LEASED)
    .returning(jobs.c.id)
)
_DELETE = sa.delete(jobs).where(
    jobs.c.tenant == bindparam("tenant_of"),
    jobs.c.id == bindparam("id_of"),
    jobs.c.kind == bindparam("kind_of"),
)
_RELEASE = _OWNED.values(status="queued", owner=None, lease_s=None, lease_until=None)
_FINISH = _OWNED.values(
    status=bindparam("new_status"),
    result=bindparam("new_result"),
    error=bindparam("new_error"),
    finished_at=bindparam("now"),
    owner=None,
    lease_s=None,
    lease_until=None,
)
_INSERT = sa.insert(jobs).returning(*_COLUMNS)
_FIND = sa.select(*_COLUMNS).where(jobs.c.tenant == bindparam("tenant_of"), jobs.c.id == bindparam("id_of"))


def _lease(lease_s: float) -> dict[str, Any]:
    return {"new_lease_s": lease_s, "new_lease_until": shared_time() + lease_s}


def _proof(job: Job) -> dict[str, Any]:
    return {"tenant_of": job.tenant, "id_of": job.id, "owner_of": job.owner, "attempts_of": job.attempts}


def _run(connection: Connection, statement: sa.Executable, values: dict[str, Any]) -> Job | None:
    row = connection.execute(statement, values).one_or_none()
    return None if row is None else _read(row)


def _find(connection: Connection, tenant: Tenant, id: str) -> Job:
    job = _run(connection, _FIND, {"tenant_of": tenant, "id_of": id})
    if job is None:
        raise NotFound(f"there is no job {id!r}", fix="it was never made: check the id")
    return job


def _read(row: sa.Row[Any]) -> Job:
    return Job(*row)
