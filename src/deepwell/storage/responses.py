"""Stored responses: the input and the result of each, and the chain they form through `previous_id`."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.tables import responses

__all__ = ["ResponseStore", "StoredResponse"]


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


_DELETED = "deleted"  # status of a row that only keeps its place in a chain
_COLUMNS = [responses.c[name] for name in StoredResponse.__dataclass_fields__]


class ResponseStore:
    """Responses by tenant and id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, tenant: Tenant, response: StoredResponse, *, working: bool = False) -> None:
        """Stores a response and replaces any with the same id. `working` means that this process continues to work on it.

        This recreates a response that was deleted or cancelled in the meantime. Callers that replace one use `finish`.
        """
        owner = _owner() if working else None

        def work(connection: Connection) -> None:
            key = (responses.c.tenant == tenant) & (responses.c.id == response.id)
            connection.execute(sa.delete(responses).where(key))
            connection.execute(sa.insert(responses).values(tenant=tenant, owner=owner, **_values(response)))

        await self._database.write(work)

    async def finish(self, tenant: Tenant, response: StoredResponse) -> bool:
        """Replaces a response that this process works on; returns False if it was deleted in the meantime."""

        def work(connection: Connection) -> bool:
            key = _key(tenant, response.id)
            done = connection.execute(sa.update(responses).where(key).values(owner=None, **_values(response)))
            return done.rowcount > 0

        return await self._database.write(work)

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
        nothing = {"status": _DELETED, "owner": None, "input": "[]", "body": "{}", "events": None}

        def work(connection: Connection) -> None:
            done = connection.execute(sa.update(responses).where(_key(tenant, id)).values(nothing))
            if not done.rowcount:
                raise _missing(id)

        await self._database.write(work)

    def fail_orphans(self, reason: str) -> None:
        """Marks the responses that `orphans` finds as failed, with `reason` as the error's message. Called at start."""
        for tenant, stored in self.orphans():
            body: dict[str, object] = msgspec.json.decode(stored.body)
            body |= {"status": "failed", "error": {"code": "server_error", "message": reason}}
            encoded = msgspec.json.encode(body).decode()
            self.give_up(tenant, replace(stored, status="failed", body=encoded))

    def orphans(self) -> Sequence[tuple[Tenant, StoredResponse]]:
        """Returns unfinished responses of processes on this machine that have ended. Called at start."""

        def work(connection: Connection) -> Sequence[tuple[Tenant, StoredResponse]]:
            rows = connection.execute(
                sa.select(responses.c.tenant, responses.c.owner, *_COLUMNS).where(
                    responses.c.owner.is_not(None)
                )
            ).all()
            found: list[tuple[Tenant, StoredResponse]] = []
            for row in rows:
                values = dict(row._mapping)
                tenant, owner = Tenant(values.pop("tenant")), values.pop("owner")
                if not _alive(owner):
                    found.append((tenant, StoredResponse(**values)))
            return found

        return self._database.write_now(work)

    def give_up(self, tenant: Tenant, response: StoredResponse) -> None:
        """Does the same as `finish` for a caller without an event loop."""
        statement = (
            sa.update(responses).where(_key(tenant, response.id)).values(owner=None, **_values(response))
        )
        self._database.write_now(lambda connection: connection.execute(statement).rowcount)


def _kept() -> sa.ColumnElement[bool]:
    return responses.c.status != _DELETED


def _key(tenant: Tenant, id: str) -> sa.ColumnElement[bool]:
    return (responses.c.tenant == tenant) & (responses.c.id == id) & _kept()


def _values(response: StoredResponse) -> dict[str, object]:
    return {name: getattr(response, name) for name in StoredResponse.__dataclass_fields__}


def _owner() -> str:
    return f"{os.uname().nodename[:40]}/{os.getpid()}"


def _alive(owner: str) -> bool:
    """Returns whether the process may still exist. A process on another machine counts as alive."""
    node, _, pid = owner.rpartition("/")
    if node != _owner().rpartition("/")[0]:
        return True
    if int(pid) == os.getpid():  # the process id was reused, as it always is in a container
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process exists and belongs to another user
    return True


def _missing(id: str) -> NotFound:
    return NotFound(f"there is no response {id!r}", fix="it was never stored, or was deleted: check the id")
