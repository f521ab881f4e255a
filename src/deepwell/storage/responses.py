"""Stored responses: the input and the result of each, and the chain they form through `previous_id`.

A response that is made in the background belongs to one process, under a lease as jobs have it: a running job of the same id,
made and deleted with the response's own changes. Whoever has lost the job can change nothing any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import JobStore, beat_jobs, delete_job, insert_job
from deepwell.storage.tables import jobs as jobs_table
from deepwell.storage.tables import responses

__all__ = ["DELETED", "RESPONSE_JOB", "ResponseStore", "StoredResponse"]

RESPONSE_JOB = "response"
"""Kind of the job that holds the lease of a background response, of the same id. It goes when the response ends."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response. `input`, `body` and `events` are JSON; only background responses have `events`."""

    id: str
    created_at: int
    status: str
    input: str
    body: str
    previous_id: str | None = None
    events: str | None = None


DELETED = "deleted"
"""Status of a row that only keeps its place in a chain."""

_COLUMNS = [responses.c[name] for name in StoredResponse.__dataclass_fields__]


class ResponseStore:
    """Responses by tenant and id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, tenant: Tenant, response: StoredResponse) -> None:
        """Stores a response that nobody works on any more, and replaces any with the same id."""

        def work(connection: Connection) -> None:
            _hold_previous(connection, tenant, response)
            connection.execute(sa.delete(responses).where(_key(tenant, response.id)))
            connection.execute(sa.insert(responses).values(tenant=tenant, **_values(response)))

        await self._database.write(work)

    async def begin(self, tenant: Tenant, response: StoredResponse, owner: str, lease_s: float) -> None:
        """Stores a response that `owner` works on. It must call `beat` within every `lease_s`, and `finish` at the end."""

        def work(connection: Connection) -> None:
            _hold_previous(connection, tenant, response)
            connection.execute(sa.insert(responses).values(tenant=tenant, owner=owner, **_values(response)))
            insert_job(connection, tenant, RESPONSE_JOB, "{}", id=response.id, owner=owner, lease_s=lease_s)

        await self._database.write(work)

    async def beat(self, ids: Collection[str], owner: str, lease_s: float) -> set[str]:
        """Keeps the responses that `owner` works on for another `lease_s`. Returns those that it still has."""
        return await self._database.write(
            lambda connection: beat_jobs(connection, RESPONSE_JOB, ids, owner, lease_s)
        )

    async def finish(self, tenant: Tenant, response: StoredResponse, owner: str) -> bool:
        """Replaces a response that `owner` works on.

        Returns False, and changes nothing, if it was cancelled, deleted or given up in the meantime.
        """

        def work(connection: Connection) -> bool:
            # The response's row is locked before the job's, as in `close` and `delete`, so that they cannot deadlock.
            connection.execute(sa.select(responses.c.id).where(_key(tenant, response.id)).with_for_update())
            if not delete_job(connection, tenant, RESPONSE_JOB, response.id, owner):
                return False
            _update(connection, tenant, response)
            return True

        return await self._database.write(work)

    async def close(
        self, tenant: Tenant, id: str, end: Callable[[StoredResponse], StoredResponse]
    ) -> StoredResponse:
        """Replaces an unfinished response by `end` of it, whoever works on it, and returns it. One that has ended stays.

        Raises:
            NotFound: the tenant has none of this id.
        """

        def work(connection: Connection) -> StoredResponse:
            query = sa.select(responses.c.owner, *_COLUMNS).where(_key(tenant, id)).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None:
                raise _missing(id)
            values = dict(row._mapping)
            working = values.pop("owner") is not None
            found = StoredResponse(**values)
            if not working:
                return found
            found = end(found)
            delete_job(connection, tenant, RESPONSE_JOB, id)
            _update(connection, tenant, found)
            return found

        return await self._database.write(work)

    async def drop_lease(self, tenant: Tenant, id: str) -> None:
        """Removes the lease of a response that is not there any more."""
        await self._database.write(lambda connection: delete_job(connection, tenant, RESPONSE_JOB, id))

    async def is_any_unfinished(self) -> bool:
        """Returns whether any process works on a response, or has left one."""
        query = sa.select(responses.c.id).where(responses.c.owner.is_not(None)).limit(1)
        return await self._database.read(lambda connection: connection.execute(query).first() is not None)

    async def take_silent(self, jobs: JobStore, owner: str, lease_s: float) -> Sequence[tuple[Tenant, str]]:
        """Takes over the responses whose owner has been silent for its lease, and returns their tenants and ids.

        The caller closes them. Call this often, because silence counts from the first call that sees it. Rows without a
        lease, which older versions wrote, get one here.
        """
        if await self._database.read(lambda connection: connection.execute(_UNLEASED).first() is not None):

            def adopt(connection: Connection) -> None:
                for row in connection.execute(_UNLEASED).all():
                    insert_job(
                        connection,
                        row.tenant,
                        RESPONSE_JOB,
                        "{}",
                        id=row.id,
                        owner=row.owner,
                        lease_s=lease_s,
                    )

            await self._database.write(adopt)
        found: list[tuple[Tenant, str]] = []
        while (job := await jobs.claim([RESPONSE_JOB], owner, lease_s)) is not None:
            found.append((job.tenant, job.id))
        return found

    async def get(self, tenant: Tenant, id: str) -> StoredResponse:
        """Returns the response.

        Raises:
            NotFound: the tenant has none of this id.
        """

        def work(connection: Connection) -> StoredResponse:
            row = connection.execute(sa.select(*_COLUMNS).where(_key(tenant, id))).one_or_none()
            if row is None:
                raise _missing(id)
            return StoredResponse(**row._mapping)

        return await self._database.read(work)

    async def some(self, tenant: Tenant, ids: Collection[str]) -> dict[str, StoredResponse]:
        """Returns those of the responses that the tenant has, by id."""

        def work(connection: Connection) -> dict[str, StoredResponse]:
            query = sa.select(*_COLUMNS).where(
                responses.c.tenant == tenant, responses.c.id.in_(sorted(ids)), _kept()
            )
            return {row.id: StoredResponse(**row._mapping) for row in connection.execute(query)}

        return await self._database.read(work)

    async def chain(self, tenant: Tenant, id: str) -> Sequence[StoredResponse]:
        """Returns the response and all those before it, the oldest first. Those that were deleted are passed over.

        Raises:
            NotFound: the tenant has no response of this id.
        """

        def work(connection: Connection) -> Sequence[StoredResponse]:
            own = responses.c.tenant == tenant
            depth = sa.literal(0).label("depth")
            chain = (
                sa.select(responses.c.id, responses.c.previous_id, depth)
                .where(own, responses.c.id == id)
                .cte("chain", recursive=True)
            )
            chain = chain.union_all(
                sa.select(responses.c.id, responses.c.previous_id, chain.c.depth + 1).where(
                    own, responses.c.id == chain.c.previous_id
                )
            )
            query = (
                sa.select(*_COLUMNS)
                .join(chain, responses.c.id == chain.c.id)
                .where(own, _kept())
                .order_by(chain.c.depth.desc())
            )
            rows = [StoredResponse(**row._mapping) for row in connection.execute(query)]
            if not rows or rows[-1].id != id:
                raise _missing(id)
            return rows

        return await self._database.read(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes the response. Only its place in the chain stays, so that responses behind it keep those before it.

        Raises:
            NotFound: the tenant has none of this id.
        """
        nothing = {"status": DELETED, "owner": None, "input": "[]", "body": "{}", "events": None}

        def work(connection: Connection) -> None:
            done = connection.execute(sa.update(responses).where(_key(tenant, id)).values(nothing))
            if not done.rowcount:
                raise _missing(id)
            delete_job(connection, tenant, RESPONSE_JOB, id)

        await self._database.free(work)


