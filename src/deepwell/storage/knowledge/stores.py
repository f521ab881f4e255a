"""`VectorStores`: the rows of vector stores. Every change of a store's chunks raises its `generation`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import chunks, vector_store_files, vector_stores

__all__ = [
    "DAY_S",
    "StoredStore",
    "VectorStores",
    "bounded",
    "find_store",
    "next_generation",
    "raise_generation",
    "set_embedder",
]

DAY_S = 86_400
_TOUCH_S = 60  # a store that is used all the time is written to this often, not with every search
_KEPT_EXPIRED_S = 30 * DAY_S  # for which an expired store is still listed
_ROWS = 200  # deleted in one write


@dataclass(frozen=True, slots=True)
class StoredStore:
    """One vector store. Times are Unix seconds; `metadata` and `chunking` are JSON.

    Attributes:
        embedder: name of the model that embeds its texts.
        embedder_hash: identity of that model's vectors; empty until the first text is embedded.
        generation: number of changes of its chunks so far.
        removals_from: the first generation whose removals are still recorded.
    """

    id: str
    created_at: int
    name: str
    description: str | None
    metadata: str
    embedder: str
    embedder_hash: str
    dimensions: int
    chunking: str | None
    expires_after_days: int | None
    last_active_at: int
    expires_at: int | None
    generation: int
    removals_from: int

    def expired(self, now: float | None = None) -> bool:
        """Returns whether its time is over."""
        return self.expires_at is not None and self.expires_at <= (shared_time() if now is None else now)


_COLUMNS = [vector_stores.c[name] for name in StoredStore.__dataclass_fields__]


class VectorStores:
    """Vector stores by tenant and id. Calls with an id raise `NotFound` if the tenant has no such store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        tenant: Tenant,
        *,
        name: str,
        embedder: str,
        description: str | None = None,
        metadata: str = "{}",
        chunking: str | None = None,
        expires_after_days: int | None = None,
        unique: bool = False,
    ) -> StoredStore:
        """Creates an empty store.

        Raises:
            InvalidRequest: `unique` is set and the tenant has a store of this name.
        """
        now = int(shared_time())
        store = StoredStore(
            id=f"vs_{uuid.uuid4().hex}",
            created_at=now,
            name=name,
            description=description,
            metadata=metadata,
            embedder=embedder,
            embedder_hash="",
            dimensions=0,
            chunking=chunking,
            expires_after_days=expires_after_days,
            last_active_at=now,
            expires_at=None if expires_after_days is None else now + expires_after_days * DAY_S,
            generation=0,
            removals_from=1,
        )

        def work(connection: Connection) -> StoredStore:
            if unique and _named(connection, tenant, name):
                raise InvalidRequest(
                    f"there is a knowledge base {name!r} already",
                    fix="choose another name, or add to that one",
                )
            values = {one: getattr(store, one) for one in StoredStore.__dataclass_fields__}
            connection.execute(sa.insert(vector_stores).values(tenant=tenant, **values))
            return store

        return await self._database.write(work)

    async def get(self, tenant: Tenant, id: str) -> StoredStore:
        """Returns the store, expired or not."""
        return await self._database.read(lambda connection: find_store(connection, tenant, id))

    async def named(self, tenant: Tenant, name: str) -> StoredStore:
        """Returns the store of an id, else the newest store of a name.

        Raises:
            NotFound: the tenant has neither. The fix lists the names that there are.
        """

        def work(connection: Connection) -> StoredStore:
            mine = vector_stores.c.tenant == tenant
            row = connection.execute(
                sa.select(*_COLUMNS).where(mine, vector_stores.c.id == name)
            ).one_or_none()
            found = None if row is None else StoredStore(*row)
            found = found or _named(connection, tenant, name)
            if found is None:
                names = connection.scalars(
                    sa.select(vector_stores.c.name).where(mine).order_by(vector_stores.c.seq.desc()).limit(8)
                ).all()
                there = ", ".join(map(repr, names))
                raise NotFound.of(
                    "knowledge_unknown", name=name, there=there or "none yet", there_zh=there or "暂无"
                )
            return found

        return await self._database.read(work)

    async def list(
        self,
        tenant: Tenant,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> Page[StoredStore]:
        """Returns one page of the stores."""
        query = sa.select(*_COLUMNS).where(vector_stores.c.tenant == tenant)

        def work(connection: Connection) -> Page[StoredStore]:
            page = page_of(
                connection,
                bounded(connection, query, vector_stores.c.seq, vector_stores.c.id, before, order),
                vector_stores.c.seq,
                vector_stores.c.id,
                after=after,
                limit=limit,
                order=order,
            )
            return Page([StoredStore(*row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def update(self, tenant: Tenant, id: str, **values: Any) -> StoredStore:
        """Changes `name`, `description`, `metadata` or `expires_after_days`. A change counts as activity."""

        def work(connection: Connection) -> StoredStore:
            store = find_store(connection, tenant, id)
            now = int(shared_time())
            days = values.get("expires_after_days", store.expires_after_days)
            connection.execute(
                sa.update(vector_stores)
                .where(vector_stores.c.tenant == tenant, vector_stores.c.id == id)
                .values(
                    **values,
                    last_active_at=now,
                    expires_at=None if days is None else now + days * DAY_S,
                )
            )
            return find_store(connection, tenant, id)

        return await self._database.write(work)

    async def touch(self, tenant: Tenant, store: StoredStore) -> None:
        """Counts a use of the store, on which its expiry depends. It is written once a minute at most."""
        now = int(shared_time())
        if now - store.last_active_at < _TOUCH_S:
            return
        statement = (
            sa.update(vector_stores)
            .where(vector_stores.c.tenant == tenant, vector_stores.c.id == store.id)
            .values(
                last_active_at=now,
                expires_at=(
                    None if store.expires_after_days is None else now + store.expires_after_days * DAY_S
                ),
            )
        )
        await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def adopt(
        self, tenant: Tenant, id: str, *, embedder: str, embedder_hash: str, dimensions: int
    ) -> StoredStore:
        """Records the embedder of a store that has none yet. A store that has one stays as it is."""
        statement = (
            sa.update(vector_stores)
            .where(
                vector_stores.c.tenant == tenant,
                vector_stores.c.id == id,
                vector_stores.c.embedder_hash == "",
            )
            .values(embedder=embedder, embedder_hash=embedder_hash, dimensions=dimensions)
        )

        def work(connection: Connection) -> StoredStore:
            connection.execute(statement)
            return find_store(connection, tenant, id)

        return await self._database.write(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes the store with its chunks and sources. The files stay; `Chunks.sweep` removes vectors that nobody uses."""

        def work(connection: Connection) -> None:
            find_store(connection, tenant, id)
            connection.execute(
                sa.delete(vector_stores).where(vector_stores.c.tenant == tenant, vector_stores.c.id == id)
            )

        await self._database.free(work)

    async def counts(self, tenant: Tenant, ids: list[str]) -> dict[str, dict[str, int]]:
        """Returns for every store the number of its files by status, and `usage_bytes` of all."""
        columns = vector_store_files.c
        query = (
            sa.select(columns.store_id, columns.status, sa.func.count(), sa.func.sum(columns.usage_bytes))
            .where(columns.tenant == tenant, columns.store_id.in_(ids))
            .group_by(columns.store_id, columns.status)
        )

        def work(connection: Connection) -> dict[str, dict[str, int]]:
            found: dict[str, dict[str, int]] = {id: {"usage_bytes": 0} for id in ids}
            for store_id, status, count, size in connection.execute(query):
                found[store_id][status] = count
                found[store_id]["usage_bytes"] += int(size or 0)
            return found

        return await self._database.read(work)

    async def chunk_count(self, tenant: Tenant, id: str) -> int:
        """Returns the number of chunks of the store."""
        query = sa.select(sa.func.count()).where(chunks.c.tenant == tenant, chunks.c.store_id == id)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())

    async def newest_embedder(self) -> str | None:
        """Returns the name of the embedder of the newest store of all tenants, or None if there is no store."""
        query = sa.select(vector_stores.c.embedder).order_by(vector_stores.c.seq.desc()).limit(1)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def missing(self, ids: list[str]) -> list[str]:
        """Returns those ids of stores that no tenant has any more."""
        query = sa.select(vector_stores.c.id).where(vector_stores.c.id.in_(ids))
        there = await self._database.read(lambda connection: set(connection.scalars(query)))
        return [id for id in ids if id not in there]

    async def sweep(self) -> int:
        """Deletes stores that expired more than 30 days ago, of all tenants. Returns their number."""
        before = int(shared_time()) - _KEPT_EXPIRED_S
        chosen = sa.select(vector_stores.c.seq).where(vector_stores.c.expires_at < before).limit(_ROWS)
        statement = sa.delete(vector_stores).where(vector_stores.c.seq.in_(chosen))
        return await self._database.write(lambda connection: connection.execute(statement).rowcount)


def find_store(connection: Connection, tenant: Tenant, id: str, *, lock: bool = False) -> StoredStore:
    """Returns the store, and with `lock` keeps other writers from changing it until the transaction ends.

    Raises:
        NotFound: the tenant has none of this id.
    """
    query = sa.select(*_COLUMNS).where(vector_stores.c.tenant == tenant, vector_stores.c.id == id)
    if lock:
        query = query.with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(
            f"there is no vector store {id!r}", fix="list the vector stores: it may have been deleted"
        )
    return StoredStore(*row)


def set_embedder(
    connection: Connection, tenant: Tenant, id: str, embedder: str, embedder_hash: str, dimensions: int
) -> None:
    """Records another embedder of a store inside the caller's transaction."""
    connection.execute(
        sa.update(vector_stores)
        .where(vector_stores.c.tenant == tenant, vector_stores.c.id == id)
        .values(
            embedder=embedder,
            embedder_hash=embedder_hash,
            dimensions=dimensions,
            generation=vector_stores.c.generation + 1,
        )
    )


def raise_generation(connection: Connection, tenant: Tenant, id: str) -> None:
    """Counts a change that searches must see, although no chunk changed, inside the caller's transaction."""
    connection.execute(
        sa.update(vector_stores)
        .where(vector_stores.c.tenant == tenant, vector_stores.c.id == id)
        .values(generation=vector_stores.c.generation + 1)
    )


def next_generation(connection: Connection, tenant: Tenant, id: str) -> int:
    """Raises the generation of a store by one, which locks it for the transaction, and returns it.

    Chunks of one store therefore become visible in the order of their generations, on every database.
    """
    statement = (
        sa.update(vector_stores)
        .where(vector_stores.c.tenant == tenant, vector_stores.c.id == id)
        .values(generation=vector_stores.c.generation + 1, last_active_at=int(shared_time()))
        .returning(vector_stores.c.generation)
    )
    found = connection.execute(statement).scalar_one_or_none()
    if found is None:
        raise NotFound(f"there is no vector store {id!r}", fix="it was deleted meanwhile")
    return found


def bounded(
    connection: Connection,
    query: sa.Select[Any],
    position: sa.ColumnElement[int],
    id: sa.ColumnElement[str],
    before: str | None,
    order: Order,
) -> sa.Select[Any]:
    """Returns the query for the rows in front of the one whose `id` is `before`.

    Raises:
        InvalidRequest: no row has that id.
    """
    if before is None:
        return query
    cursor = connection.execute(query.with_only_columns(position).where(id == before)).scalar_one_or_none()
    if cursor is None:
        raise InvalidRequest(
            f"'before' names {before!r}, which is not in this list",
            fix="use the first id of the page behind",
            param="before",
        )
    return query.where(position < cursor if order == "asc" else position > cursor)


def _named(connection: Connection, tenant: Tenant, name: str) -> StoredStore | None:
    row = connection.execute(
        sa.select(*_COLUMNS)
        .where(vector_stores.c.tenant == tenant, vector_stores.c.name == name)
        .order_by(vector_stores.c.seq.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else StoredStore(*row)
