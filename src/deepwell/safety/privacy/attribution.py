"""Attribution: the rows of each table that are one person's."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from deepwell.safety.privacy.places import LABELS
from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import voter_of
from deepwell.storage.responses import DELETED
from deepwell.storage.tables import (
    batches,
    completions,
    conversations,
    feedback,
    files,
    responses,
    vector_store_files,
    vector_stores,
)
from deepwell.storage.tuning.sessions import session_job_ids

__all__ = ["Attribution", "Subject", "attributed", "parts"]

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Subject:
    """A person: a whole tenant, or one of its end users, by the identifier that its requests carry."""

    tenant: Tenant
    end_user: str = ""

    @property
    def scope(self) -> str:
        """`tenant` or `person`."""
        return "person" if self.end_user else "tenant"


@dataclass(slots=True)
class Attribution:
    """Ids of an end user's objects, in the order of the tables. Rows that belong to them are not listed."""

    responses: list[str] = field(default_factory=list[str])
    conversations: list[str] = field(default_factory=list[str])
    completions: list[int] = field(default_factory=list[int])
    batches: list[str] = field(default_factory=list[str])
    stores: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])
    feedback: list[int] = field(default_factory=list[int])
    sessions: list[str] = field(default_factory=list[str])  # jobs that train on what the end user said

    def __bool__(self) -> bool:
        found = (self.responses, self.conversations, self.completions, self.batches, self.stores, self.files)
        return any((*found, self.feedback, self.sessions))


async def attributed(database: Database, subject: Subject) -> Attribution:
    """Finds the objects that name an end user. It reads every row of the tenant that may carry a name, a page at a time."""
    found, me = Attribution(), subject.end_user
    talks: set[str] = set()
    async for row in _rows(database, responses, responses.c.id, subject.tenant, ("id", "status", "body")):
        body = _json(row.body)
        if row.status == DELETED or not isinstance(body, dict):
            continue
        if me in (body.get("safety_identifier"), body.get("user")) or _names(body.get("metadata"), me):
            found.responses.append(row.id)
            talk = body.get("conversation")
            if isinstance(talk, dict) and isinstance(talk.get("id"), str):
                talks.add(talk["id"])
    async for row in _rows(database, conversations, conversations.c.id, subject.tenant, ("id", "metadata")):
        if row.id in talks or _names(_json(row.metadata), me):
            found.conversations.append(row.id)
    answers = set(found.responses)
    columns = ("id", "seq", "end_user", "metadata")
    async for row in _rows(database, completions, completions.c.seq, subject.tenant, columns):
        if row.end_user == me or _names(_json(row.metadata), me):
            found.completions.append(row.seq)
            answers.add(row.id)
    columns, voter = ("seq", "end_user", "voter", "target_id"), voter_of(me)
    async for row in _rows(database, feedback, feedback.c.seq, subject.tenant, columns):
        if row.end_user == me or row.voter == voter or row.target_id in answers:
            found.feedback.append(row.seq)
    found.sessions += await database.read(lambda connection: session_job_ids(connection, subject.tenant, me))
    await _stores(database, subject, found, await _batches(database, subject, found))
    return found


async def _batches(database: Database, subject: Subject, found: Attribution) -> set[str]:
    named: set[str] = set()
    columns = ("id", "metadata", "input_file_id", "output_file_id", "error_file_id")
    async for row in _rows(database, batches, batches.c.seq, subject.tenant, columns):
        if _names(_json(row.metadata), subject.end_user):
            found.batches.append(row.id)
            named |= {one for one in (row.input_file_id, row.output_file_id, row.error_file_id) if one}
    return named


async def _stores(database: Database, subject: Subject, found: Attribution, named: set[str]) -> None:
    async for row in _rows(database, vector_stores, vector_stores.c.seq, subject.tenant, ("id", "metadata")):
        if _names(_json(row.metadata), subject.end_user):
            found.stores.append(row.id)
    mine, inside, elsewhere = set(found.stores), set[str](), set[str]()
    columns = ("store_id", "file_id", "attributes")
    async for row in _rows(database, vector_store_files, vector_store_files.c.seq, subject.tenant, columns):
        if _names(_json(row.attributes), subject.end_user):
            named.add(row.file_id)
        elif row.store_id in mine:
            inside.add(row.file_id)
        else:
            elsewhere.add(row.file_id)
    async for row in _rows(database, files, files.c.seq, subject.tenant, ("id",)):
        if row.id in named or (row.id in inside and row.id not in elsewhere):
            found.files.append(row.id)


def parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yields the items in parts that fit into one statement."""
    for begin in range(0, len(items), _PAGE):
        yield items[begin : begin + _PAGE]


async def _rows(
    database: Database,
    table: sa.Table,
    order: sa.ColumnElement[Any],
    tenant: Tenant,
    columns: Iterable[str],
) -> AsyncGenerator[Any]:
    """Yields the tenant's rows of a table. Each page is a read of its own: a long one would be cut off."""
    query = (
        sa.select(order.label("_order"), *(table.c[name] for name in columns))
        .where(table.c.tenant == tenant)
        .order_by(order)
        .limit(_PAGE)
    )
    last: Any = None
    while True:
        behind = query if last is None else query.where(order > last)
        page = await database.read(lambda connection, query=behind: connection.execute(query).all())
        for row in page:
            yield row
        if len(page) < _PAGE:
            return
        last = page[-1]._order


def _names(labels: Any, end_user: str) -> bool:
    return isinstance(labels, dict) and any(labels.get(label) == end_user for label in LABELS)


def _json(text: str | None) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None