_UNLEASED = sa.select(responses.c.tenant, responses.c.id, responses.c.owner).where(
    responses.c.owner.is_not(None),
    ~sa.exists().where(
        jobs_table.c.tenant == responses.c.tenant,
        jobs_table.c.id == responses.c.id,
        jobs_table.c.kind == RESPONSE_JOB,
    ),
)


def _hold_previous(connection: Connection, tenant: Tenant, response: StoredResponse) -> None:
    """Keeps the response before a new one from being removed until the new one is stored and so needs it."""
    if response.previous_id is not None:
        one = (responses.c.tenant == tenant) & (responses.c.id == response.previous_id)
        connection.execute(sa.select(responses.c.id).where(one).with_for_update(read=True, key_share=True))


def _update(connection: Connection, tenant: Tenant, response: StoredResponse) -> None:
    statement = sa.update(responses).where(_key(tenant, response.id))
    connection.execute(statement.values(owner=None, **_values(response)))


def _kept() -> sa.ColumnElement[bool]:
    return responses.c.status != DELETED


def _key(tenant: Tenant, id: str) -> sa.ColumnElement[bool]:
    return (responses.c.tenant == tenant) & (responses.c.id == id) & _kept()


def _values(response: StoredResponse) -> dict[str, object]:
    return {name: getattr(response, name) for name in StoredResponse.__dataclass_fields__}


def _missing(id: str) -> NotFound:
    return NotFound(f"there is no response {id!r}", fix="it was never stored, or was deleted: check the id")
