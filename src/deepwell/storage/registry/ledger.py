"""`Ledger`: everything that happened to the models behind aliases, in one chain of hashes.

Entries are appended in the transaction that makes the change: neither is ever there without the other. An entry tells the
alias as it is afterwards, so that the newest entry of an alias has to agree with the alias itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from deepwell.errors import InvalidRequest, StorageError
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditRow, AuditText, Chain
from deepwell.storage.safety.chain import GENESIS, NOTHING, AuditRecord, Head, sealed, storable
from deepwell.storage.safety.raw import as_text, is_undecodable, raw_rows
from deepwell.storage.safety.verify import Kind, Problem, verify_chain
from deepwell.storage.tables import model_ledger, model_ledger_head

__all__ = [
    "CHAIN",
    "HEAD_ID",
    "Entry",
    "Ledger",
    "LedgerChanged",
    "Remembered",
    "append_entry",
    "check_author",
    "entries_in",
    "ledger_changed",
    "lock_ledger",
    "trusted_entries",
]

CHAIN: Final = "models"
"""Name of the one chain, in each of its entries."""

HEAD_ID: Final = 1
"""Id of the one row that holds the head."""

_log = logging.getLogger("deepwell.storage")
_MOST_ENTRY: Final = 1 << 20
_MOST_MS: Final = 1 << 47  # the year 6429, which calendars know
_MOST_BY: Final = 64  # as the columns of aliases have it
_head = model_ledger_head.c
_columns = model_ledger.c
_ENTRY, _HASH = as_text(_columns.entry), as_text(_columns.hash)
_LOCK = sa.select(_head.sequence, _head.hash).with_for_update()
_MOST_INTEGER = (1 << 63) - 1  # a larger one can be read, but not be written again
_LONG_NUMBER = re.compile(r"\d{19}")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class LedgerChanged(StorageError):
    """Raised if the ledger does not hold: entries cannot be read, tell no story, or break the chain."""

    code = "ledger_changed"


def ledger_changed(reason: str, reason_zh: str) -> LedgerChanged:
    """Returns the error for a ledger that does not hold."""
    return LedgerChanged.of("ledger_changed", reason=reason, reason_zh=reason_zh)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, decoded. `fields` has what the event tells besides."""

    sequence: int
    at_ms: int
    event: str
    alias: str
    by: str
    fields: Mapping[str, Any]
    hash: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """The head that a host remembers outside of the database, None if it does not, and the file that it does so in."""

    head: Head | None = None
    path: str = ""


class Ledger:
    """The ledger of a database. `anchors` remember its head outside of the database; None: nothing does."""

    def __init__(self, database: Database, anchors: Anchors | None = None) -> None:
        self._database = database
        self._anchors = anchors

    async def entries(self, alias: str | None = None) -> Sequence[Entry]:
        """Returns all entries, or those of an alias, in order.

        Raises:
            LedgerChanged: one cannot be read.
        """
        return await self._database.read(lambda connection: entries_in(connection, alias))

    async def readable(self, alias: str | None = None) -> Sequence[Entry]:
        """Returns the entries that can be read, in order, for whoever looks for damage."""
        query = sa.select(_ENTRY, _HASH, _columns.alias).order_by(_columns.sequence)

        def work(connection: Connection) -> list[Entry]:
            found: list[Entry] = []
            for text, hash, filed in raw_rows(connection, query):
                with suppress(LedgerChanged):
                    if alias in (None, filed):
                        found.append(_entry(text, storable(hash)))
            return found

        return await self._database.read(work)

    async def remembered(self) -> Remembered:
        """Returns what this host remembers, to be read before the entries that are compared with it.

        Raises:
            LedgerChanged: the anchor cannot be read.
        """
        try:
            path = "" if self._anchors is None else str(self._anchors.path(CHAIN))
            return Remembered(await asyncio.to_thread(self.anchor, CHAIN), path)
        except (OSError, ValueError) as error:
            raise ledger_changed(f"its anchor cannot be read: {error}", f"其锚点无法读取：{error}") from None

    async def remember(self) -> None:
        """Remembers the head outside of the database, after a change.

        A ledger that does not continue what is remembered was cut off or replaced, by an older copy perhaps. Its head is not
        remembered, and the log says so: the next changes would hide what is missing.
        """
        if self._anchors is None:
            return
        try:
            before = await asyncio.to_thread(self._anchors.read, CHAIN)
            head, hash = await self._database.read(lambda connection: _heads_in(connection, before))
            if before is not None and hash != before.hash:
                _log.warning(
                    "the ledger of models lacks the entry %d that this host remembers, or has another in its place: "
                    "run `deepwell models log`",
                    before.sequence,
                )
            elif head.sequence:
                await asyncio.to_thread(self._anchors.advance, CHAIN, head)
        except (OSError, ValueError) as error:
            _log.warning("the ledger of models has no anchor, so a cut may go unnoticed: %s", error)

    def rows(self, chain: str, after: int, limit: int) -> tuple[Chain, Sequence[AuditRow]]:
        """Returns the chain as it is now, and its next entries in order, as they were hashed. Blocks."""
        return self._database.read_now(lambda connection: _rows_in(connection, chain, after, limit))

    def texts(self, chain: str, after: int, through: int) -> Sequence[AuditText]:
        """Returns nothing: no entry has a text beside it."""
        return ()

    def anchor(self, chain: str) -> Head | None:
        """Returns the remembered head, or None.

        Raises:
            OSError: the anchor cannot be read.
            ValueError: it is damaged.
        """
        return None if self._anchors is None else self._anchors.read(chain)


