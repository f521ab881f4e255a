"""Stored conversations and their items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import conversation_items, conversations

__all__ = ["ConversationStore", "Item", "StoredConversation"]

MAX_ITEMS = 10_000  # per conversation: more would fit no context, and each request reads them all


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """One conversation; `metadata` is JSON."""

    id: str
    created_at: int
    metadata: str


@dataclass(frozen=True, slots=True)
class Item:
    """One item; `body` is JSON and holds the id too."""

    id: str
    body: str


class ConversationStore:
    """Conversations by tenant and id, each with its items in order.

    Calls with the id of an existing conversation raise `NotFound` if the tenant has no such conversation.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant: Tenant, conversation: StoredConversation, items: Sequence[Item]) -> None:
        """Stores a new conversation with its first items."""

        def work(connection: Connection) -> None:
            connection.execute(
                sa.insert(conversations).values(
                    tenant=tenant,
                    id=conversation.id,
                    created_at=conversation.created_at,
                    metadata=conversation.metadata,
                    updated_at=conversation.created_at,
                )
            )
            _append(connection, tenant, conversation.id, items)

        await self._database.write(work)

    async def get(self, tenant: Tenant, id: str) -> StoredConversation:
        """Returns the conversation without its items."""
        return await self._database.read(lambda connection: _find(connection, tenant, id))

    async def update(self, tenant: Tenant, id: str, metadata: str) -> StoredConversation:
        """Replaces the metadata."""

        def work(connection: Connection) -> StoredConversation:
            connection.execute(
                sa.update(conversations)
                .where(conversations.c.tenant == tenant, conversations.c.id == id)
                .values(metadata=metadata, updated_at=int(shared_time()))
            )
            return _find(connection, tenant, id)

        return await self._database.write(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes the conversation and its items."""

        def work(connection: Connection) -> None:
            key = (conversations.c.tenant == tenant) & (conversations.c.id == id)
            if not connection.execute(sa.delete(conversations).where(key)).rowcount:
                raise _missing(id)

        await self._database.free(work)

    async def append(self, tenant: Tenant, id: str, items: Sequence[Item]) -> None:
        """Adds items at the end.

        Raises:
            InvalidRequest: the conversation is full, or has an item of the same id.
        """
        await self._database.write(lambda connection: _append(connection, tenant, id, items))

    async def items(self, tenant: Tenant, id: str) -> Sequence[Item]:
        """Returns all items, in order."""

        def work(connection: Connection) -> Sequence[Item]:
            _find(connection, tenant, id)
            query = _items(tenant, id).order_by(conversation_items.c.position)
            return [Item(**row._mapping) for row in connection.execute(query)]

        return await self._database.read(work)

    async def list_items(
        self, tenant: Tenant, id: str, *, after: str | None, limit: int, order: Order
    ) -> Page[Item]:
        """Returns one page of items."""

        def work(connection: Connection) -> Page[Item]:
            _find(connection, tenant, id)
            columns = conversation_items.c
            page = page_of(
                connection,
                _items(tenant, id),
                columns.position,
                columns.id,
                after=after,
                limit=limit,
                order=order,
            )
            return Page([Item(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def item(self, tenant: Tenant, id: str, item_id: str) -> Item:
        """Returns one item; raises `NotFound` if it is not in the conversation."""

        def work(connection: Connection) -> Item:
            _find(connection, tenant, id)
            row = connection.execute(
                _items(tenant, id).where(conversation_items.c.id == item_id)
            ).one_or_none()
            if row is None:
                raise _missing_item(id, item_id)
            return Item(**row._mapping)

        return await self._database.read(work)

    async def delete_item(self, tenant: Tenant, id: str, item_id: str) -> StoredConversation:
        """Deletes one item and returns the conversation."""

        def work(connection: Connection) -> StoredConversation:
            found = _find(connection, tenant, id)
            columns = conversation_items.c
            done = connection.execute(
                sa.delete(conversation_items).where(
                    columns.tenant == tenant, columns.conversation_id == id, columns.id == item_id
                )
            )
            if not done.rowcount:
                raise _missing_item(id, item_id)
            _touch(connection, tenant, id)
            return found

        return await self._database.free(work)


def _find(connection: Connection, tenant: Tenant, id: str) -> StoredConversation:
    columns = conversations.c
    query = sa.select(columns.id, columns.created_at, columns.metadata).where(
        columns.tenant == tenant, columns.id == id
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _missing(id)
    return StoredConversation(**row._mapping)


def _items(tenant: Tenant, id: str) -> sa.Select[*tuple[Any, ...]]:
    columns = conversation_items.c
    return sa.select(columns.id, columns.body).where(columns.tenant == tenant, columns.conversation_id == id)


def _append(connection: Connection, tenant: Tenant, id: str, items: Sequence[Item]) -> None:
    # Without a lock on the row, two writers of PostgreSQL would number their items from the same position.
    columns = conversations.c
    locked = sa.select(columns.id).where(columns.tenant == tenant, columns.id == id).with_for_update()
    if connection.execute(locked).one_or_none() is None:
        raise _missing(id)
    if not items:
        return
    inside = conversation_items.c
    mine = (inside.tenant == tenant) & (inside.conversation_id == id)
    last, count = connection.execute(
        sa.select(sa.func.coalesce(sa.func.max(inside.position), -1), sa.func.count()).where(mine)
    ).one()
    if count + len(items) > MAX_ITEMS:
        raise InvalidRequest(
            f"the conversation {id!r} has {count} items and may have {MAX_ITEMS}",
            fix="delete items, or begin a new conversation",
            param="items",
        )
    taken = set(
        connection.scalars(sa.select(inside.id).where(mine, inside.id.in_([item.id for item in items])))
    )
    if taken or len({item.id for item in items}) < len(items):
        named = ", ".join(sorted(taken)) or "twice the same id"
        raise InvalidRequest(
            f"the conversation {id!r} would have two items of one id: {named}",
            fix="leave ids out",
            param="items",
        )
    rows = [
        {"tenant": tenant, "conversation_id": id, "position": last + number, "id": item.id, "body": item.body}
        for number, item in enumerate(items, 1)
    ]
    connection.execute(sa.insert(conversation_items), rows)
    _touch(connection, tenant, id)


def _touch(connection: Connection, tenant: Tenant, id: str) -> None:
    columns = conversations.c
    statement = sa.update(conversations).where(columns.tenant == tenant, columns.id == id)
    connection.execute(statement.values(updated_at=int(shared_time())))


def _missing(id: str) -> NotFound:
    return NotFound(f"there is no conversation {id!r}", fix="it was never made, or was deleted: check the id")


def _missing_item(id: str, item_id: str) -> NotFound:
    return NotFound(f"there is no item {item_id!r} in the conversation {id!r}", fix="list its items")
