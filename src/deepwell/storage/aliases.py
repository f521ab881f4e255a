"""`AliasStore`: further names of models, which all tenants share, with the history of their changes."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Database
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import model_alias_changes as changes
from deepwell.storage.tables import model_aliases as aliases

__all__ = ["MOST_ALIASES", "Alias", "AliasChange", "AliasNames", "AliasStore", "check_alias"]

MOST_ALIASES: Final = 1000
"""Aliases of one database: every server process keeps them in memory."""

# Parts between slashes, none of which a client would shorten: a name stands in paths such as /v1/models/NAME.
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._:@-]*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_MOST_NAME: Final = 128
_MOST_MODEL: Final = 256


@dataclass(frozen=True, slots=True)
class Alias:
    """A further name of a model. `changed_by` is the id of a key, or a word for the way without one."""

    name: str
    model: str
    changed_at: int
    changed_by: str


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One change of an alias. Without `model` it was removed."""

    id: str
    name: str
    model: str | None
    changed_at: int
    changed_by: str


@dataclass(frozen=True, slots=True)
class AliasNames:
    """All aliases at one moment: models by name, and the number of the newest change."""

    newest: int
    models: Mapping[str, str]


_COLUMNS = [aliases.c[name] for name in Alias.__dataclass_fields__]
_CHANGE_COLUMNS = [changes.c[name] for name in AliasChange.__dataclass_fields__]
_NEWEST = sa.select(sa.func.max(changes.c.seq))
_ALL = sa.select(aliases.c.name, aliases.c.model)


def check_alias(name: str, model: str) -> None:
    """Checks that a model may be called `name`.

    Raises:
        InvalidRequest: no alias can have this name, or no model the other.
    """
    if len(name) > _MOST_NAME or not _NAME.fullmatch(name) or "::" in name:
        raise InvalidRequest(
            f"{name[:_MOST_NAME]!r} cannot be an alias",
            fix=f"use at most {_MOST_NAME} letters, digits and . _ : @ - /, a letter or digit first in each part",
            param="name",
        )
    # The separator of tenants' own adapters: an alias means the same for everybody.
    if not 1 <= len(model) <= _MOST_MODEL or not model.isprintable() or "::" in model:
        raise InvalidRequest(
            f"an alias means a model whose name is 1 to {_MOST_MODEL} printable characters without '::'",
            fix="name a served model, or an adapter that all tenants share",
            param="model",
        )
    if name == model:
        raise InvalidRequest(
            f"the alias {name!r} would mean itself", fix="name the model that it means", param="model"
        )


class AliasStore:
    """Aliases by name. They belong to the server and not to a tenant, as models do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def names(self, known: AliasNames | None = None) -> AliasNames:
        """Returns all aliases; `known` itself if it is current, for the price of one look-up by primary key."""

        def work(connection: Connection) -> AliasNames:
            newest = connection.execute(_NEWEST).scalar() or 0
            if known is not None and known.newest == newest:
                return known
            return AliasNames(newest, {row.name: row.model for row in connection.execute(_ALL)})

        return await self._database.read(work)

    async def list(self, *, after: str | None = None, limit: int = 20, order: Order = "asc") -> Page[Alias]:
        """Returns one page of the aliases, by default the oldest first."""

        def work(connection: Connection) -> Page[Alias]:
            query = sa.select(*_COLUMNS)
            page = page_of(
                connection, query, aliases.c.seq, aliases.c.name, after=after, limit=limit, order=order
            )
            return Page([Alias(*row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def set(self, name: str, model: str, changed_by: str) -> Alias:
        """Makes `name` mean `model`. One that means it already stays unchanged, and its history too.

        Raises:
            InvalidRequest: a name is not valid, `model` is an alias itself, other aliases mean `name`, or there are too many.
        """
        check_alias(name, model)
        values = {"model": model, "changed_at": int(time.time()), "changed_by": changed_by}

        def work(connection: Connection) -> Alias:
            found = _find(connection, name)
            if found is not None and found.model == model:
                return found
            _check_chain(connection, name, model)
            if found is None:
                _check_room(connection)
                connection.execute(sa.insert(aliases).values(name=name, **values))
            else:
                connection.execute(sa.update(aliases).where(aliases.c.name == name).values(**values))
            _note(connection, name=name, **values)
            made = _find(connection, name)
            assert made is not None
            return made

        return await self._database.write(work)

    async def remove(self, name: str, changed_by: str) -> None:
        """Removes an alias. Its history stays.

        Raises:
            NotFound: there is none of this name.
        """

        def work(connection: Connection) -> None:
            if not connection.execute(sa.delete(aliases).where(aliases.c.name == name)).rowcount:
                raise _missing(name)
            _note(connection, name=name, model=None, changed_at=int(time.time()), changed_by=changed_by)

        await self._database.write(work)

    async def history(
        self, name: str, *, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> Page[AliasChange]:
        """Returns one page of the changes of an alias, by default the newest first.

        Raises:
            NotFound: there never was one of this name.
        """
        query = sa.select(*_CHANGE_COLUMNS).where(changes.c.name == name)

        def work(connection: Connection) -> Page[AliasChange]:
            if connection.execute(query.limit(1)).first() is None:
                raise _missing(name)
            page = page_of(
                connection, query, changes.c.seq, changes.c.id, after=after, limit=limit, order=order
            )
            return Page([AliasChange(*row) for row in page.data], page.has_more)

        return await self._database.read(work)


def _find(connection: Connection, name: str) -> Alias | None:
    row = connection.execute(sa.select(*_COLUMNS).where(aliases.c.name == name)).one_or_none()
    return None if row is None else Alias(*row)


def _check_chain(connection: Connection, name: str, model: str) -> None:
    """Refuses an alias of an alias: every name is resolved in one step."""
    if (behind := _find(connection, model)) is not None:
        raise InvalidRequest(
            f"{model!r} is an alias itself", fix=f"name its model: {behind.model}", param="model"
        )
    users = connection.scalars(sa.select(aliases.c.name).where(aliases.c.model == name).limit(1)).all()
    if users:
        raise InvalidRequest(
            f"{name!r} is the model that the alias {users[0]!r} means",
            fix=f"choose another name, or change {users[0]!r} first",
            param="name",
        )


def _check_room(connection: Connection) -> None:
    count = connection.execute(sa.select(sa.func.count()).select_from(aliases)).scalar_one()
    if count >= MOST_ALIASES:
        raise InvalidRequest(
            f"there are {count} aliases already", fix="remove one that nobody uses", param="name"
        )


def _note(connection: Connection, *, name: str, model: str | None, changed_at: int, changed_by: str) -> None:
    values = {"name": name, "model": model, "changed_at": changed_at, "changed_by": changed_by}
    connection.execute(sa.insert(changes).values(id=f"change_{uuid.uuid4().hex}", **values))


def _missing(name: str) -> NotFound:
    fix = "GET /v1/aliases or `deepwell models alias list` shows them"
    return NotFound(f"there is no alias {name!r}", fix=fix, param="name")
