"""`AliasStore`: further names of models, which all tenants share, with the history of their changes."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.registry.ledger import (
    Ledger,
    LedgerChanged,
    Remembered,
    append_entry,
    ledger_changed,
    lock_ledger,
    trusted_entries,
)
from deepwell.storage.registry.split import takes_candidate
from deepwell.storage.registry.story import AliasState, Story, told
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.tables import model_alias_changes as changes
from deepwell.storage.tables import model_aliases as aliases

__all__ = [
    "MOST_ALIASES",
    "Alias",
    "AliasChange",
    "AliasNames",
    "AliasStore",
    "Canary",
    "change_in",
    "check_alias",
    "find_in",
    "require_as_told",
    "shown_state",
]

MOST_ALIASES: Final = 1000
"""Aliases of one database: every server process keeps them in memory."""

# Parts between slashes, none of which a client would shorten: a name stands in paths such as /v1/models/NAME.
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._:@-]*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_MOST_NAME: Final = 128
_MOST_MODEL: Final = 256


@dataclass(frozen=True, slots=True)
class Alias:
    """A further name of a model. `changed_by` is the id of a key, or a word for the way without one.

    During a roll-out, the `share` of users whom the hash with `rollout` selects gets the `candidate`.
    """

    name: str
    model: str
    changed_at: int
    changed_by: str
    candidate: str | None = None
    share: float | None = None
    rollout: str | None = None


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One change of an alias. Without `model` it was removed; with `candidate`, a roll-out began."""

    id: str
    name: str
    model: str | None
    changed_at: int
    changed_by: str
    candidate: str | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """The candidate of an alias, and who gets it."""

    model: str
    share: float
    rollout: str

    def takes(self, tenant: str, identity: str) -> bool:
        """Returns whether a user gets the candidate."""
        return takes_candidate(self.rollout, self.share, tenant, identity)


@dataclass(frozen=True, slots=True)
class AliasNames:
    """All aliases at one moment: models and candidates by name, and the number of the newest change.

    `refusal` is the reason for which none of them may be served: the ledger does not hold.
    """

    newest: int
    models: Mapping[str, str]
    canaries: Mapping[str, Canary] = field(default_factory=dict[str, Canary])
    refusal: LedgerChanged | None = None