def lock_ledger(connection: Connection) -> Head:
    """Makes other writers of aliases and of the ledger wait until the caller's transaction ends. Returns the head."""
    head = connection.execute(_LOCK).one_or_none()
    if head is None:
        connection.execute(sa.insert(model_ledger_head).values(id=HEAD_ID, sequence=0, hash=GENESIS))
        head = connection.execute(_LOCK).one()
    return Head(head.sequence, head.hash)


def check_author(by: str) -> None:
    """Checks that a change names who made it.

    Raises:
        InvalidRequest: it does not.
    """
    if not 1 <= len(by) <= _MOST_BY or not by.isprintable():
        raise InvalidRequest(
            "the ledger of models names who made a change",
            fix=f"give a name of 1 to {_MOST_BY} printable characters",
            param="by",
        )


def append_entry(
    connection: Connection,
    event: str,
    alias: str,
    by: str,
    fields: Mapping[str, Any],
    at_ms: int | None = None,
) -> Entry:
    """Appends an entry inside the caller's transaction, which commits it with the change that it tells of.

    A caller that first looks at what there is locks the ledger before (`lock_ledger`).

    Raises:
        InvalidRequest: a field has a number that JSON cannot hold, the entry is too long, or `by` is no name.
    """
    check_author(by)
    _check_fields(fields)
    head = lock_ledger(connection)
    moment = int(shared_time() * 1000) if at_ms is None else at_ms
    record = AuditRecord(event, moment, {"alias": alias, "by": by, **fields})
    [(sequence, at_ms, text, hash)] = sealed([record], CHAIN, head, {})
    if len(text) > _MOST_ENTRY:
        raise InvalidRequest(
            f"the ledger of models holds entries of {_MOST_ENTRY} characters, and this has {len(text)}",
            fix="keep long configurations and metrics in files beside the artefact",
        )
    connection.execute(
        sa.insert(model_ledger).values(sequence=sequence, at_ms=at_ms, alias=alias, entry=text, hash=hash)
    )
    connection.execute(sa.update(model_ledger_head).values(sequence=sequence, hash=hash))
    return _entry(text, hash)


def entries_in(connection: Connection, alias: str | None = None) -> list[Entry]:
    """Returns all entries, or those of an alias, inside the caller's transaction.

    Raises:
        LedgerChanged: one cannot be read.
    """
    query = sa.select(_ENTRY, _HASH).order_by(_columns.sequence)
    if alias is not None:
        query = query.where(_columns.alias == alias)
    try:
        return [_entry(text, hash) for text, hash in connection.execute(query)]
    except OperationalError as error:
        if not is_undecodable(error):
            raise
        raise ledger_changed(str(error.orig), str(error.orig)) from None


def trusted_entries(connection: Connection, remembered: Remembered, alias: str | None = None) -> list[Entry]:
    """Verifies the whole chain inside the caller's transaction, and returns all entries, or those of an alias.

    Args:
        remembered: what the host remembered before the transaction; the ledger has to continue it.

    Raises:
        LedgerChanged: an entry was changed, removed, moved, inserted or filed under another alias.
    """
    verified = verify_chain(_Within(connection, remembered.head), CHAIN)
    if verified.problems:
        raise _broken(verified.problems, remembered)
    entries = entries_in(connection)
    filed = raw_rows(connection, sa.select(as_text(_columns.alias)).order_by(_columns.sequence))
    for entry, (place,) in zip(entries, filed, strict=False):
        if entry.alias != place:
            raise ledger_changed(
                f"entry {entry.sequence}: it is filed under another alias than it names",
                f"第 {entry.sequence} 条：归入的别名与条目所写的不同",
            )
    return [one for one in entries if alias in (None, one.alias)]


