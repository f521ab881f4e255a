"""`SessionStore`: the durable jobs that train adapters on conversations. They have no other rows: the adapter of a job that has
succeeded lies in its folder.

The id of a job is a digest of the text that it learns, so that a conversation finds its own, and only its own. The text itself
stands in the payload while the job needs it, and is taken out with its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import JobStatus
from deepwell.storage.tables import jobs

__all__ = ["SESSION_JOB", "SessionJob", "SessionPayload", "SessionStore", "session_job_ids"]

SESSION_JOB: Final = "session_adapter"
"""Kind of the durable jobs that train an adapter on a conversation."""

_PART: Final = 400  # ids in one statement


class SessionPayload(msgspec.Struct, frozen=True):
    """Purpose and data of a job.

    Attributes:
        model: the base.
        tokens: tokens of the turns that it learns.
        origin: id of the conversation, or `response` or `chat`; empty: of a route that keeps nothing.
        end_user: the person whom the request named.
        records: training records; None: the job has ended.
    """

    model: str
    tokens: int
    origin: str = ""
    end_user: str = ""
    records: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class SessionJob:
    """A job as the server looks at it."""

    tenant: Tenant
    id: str
    status: JobStatus
    payload: SessionPayload
    finished_at: int | None


_COLUMNS: Final = [jobs.c[name] for name in ("tenant", "id", "status", "payload", "finished_at")]


class SessionStore:
    """Session jobs by tenant and id. `storage.jobs` queues, claims and ends them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known(self, tenant: Tenant, ids: Sequence[str]) -> dict[str, SessionJob]:
        """Returns those of the tenant's jobs that have one of these ids."""

        def work(connection: Connection) -> dict[str, SessionJob]:
            found: list[SessionJob] = []
            for begin in range(0, len(ids), _PART):
                mine = _of(tenant) & jobs.c.id.in_(list(ids[begin : begin + _PART]))
                found += _read(connection, mine)
            return {one.id: one for one in found}

        return await self._database.read(work)

    async def of_origin(self, tenant: Tenant, origin: str) -> list[str]:
        """Returns the ids of the tenant's jobs that came of an origin."""
        found = await self._database.read(lambda connection: _read(connection, _of(tenant)))
        return [one.id for one in found if one.payload.origin == origin]

    async def all(self) -> list[SessionJob]:
        """Returns the jobs of all tenants, the oldest first."""
        return await self._database.read(lambda connection: _read(connection, jobs.c.kind == SESSION_JOB))

    async def forget_text(self, tenant: Tenant, id: str) -> None:
        """Takes the training records out of a job that needs them no more."""

        def work(connection: Connection) -> None:
            for one in _read(connection, _of(tenant) & (jobs.c.id == id)):
                text = msgspec.json.encode(msgspec.structs.replace(one.payload, records=None)).decode()
                connection.execute(sa.update(jobs).where(_of(tenant), jobs.c.id == id).values(payload=text))

        await self._database.write(work)

    async def delete(self, tenant: Tenant, ids: Sequence[str]) -> int:
        """Deletes jobs, also of those that run: their workers lose them. Returns how many there were."""

        def work(connection: Connection) -> int:
            total = 0
            for begin in range(0, len(ids), _PART):
                mine = _of(tenant) & jobs.c.id.in_(list(ids[begin : begin + _PART]))
                total += connection.execute(sa.delete(jobs).where(mine)).rowcount
            return total

        return await self._database.free(work) if ids else 0


def session_job_ids(connection: Connection, tenant: Tenant, end_user: str) -> list[str]:
    """Returns the ids of the jobs that learn what an end user said."""
    return [one.id for one in _read(connection, _of(tenant)) if one.payload.end_user == end_user]


def _of(tenant: Tenant) -> sa.ColumnElement[bool]:
    return (jobs.c.tenant == tenant) & (jobs.c.kind == SESSION_JOB)


def _read(connection: Connection, chosen: sa.ColumnElement[bool]) -> list[SessionJob]:
    rows = connection.execute(sa.select(*_COLUMNS).where(chosen).order_by(jobs.c.seq))
    return [
        SessionJob(
            Tenant(row.tenant),
            row.id,
            row.status,
            msgspec.json.decode(row.payload, type=SessionPayload),
            row.finished_at,
        )
        for row in rows
    ]