_COLUMNS = [aliases.c[name] for name in Alias.__dataclass_fields__]
_CHANGE_COLUMNS = [changes.c[name] for name in AliasChange.__dataclass_fields__]
_NEWEST = sa.select(sa.func.max(changes.c.seq))
_MOST_READS: Final = 5  # of aliases that others change meanwhile
_ALL = sa.select(*_COLUMNS)


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
    """Aliases by name. They belong to the server and not to a tenant, as models do.

    Args:
        anchors: remember the head of the ledger after each change; None: nothing does.
    """

    def __init__(self, database: Database, anchors: Anchors | None = None) -> None:
        self._database = database
        self.ledger = Ledger(database, anchors)

    async def names(self, known: AliasNames | None = None) -> AliasNames:
        """Returns all aliases; `known` itself if it is current, for the price of one look-up by primary key.

        Raises:
            LedgerChanged: the ledger does not hold, or an alias is not as it says.
        """
        found = await self.look(known)
        if found.refusal is not None:
            raise found.refusal
        return found

    async def look(self, known: AliasNames | None = None) -> AliasNames:
        """Returns what `names` does, and the refusal with the aliases. One that was refused is verified again."""
        current = None if known is None or known.refusal is not None else known
        if current is not None and await self._database.read(_newest_in) == current.newest:
            return current
        refusal: LedgerChanged | None = None
        try:
            remembered = await self.ledger.remembered()
        except LedgerChanged as error:
            remembered, refusal = Remembered(), error

        def work(connection: Connection) -> AliasNames:
            read = _verified(connection, remembered, refusal)
            for _ in range(_MOST_READS):  # others may change aliases and ledger while they are read
                if read.refusal is None or _newest_in(connection) == read.newest:
                    break
                read = _verified(connection, remembered, refusal)
            return read

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
            InvalidRequest: a name is not valid, `model` is an alias itself, other aliases mean `name`, a roll-out of the
                alias is under way, or there are too many.
        """
        check_alias(name, model)

        def work(connection: Connection) -> Alias:
            lock_ledger(connection)
            found = find_in(connection, name)
            if found is not None and found.model == model:
                return found
            _require_no_rollout(found)
            made = change_in(connection, name, model, changed_by)
            before = {} if found is None else {"before": found.model}
            append_entry(connection, "alias", name, changed_by, {"model": model, **before})
            return made

        made = await self._database.write(work)
        await self.ledger.remember()
        return made

    async def remove(self, name: str, changed_by: str) -> None:
        """Removes an alias. Its history stays.

        Raises:
            NotFound: there is none of this name.
            InvalidRequest: a roll-out of it is under way.
        """

        def work(connection: Connection) -> None:
            lock_ledger(connection)
            _require_no_rollout(find_in(connection, name))
            if not connection.execute(sa.delete(aliases).where(aliases.c.name == name)).rowcount:
                raise _missing(name)
            _note(connection, name=name, model=None, changed_at=int(shared_time()), changed_by=changed_by)
            append_entry(connection, "alias_removed", name, changed_by, {})

        await self._database.write(work)
        await self.ledger.remember()

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


def require_as_told(story: Story, found: Sequence[Alias]) -> None:
    """Checks that aliases are as the ledger says. One that was set before there was a ledger is in no entry.

    Raises:
        LedgerChanged: one is not.
    """
    for one in found:
        state = AliasState(one.model, one.candidate, one.share, one.rollout)
        expected = story.aliases[one.name] if one.name in story.aliases else AliasState(one.model)
        if state != expected:
            raise ledger_changed(
                f"the alias {one.name!r} is not as it says: {shown_state(state)}, not {shown_state(expected)}",
                f"别名 {one.name!r} 与账本不符：现为 {shown_state(state)}，账本为 {shown_state(expected)}",
            )


def shown_state(state: AliasState | None) -> str:
    """Returns an alias in words."""
    if state is None:
        return "nothing"
    if state.candidate is None:
        return state.model
    share = "?" if state.share is None else f"{state.share:g}"
    return f"{state.model} with {state.candidate} for {share}"


def _contradiction(story: Story, found: Sequence[Alias]) -> LedgerChanged | None:
    try:
        require_as_told(story, found)
    except LedgerChanged as error:
        return error
    return None


def _verified(connection: Connection, remembered: Remembered, refusal: LedgerChanged | None) -> AliasNames:
    newest = _newest_in(connection)
    try:
        story = told(trusted_entries(connection, remembered))
    except LedgerChanged as error:
        story, refusal = Story(), refusal or error
    found = [Alias(*row) for row in connection.execute(_ALL)]
    return _names_of(newest, found, refusal or _contradiction(story, found))


def _newest_in(connection: Connection) -> int:
    return connection.execute(_NEWEST).scalar() or 0


def _names_of(newest: int, found: Sequence[Alias], refusal: LedgerChanged | None) -> AliasNames:
    canaries = {
        one.name: Canary(one.candidate, one.share, one.rollout)
        for one in found
        if one.candidate is not None and one.share is not None and one.rollout is not None
    }
    return AliasNames(newest, {one.name: one.model for one in found}, canaries, refusal)


def find_in(connection: Connection, name: str) -> Alias | None:
    """Returns an alias inside the caller's transaction, or None."""
    row = connection.execute(sa.select(*_COLUMNS).where(aliases.c.name == name)).one_or_none()
    return None if row is None else Alias(*row)


def change_in(
    connection: Connection, name: str, model: str, changed_by: str, canary: Canary | None = None
) -> Alias:
    """Makes an alias mean a model, and a candidate for some users, inside the caller's transaction, which tells the ledger.

    Raises:
        InvalidRequest: a model is an alias itself, other aliases mean `name`, or there are too many.
    """
    for one in (model,) if canary is None else (model, canary.model):
        _check_chain(connection, name, one)
    shown = {"candidate": canary and canary.model, "share": canary and canary.share}
    values = {"model": model, "changed_at": int(shared_time()), "changed_by": changed_by, **shown}
    row = {**values, "rollout": canary and canary.rollout}
    if find_in(connection, name) is None:
        _check_room(connection)
        connection.execute(sa.insert(aliases).values(name=name, **row))
    else:
        connection.execute(sa.update(aliases).where(aliases.c.name == name).values(**row))
    _note(connection, name=name, **values)
    made = find_in(connection, name)
    assert made is not None
    return made


def _require_no_rollout(alias: Alias | None) -> None:
    if alias is not None and alias.candidate is not None:
        raise InvalidRequest.of(
            "rollout_under_way", param="name", alias=alias.name, candidate=alias.candidate
        )


def _check_chain(connection: Connection, name: str, model: str) -> None:
    """Refuses an alias of an alias: every name is resolved in one step."""
    if (behind := find_in(connection, model)) is not None:
        raise InvalidRequest(
            f"{model!r} is an alias itself", fix=f"name its model: {behind.model}", param="model"
        )
    meant = (aliases.c.model == name) | (aliases.c.candidate == name)
    users = connection.scalars(sa.select(aliases.c.name).where(meant).limit(1)).all()
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


def _note(connection: Connection, **values: object) -> None:
    connection.execute(sa.insert(changes).values(id=f"change_{uuid.uuid4().hex}", **values))


def _missing(name: str) -> NotFound:
    fix = "GET /v1/aliases or `deepwell models alias list` shows them"
    return NotFound(f"there is no alias {name!r}", fix=fix, param="name")