@dataclass(frozen=True, slots=True)
class _Within:
    """The ledger inside a transaction, as `verify_chain` reads it."""

    connection: Connection
    remembered: Head | None

    def rows(self, chain: str, after: int, limit: int) -> tuple[Chain, Sequence[AuditRow]]:
        return _rows_in(self.connection, chain, after, limit)

    def texts(self, chain: str, after: int, through: int) -> Sequence[AuditText]:
        return ()

    def anchor(self, chain: str) -> Head | None:
        return self.remembered


_BROKEN_ZH: Final[Mapping[Kind, str]] = {
    "changed": "内容被改动",
    "missing": "条目缺失",
    "moved": "条目不在原来的位置",
    "unlinked": "与前一条的哈希不符",
    "cut": "此后的条目被截去",
    "replaced": "条目被改写",
    "unannounced": "此前的条目被删除",
    "unreadable": "条目无法读取",
}


def _broken(problems: Sequence[Problem], remembered: Remembered) -> LedgerChanged:
    """Returns the error for the first break; for a ledger that only lacks what this host remembers, how to accept it."""
    first = problems[0]
    reason = f"entry {first.sequence}: {first.message}"
    reason_zh = f"第 {first.sequence} 条：{_BROKEN_ZH[first.kind]}"
    if len(problems) == 1 and "anchor" in first.message:
        return LedgerChanged.of("ledger_cut", reason=reason, reason_zh=reason_zh, path=remembered.path)
    return ledger_changed(reason, reason_zh)


def _rows_in(connection: Connection, chain: str, after: int, limit: int) -> tuple[Chain, Sequence[AuditRow]]:
    query = (
        sa.select(_columns.sequence, _columns.at_ms, _ENTRY, _HASH)
        .where(_columns.sequence > after)
        .order_by(_columns.sequence)
        .limit(limit)
    )
    state = Chain(chain, None, 0, _head_in(connection), NOTHING)
    return state, raw_rows(connection, query)


def _head_in(connection: Connection) -> Head:
    row = connection.execute(sa.select(_head.sequence, _head.hash)).one_or_none()
    return NOTHING if row is None else Head(row.sequence, row.hash)


def _heads_in(connection: Connection, before: Head | None) -> tuple[Head, str]:
    """Returns the head, and the hash of the entry that has the number of an earlier head; empty: there is none."""
    rows = (
        raw_rows(connection, sa.select(_HASH).where(_columns.sequence == before.sequence)) if before else ()
    )
    return _head_in(connection), next((storable(hash) for (hash,) in rows), "")


def _entry(text: str, hash: str) -> Entry:
    try:
        fields = _decode(text)
        entry = Entry(
            sequence=fields.pop("sequence"),
            at_ms=fields.pop("time"),
            event=fields.pop("event"),
            alias=fields.pop("alias"),
            by=fields.pop("by"),
            fields=fields,
            hash=hash,
        )
    except (msgspec.MsgspecError, UnicodeError, KeyError) as error:
        raise ledger_changed(f"an entry cannot be read: {error}", f"有条目无法读取：{error}") from None
    told = (entry.event, entry.alias, entry.by, entry.sequence, entry.at_ms)
    if [type(one) for one in told] != [str, str, str, int, int] or not 0 <= entry.at_ms < _MOST_MS:
        raise ledger_changed(
            "an entry does not say what happened to what, when and by whom", "有条目没有写明何时、何人、何事"
        )
    if _LONG_NUMBER.search(text):
        try:
            _check_fields(fields)
        except InvalidRequest as error:
            raise ledger_changed(
                f"entry {entry.sequence}: {error.message}", f"第 {entry.sequence} 条：{error.message}"
            ) from None
    for name in ("chain", "previous"):
        fields.pop(name, None)
    return entry


def _check_fields(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(
            f"the ledger of models cannot hold the number {value}", fix="leave it out, or say it in words"
        )
    if isinstance(value, int) and abs(value) > _MOST_INTEGER:
        raise InvalidRequest(
            f"the ledger of models cannot hold a whole number of {value.bit_length()} bits",
            fix="leave it out, or say it in words",
        )
    if isinstance(value, Mapping):
        for one in value.values():
            _check_fields(one)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_fields(one)
