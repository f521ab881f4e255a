"""`AgentStore`: runs of agents, and their steps, which are written once and in order.

A run and its durable job have one id. A step is kept under its number: a worker that has lost its lease cannot write where
another went on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import delete_job, insert_job
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import agent_runs, agent_steps, jobs

__all__ = [
    "AGENT_JOB",
    "MOST_OPEN",
    "AgentStatus",
    "AgentStore",
    "StepTaken",
    "StoredAgentRun",
    "StoredStep",
    "TooManyAgentRuns",
    "delete_runs",
]

AGENT_JOB: Final = "agent_run"
"""Kind of the durable jobs that run agents."""

AgentStatus = Literal[
    "queued", "in_progress", "requires_action", "completed", "incomplete", "cancelled", "failed"
]
MOST_OPEN: Final = 50  # runs of a tenant that have not ended
_OPEN: Final = ("queued", "in_progress", "requires_action")


class TooManyAgentRuns(DeepwellError):
    """Raised when a tenant has as many unfinished runs as it may."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class StepTaken(DeepwellError):
    """Raised when another process has written a step of this number: the run is its own now."""


@dataclass(frozen=True, slots=True)
class StoredAgentRun:
    """One run. `request` and `pending` are JSON; times are Unix seconds."""

    id: str
    status: AgentStatus
    model: str
    task: str
    request: str
    created_at: int
    text: str = ""
    reason: str = ""
    reached: str | None = None
    pending: str = "[]"
    turns: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    finished_at: int | None = None

    @property
    def ended(self) -> bool:
        """True if the run no longer changes."""
        return self.status not in _OPEN


@dataclass(frozen=True, slots=True)
class StoredStep:
    """One step. `body` is JSON."""

    number: int
    kind: str
    body: str


_RUNS = [agent_runs.c[name] for name in StoredAgentRun.__dataclass_fields__]
_STEPS = [agent_steps.c[name] for name in StoredStep.__dataclass_fields__]


