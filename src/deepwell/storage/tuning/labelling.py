"""Labelling projects: texts of a file, and the labels that people give them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import labelling_items as items
from deepwell.storage.tables import labelling_projects as projects

__all__ = ["LabelState", "LabellingStore", "NewItem", "Progress", "StoredItem", "StoredProject"]

_ROWS = 500  # of one statement


@dataclass(frozen=True, slots=True)
class NewItem:
    """A text of a new project.

    Attributes:
        record: JSON of the record that it comes from, where that is more than the text.
        label: its class, where the file has it.
    """

    text: str
    record: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class StoredProject:
    """A project.

    Attributes:
        classes: names of the classes, in the order of their keys.
        unreadable: number of records of the file that could not be read.
    """

    id: str
    name: str
    file_id: str
    classes: tuple[str, ...]
    strategy: str
    items: int
    unreadable: int
    created_at: int


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A text of a project; `position` is its place in the file, from 0."""

    position: int
    text: str
    record: str | None
    label: str | None
    skipped: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Numbers of labelled texts by class, and of skipped ones."""

    labels: dict[str, int]
    skipped: int


@dataclass(frozen=True, slots=True)
class LabelState:
    """The labels so far: classes by position in the order in which they were given, and skipped positions likewise."""

    labels: dict[int, str]
    skipped: list[int]


class LabellingStore:
    """Projects by tenant and id, in order of creation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        tenant: Tenant,
        *,
        name: str,
        file_id: str,
        classes: Sequence[str],
        strategy: str,
        texts: Sequence[NewItem],
        unreadable: int = 0,
    ) -> StoredProject:
        """Stores a project with its texts; both are there, or neither."""
        found = StoredProject(
            f"label_{uuid.uuid4().hex}",
            name,
            file_id,
            tuple(classes),
            strategy,
            len(texts),
            unreadable,
            int(shared_time()),
        )

        def work(connection: Connection) -> None:
            values = {field: getattr(found, field) for field in StoredProject.__dataclass_fields__}
            values |= {"classes": json.dumps(found.classes, ensure_ascii=False), "actions": 0}
            connection.execute(sa.insert(projects).values(tenant=tenant, **values))
            for first in range(0, len(texts), _ROWS):
                rows = [
                    {
                        "tenant": tenant,
                        "project_id": found.id,
                        "position": position,
                        "text": one.text,
                        "record": one.record,
                        "label": one.label,
                        "skipped": 0,
                        "action": None,
                    }
                    for position, one in enumerate(texts[first : first + _ROWS], first)
                ]
                connection.execute(sa.insert(items), rows)

        await self._database.write(work)
        return found

    async def get(self, tenant: Tenant, id: str) -> StoredProject:
        """Returns a project.

        Raises:
            NotFound: the tenant has none of this id.
        """
        return await self._database.read(lambda connection: _find(connection, tenant, id))

    async def list(
        self, tenant: Tenant, *, after: str | None, limit: int, order: Order
    ) -> Page[StoredProject]:
        """Returns one page of the tenant's projects.

        Raises:
            InvalidRequest: none of them has the id `after`.
        """
        query = sa.select(*_COLUMNS).where(projects.c.tenant == tenant)

        def work(connection: Connection) -> Page[StoredProject]:
            page = page_of(
                connection, query, projects.c.seq, projects.c.id, after=after, limit=limit, order=order
            )
            return Page([_project(row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes a project with its texts and labels.

        Raises:
            NotFound: the tenant has none of this id.
        """

        def work(connection: Connection) -> None:
            _find(connection, tenant, id)
            connection.execute(sa.delete(items).where(_of(tenant, id)))
            connection.execute(sa.delete(projects).where(projects.c.tenant == tenant, projects.c.id == id))

        await self._database.free(work)

    async def progress(self, tenant: Tenant, id: str) -> Progress:
        """Returns how far a project is."""
        query = (
            sa.select(items.c.label, items.c.skipped, sa.func.count())
            .where(_of(tenant, id), _said())
            .group_by(items.c.label, items.c.skipped)
        )

        def work(connection: Connection) -> Progress:
            labels: dict[str, int] = {}
            skipped = 0
            for label, _, count in connection.execute(query):
                if label is None:
                    skipped += count
                else:
                    labels[label] = labels.get(label, 0) + count
            return Progress(labels, skipped)

        return await self._database.read(work)

    async def state(self, tenant: Tenant, id: str) -> LabelState:
        """Returns what people said of the texts of a project so far. Labels of the file come first."""
        query = (
            sa.select(items.c.position, items.c.label)
            .where(_of(tenant, id), _said())
            .order_by(sa.func.coalesce(items.c.action, 0), items.c.position)
        )

        def work(connection: Connection) -> LabelState:
            rows = connection.execute(query).all()
            return LabelState(
                {row.position: row.label for row in rows if row.label is not None},
                [row.position for row in rows if row.label is None],
            )

        return await self._database.read(work)

    async def texts(self, tenant: Tenant, id: str) -> Sequence[str]:
        """Returns all texts of a project by position."""
        query = sa.select(items.c.text).where(_of(tenant, id)).order_by(items.c.position)
        return await self._database.read(lambda connection: connection.scalars(query).all())

    async def items(self, tenant: Tenant, id: str, positions: Sequence[int]) -> Sequence[StoredItem]:
        """Returns some texts of a project, in the order of `positions`."""
        query = sa.select(*_ITEM).where(_of(tenant, id), items.c.position.in_(positions))

        def work(connection: Connection) -> Sequence[StoredItem]:
            found = {row.position: _item(row) for row in connection.execute(query)}
            return [found[one] for one in positions if one in found]

        return await self._database.read(work)

    async def labelled(self, tenant: Tenant, id: str, *, after: int = -1) -> Sequence[StoredItem]:
        """Returns the next labelled texts behind a position; none at the end."""
        query = (
            sa.select(*_ITEM)
            .where(_of(tenant, id), items.c.label.is_not(None), items.c.position > after)
            .order_by(items.c.position)
            .limit(_ROWS)
        )
        return await self._database.read(lambda connection: [_item(row) for row in connection.execute(query)])

    async def say(self, tenant: Tenant, id: str, position: int, label: str | None) -> None:
        """Labels a text, or with None skips it. What was said of it before is forgotten.

        Raises:
            NotFound: the tenant has no such project.
            InvalidRequest: it has no such class, or no such text.
        """

        def work(connection: Connection) -> None:
            project = _find(connection, tenant, id)
            if label is not None and label not in project.classes:
                raise InvalidRequest(
                    f"{label!r} is no class of this project",
                    fix=f"send one of {', '.join(map(repr, project.classes))}",
                    param="label",
                )
            mine = (projects.c.tenant == tenant) & (projects.c.id == id)
            action = connection.execute(
                sa.update(projects)
                .where(mine)
                .values(actions=projects.c.actions + 1)
                .returning(projects.c.actions)
            ).scalar_one()
            changed = connection.execute(
                sa.update(items)
                .where(_of(tenant, id), items.c.position == position)
                .values(label=label, skipped=int(label is None), action=action)
            ).rowcount
            if not changed:
                raise InvalidRequest(
                    f"the project has no item {position}",
                    fix=f"send an index from 0 to {project.items - 1}",
                    param="index",
                )

        await self._database.write(work)

    async def undo(self, tenant: Tenant, id: str) -> StoredItem | None:
        """Takes back the last thing that somebody said, and returns the text it was about; None: nothing is left to undo.

        Raises:
            NotFound: the tenant has no such project.
        """

        def work(connection: Connection) -> StoredItem | None:
            _find(connection, tenant, id)
            query = (
                sa.select(*_ITEM)
                .where(_of(tenant, id), items.c.action.is_not(None))
                .order_by(items.c.action.desc())
                .limit(1)
            )
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            connection.execute(
                sa.update(items)
                .where(_of(tenant, id), items.c.position == row.position)
                .values(label=None, skipped=0, action=None)
            )
            return StoredItem(row.position, row.text, row.record, None, False)

        return await self._database.write(work)


_COLUMNS = [projects.c[name] for name in StoredProject.__dataclass_fields__]
_ITEM = [items.c[name] for name in StoredItem.__dataclass_fields__]


def _of(tenant: Tenant, id: str) -> sa.ColumnElement[bool]:
    return (items.c.tenant == tenant) & (items.c.project_id == id)


def _said() -> sa.ColumnElement[bool]:
    return items.c.label.is_not(None) | (items.c.skipped == 1)


def _find(connection: Connection, tenant: Tenant, id: str) -> StoredProject:
    query = sa.select(*_COLUMNS).where(projects.c.tenant == tenant, projects.c.id == id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(
            f"there is no labelling project {id!r}", fix="list them with GET /v1/labelling/projects"
        )
    return _project(row)


def _project(row: sa.Row[Any]) -> StoredProject:
    values: dict[str, Any] = dict(row._mapping)
    values["classes"] = tuple(json.loads(values["classes"]))
    return StoredProject(**values)


def _item(row: sa.Row[Any]) -> StoredItem:
    return StoredItem(row.position, row.text, row.record, row.label, bool(row.skipped))
