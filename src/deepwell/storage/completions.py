"""Stored chat completions: those whose request set `store`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import completion_metadata, completions

__all__ = ["CompletionStore", "StoredCompletion"]


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """One completion; `messages` and `body` are JSON. `end_user` is who the request named, so that it can be erased."""

    id: str
    created_at: int
    model: str
    messages: str
    body: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    end_user: str | None = None


_COLUMNS = [completions.c[name] for name in StoredCompletion.__dataclass_fields__]


class CompletionStore:
    """Completions by tenant and id, in order of arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant: Tenant, completion: StoredCompletion) -> None:
        """Stores a completion."""

        def work(connection: Connection) -> None:
            values = {name: getattr(completion, name) for name in StoredCompletion.__dataclass_fields__}
            values["metadata"] = json.dumps(dict(completion.metadata))
            done = connection.execute(sa.insert(completions).values(tenant=tenant, **values))
            assert done.inserted_primary_key is not None
            _label(connection, done.inserted_primary_key[0], completion.metadata)

        await self._database.write(work)

    async def get(self, tenant: Tenant, id: str) -> StoredCompletion:
        """Returns the completion.

        Raises:
            NotFound: the tenant has none of this id.
        """
        return await self._database.read(lambda connection: _find(connection, tenant, id))

    async def list(
        self,
        tenant: Tenant,
        *,
        after: str | None,
        limit: int,
        order: Order,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[StoredCompletion]:
        """Returns one page of the completions of `model` that have all the `metadata`."""
        query = sa.select(*_COLUMNS).where(completions.c.tenant == tenant)
        if model is not None:
            query = query.where(completions.c.model == model)
        for key, value in (metadata or {}).items():
            labels = completion_metadata.alias()
            query = query.where(
                sa.exists().where(
                    labels.c.seq == completions.c.seq, labels.c.key == key, labels.c.value == value
                )
            )

        def work(connection: Connection) -> Page[StoredCompletion]:
            page = page_of(
                connection, query, completions.c.seq, completions.c.id, after=after, limit=limit, order=order
            )
            return Page([_read(row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def update(self, tenant: Tenant, id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        """Replaces the metadata.

        Raises:
            NotFound: the tenant has none of this id.
        """

        def work(connection: Connection) -> StoredCompletion:
            key = (completions.c.tenant == tenant) & (completions.c.id == id)
            connection.execute(sa.update(completions).where(key).values(metadata=json.dumps(dict(metadata))))
            found = _find(connection, tenant, id)
            seq = connection.execute(sa.select(completions.c.seq).where(key)).scalar_one()
            connection.execute(sa.delete(completion_metadata).where(completion_metadata.c.seq == seq))
            _label(connection, seq, metadata)
            return found

        return await self._database.write(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes the completion.

        Raises:
            NotFound: the tenant has none of this id.
        """

        def work(connection: Connection) -> None:
            key = (completions.c.tenant == tenant) & (completions.c.id == id)
            if not connection.execute(sa.delete(completions).where(key)).rowcount:
                raise _missing(id)

        await self._database.free(work)


def _find(connection: Connection, tenant: Tenant, id: str) -> StoredCompletion:
    row = connection.execute(
        sa.select(*_COLUMNS).where(completions.c.tenant == tenant, completions.c.id == id)
    ).one_or_none()
    if row is None:
        raise _missing(id)
    return _read(row)


def _read(row: sa.Row[tuple[object, ...]]) -> StoredCompletion:
    values = dict(row._mapping)
    values["metadata"] = json.loads(values["metadata"])
    return StoredCompletion(**values)


def _label(connection: Connection, seq: int, metadata: Mapping[str, str]) -> None:
    if metadata:
        rows = [{"seq": seq, "key": key, "value": value} for key, value in metadata.items()]
        connection.execute(sa.insert(completion_metadata), rows)


def _missing(id: str) -> NotFound:
    return NotFound(
        f"there is no stored completion {id!r}", fix="send store: true with the request to keep one"
    )