class AgentStore:
    """Runs by tenant and id. Calls with an id raise `NotFound` if the tenant has no such run."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        tenant: Tenant,
        run: StoredAgentRun,
        steps: Sequence[StoredStep],
        *,
        payload: str | None,
    ) -> StoredAgentRun:
        """Stores a run with its first steps, and the durable job that does it; without a payload, the caller does.

        Raises:
            TooManyAgentRuns: the tenant has too many that have not ended.
        """

        def work(connection: Connection) -> StoredAgentRun:
            own = sa.select(sa.func.count()).where(
                agent_runs.c.tenant == tenant, agent_runs.c.status.in_(_OPEN)
            )
            if (count := connection.execute(own).scalar_one()) >= MOST_OPEN:
                error = TooManyAgentRuns(
                    f"{count} runs have not ended, and a tenant may have {MOST_OPEN}",
                    fix="wait until one has ended, or cancel it",
                )
                error.retry_after = 30
                raise error
            values = {name: getattr(run, name) for name in StoredAgentRun.__dataclass_fields__}
            connection.execute(sa.insert(agent_runs).values(tenant=tenant, **values))
            _insert(connection, tenant, run.id, steps)
            if payload is not None:
                insert_job(connection, tenant, AGENT_JOB, payload, id=run.id)
            return run

        return await self._database.write(work)

    async def get(self, tenant: Tenant, id: str) -> StoredAgentRun:
        """Returns a run."""
        return await self._database.read(lambda connection: _find(connection, tenant, id))

    async def list(
        self,
        tenant: Tenant,
        *,
        status: AgentStatus | None = None,
        after: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> Page[StoredAgentRun]:
        """Returns one page of the tenant's runs, by default the newest first."""
        query = sa.select(*_RUNS).where(agent_runs.c.tenant == tenant)
        if status is not None:
            query = query.where(agent_runs.c.status == status)

        def work(connection: Connection) -> Page[StoredAgentRun]:
            page = page_of(
                connection, query, agent_runs.c.seq, agent_runs.c.id, after=after, limit=limit, order=order
            )
            return Page([StoredAgentRun(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def steps(
        self, tenant: Tenant, id: str, *, after: int = -1, limit: int | None = None
    ) -> Sequence[StoredStep]:
        """Returns the steps behind a number, the oldest first."""

        def work(connection: Connection) -> Sequence[StoredStep]:
            _find(connection, tenant, id)
            return _steps(connection, tenant, id, after, limit)

        return await self._database.read(work)

    async def append(self, tenant: Tenant, id: str, step: StoredStep) -> bool:
        """Keeps the next step. Returns whether somebody asked for the end of the run.

        Raises:
            StepTaken: there is a step of this number, or the run has ended.
        """

        def work(connection: Connection) -> bool:
            run = _find(connection, tenant, id, lock=True)
            if run.ended or step.number != _count(connection, tenant, id):
                raise StepTaken(f"the run {id!r} was taken over by another process, or has ended")
            _insert(connection, tenant, id, [step])
            mine = sa.select(jobs.c.cancel_requested).where(jobs.c.tenant == tenant, jobs.c.id == id)
            return bool(connection.execute(mine).scalar_one_or_none())

        return await self._database.write(work)

    async def settle(self, tenant: Tenant, run: StoredAgentRun) -> StoredAgentRun:
        """Keeps what a run has come to, unless it has ended meanwhile. Returns it as it is."""

        def work(connection: Connection) -> StoredAgentRun:
            if (now := _find(connection, tenant, run.id, lock=True)).ended:
                return now
            return _change(connection, tenant, run)

        return await self._database.write(work)

    async def answer(
        self, tenant: Tenant, id: str, steps: Sequence[StoredStep], *, left: str | None, payload: str | None
    ) -> StoredAgentRun:
        """Keeps what people or clients said to a run that waits.

        Args:
            left: JSON of the calls that still wait; None: the run goes on.
            payload: of the job that goes on with it; None: the caller does.

        Raises:
            InvalidRequest: the run does not wait, or has gone on meanwhile.
        """

        def work(connection: Connection) -> StoredAgentRun:
            run = _find(connection, tenant, id, lock=True)
            if run.status != "requires_action" or steps[0].number != _count(connection, tenant, id):
                raise InvalidRequest(
                    f"the run {id!r} is {run.status} and waits for nothing that this answers",
                    fix="read the run again, and answer what it waits for",
                )
            _insert(connection, tenant, id, steps)
            if left is not None:
                return _change(connection, tenant, replace(run, pending=left))
            delete_job(connection, tenant, AGENT_JOB, id)
            if payload is not None:
                insert_job(connection, tenant, AGENT_JOB, payload, id=id)
            return _change(connection, tenant, replace(run, status="queued", pending="[]"))

        return await self._database.write(work)

    async def cancel(self, tenant: Tenant, id: str, end: StoredStep, reason: str) -> StoredAgentRun:
        """Ends a run that nobody is working on, or asks its worker to. A run that has ended stays unchanged.

        Args:
            end: the last step of a run that nobody is working on; its number is set here.
        """

        def work(connection: Connection) -> StoredAgentRun:
            run = _find(connection, tenant, id, lock=True)
            if run.ended:
                return run
            mine = (jobs.c.tenant == tenant) & (jobs.c.id == id)
            running = mine & (jobs.c.status == "running") & (run.status == "in_progress")
            if connection.execute(sa.update(jobs).where(running).values(cancel_requested=True)).rowcount:
                return run
            _insert(connection, tenant, id, [replace(end, number=_count(connection, tenant, id))])
            ended = {"status": "cancelled", "cancel_requested": True, "finished_at": int(shared_time())}
            connection.execute(
                sa.update(jobs).where(mine, jobs.c.status.in_(("queued", "running"))).values(ended)
            )
            cancelled = replace(
                run, status="cancelled", reason=reason, pending="[]", finished_at=int(shared_time())
            )
            return _change(connection, tenant, cancelled)

        return await self._database.write(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes a run that has ended, with its steps and its job.

        Raises:
            InvalidRequest: it has not ended.
        """

        def work(connection: Connection) -> None:
            run = _find(connection, tenant, id, lock=True)
            if not run.ended:
                raise InvalidRequest(f"the run {id!r} is {run.status}", fix="cancel it first")
            delete_runs(connection, tenant, [id])

        await self._database.free(work)


def delete_runs(connection: Connection, tenant: Tenant, ids: Sequence[str]) -> int:
    """Deletes runs with their steps and jobs, within a caller's write. Returns how many runs there were."""
    columns = agent_steps.c
    connection.execute(sa.delete(agent_steps).where(columns.tenant == tenant, columns.run_id.in_(ids)))
    for id in ids:
        delete_job(connection, tenant, AGENT_JOB, id)
    mine = (agent_runs.c.tenant == tenant) & agent_runs.c.id.in_(ids)
    return connection.execute(sa.delete(agent_runs).where(mine)).rowcount


def _find(connection: Connection, tenant: Tenant, id: str, *, lock: bool = False) -> StoredAgentRun:
    query = sa.select(*_RUNS).where(agent_runs.c.tenant == tenant, agent_runs.c.id == id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(
            f"there is no run {id!r}", fix="list them with `deepwell agent list` or GET /v1/agents/runs"
        )
    return StoredAgentRun(**row._mapping)


def _count(connection: Connection, tenant: Tenant, id: str) -> int:
    """Returns the number of the next step."""
    mine = (agent_steps.c.tenant == tenant) & (agent_steps.c.run_id == id)
    last = connection.execute(sa.select(sa.func.max(agent_steps.c.number)).where(mine)).scalar_one()
    return 0 if last is None else last + 1


def _steps(
    connection: Connection, tenant: Tenant, id: str, after: int, limit: int | None
) -> Sequence[StoredStep]:
    columns = agent_steps.c
    query = sa.select(*_STEPS).where(columns.tenant == tenant, columns.run_id == id, columns.number > after)
    rows = connection.execute(query.order_by(columns.number).limit(limit))
    return [StoredStep(*row) for row in rows]


def _insert(connection: Connection, tenant: Tenant, id: str, steps: Sequence[StoredStep]) -> None:
    rows = [
        {"tenant": tenant, "run_id": id, "number": one.number, "kind": one.kind, "body": one.body}
        for one in steps
    ]
    if rows:
        connection.execute(sa.insert(agent_steps), rows)


def _change(connection: Connection, tenant: Tenant, run: StoredAgentRun) -> StoredAgentRun:
    values = {name: getattr(run, name) for name in StoredAgentRun.__dataclass_fields__}
    mine = (agent_runs.c.tenant == tenant) & (agent_runs.c.id == run.id)
    connection.execute(sa.update(agent_runs).where(mine).values(values))
    return run
