"""`AuditStore`: append-only trails of events, one hash chain a tenant.

A chain has a random id. Its entries name the chain and not the tenant, and end users by random pseudonyms. What clients
choose, such as the id of a prompt, stands in them as a hash with the chain's salt. To erase a tenant or an end user, only the
rows that tie the two together are removed, with a tenant's salt: the chain stays whole, and what it says is nobody's any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.chain import GENESIS, NOTHING, AuditRecord, Head, sealed, storable
from deepwell.storage.safety.raw import as_text, raw_rows
from deepwell.storage.tables import audit_chains, audit_entries, audit_persons, audit_texts

__all__ = ["AuditRow", "AuditStore", "AuditText", "Chain", "append_records", "forget_person", "forget_tenant"]

_log = logging.getLogger("deepwell.storage")

AuditRow = tuple[int, int, str, str]
"""Sequence number, time in milliseconds, entry and hash."""


@dataclass(frozen=True, slots=True)
class AuditText:
    """The text of an entry, with the salt of its hash; `person`: pseudonym of the end user, or empty."""

    sequence: int
    salt: str
    text: str
    person: str


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain.

    Attributes:
        tenant: None: the tenant was erased.
        head: its newest entry.
        pruned: the newest of the entries that were pruned.
    """

    id: str
    tenant: Tenant | None
    created_at: int
    head: Head
    pruned: Head


@dataclass(frozen=True, slots=True)
class _Appended:
    chain: str
    before: Head
    rows: Sequence[AuditRow]

    @property
    def head(self) -> Head:
        return Head(self.rows[-1][0], self.rows[-1][3]) if self.rows else self.before


class AuditStore:
    """Trails by tenant. `anchors` remember the heads outside of the database; None: nothing does."""

    def __init__(self, database: Database, anchors: Anchors | None = None) -> None:
        self._database = database
        self._anchors = anchors
        self._anchored: dict[str, Head] = {}  # heads that this process has remembered itself
        self._warned = False

    async def append(self, tenant: Tenant, records: Sequence[AuditRecord]) -> Head:
        """Appends events to the tenant's trail, and returns its head. They are on the disk when the call returns."""
        return (await self.append_all({tenant: records}))[tenant]

    async def append_all(self, records: Mapping[Tenant, Sequence[AuditRecord]]) -> Mapping[Tenant, Head]:
        """Appends events to the trails of several tenants, in one commit."""
        # In one order everywhere: two servers that lock the same chains otherwise might wait for each other.
        tenants = sorted(records)

        def work(connection: Connection) -> list[_Appended]:
            return [append_records(connection, tenant, records[tenant]) for tenant in tenants]

        done = await self._database.write(work)
        if self._anchors is not None:
            await asyncio.to_thread(self._anchor, done)
        return {tenant: one.head for tenant, one in zip(tenants, done, strict=True)}

    async def append_to(self, chain: str, records: Sequence[AuditRecord]) -> Head:
        """Appends events to a chain by its id, for one whose tenant was erased too. They name no end users."""

        def work(connection: Connection) -> _Appended:
            return _extend(connection, connection.execute(_LOCK_CHAIN, {"chain_of": chain}).one(), records)

        done = await self._database.write(work)
        if self._anchors is not None:
            await asyncio.to_thread(self._anchor, [done])
        return done.head

    async def chains(self, tenant: Tenant | None = None) -> Sequence[Chain]:
        """Returns the chain of a tenant, or all, those of erased tenants too."""
        query = sa.select(audit_chains).order_by(audit_chains.c.created_at, audit_chains.c.id)
        if tenant is not None:
            query = query.where(audit_chains.c.tenant == tenant)
        return await self._database.read(
            lambda connection: [_chain(row) for row in raw_rows(connection, query)]
        )

    def rows(self, chain: str, after: int, limit: int) -> tuple[Chain, Sequence[AuditRow]]:
        """Returns the chain as it is now, and its next entries in order. Blocks: for a thread, or without a loop."""

        def work(connection: Connection) -> tuple[Chain, Sequence[AuditRow]]:
            states = raw_rows(connection, _CHAIN, {"chain_of": chain})
            if not states:  # its id is damaged: nothing leads from it to its entries
                return Chain(chain, None, 0, Head(1, GENESIS), NOTHING), ()
            found = raw_rows(connection, _ROWS, {"chain_of": chain, "after": after, "most": limit})
            return _chain(states[0]), found

        return self._database.read_now(work)

    async def span(self, chain: str, since_ms: int | None, until_ms: int | None) -> tuple[int, int]:
        """Returns the sequence numbers of the first entry since a time, and of the last one before another.

        Times are those of the events. An entry may therefore be older than the one before it. (1, 0): there are none.
        """
        columns = audit_entries.c
        query = sa.select(sa.func.min(columns.sequence), sa.func.max(columns.sequence)).where(
            columns.chain == chain
        )
        if since_ms is not None:
            query = query.where(columns.at_ms >= since_ms)
        if until_ms is not None:
            query = query.where(columns.at_ms < until_ms)
        first, last = await self._database.read(lambda connection: connection.execute(query).one())
        return (1, 0) if first is None else (first, last)

    async def person(self, tenant: Tenant, end_user: str) -> tuple[str, str] | None:
        """Returns the chain of the tenant and the pseudonym of an end user in it, or None if no entry names the user."""
        return await self._database.read(lambda connection: _person(connection, tenant, end_user))

    async def prune(self, chain: str, through: int, rows_each: int) -> int:
        """Removes some of the oldest entries, at most up to the sequence number `through`; returns how many were removed."""

        def work(connection: Connection) -> int:
            state = _chain(connection.execute(_LOCK_CHAIN, {"chain_of": chain}).one())
            last = min(through, state.pruned.sequence + rows_each, state.head.sequence)
            if last <= state.pruned.sequence:
                return 0
            place = {"chain_of": chain, "through": last}
            hash = connection.execute(_HASH, place).scalar_one()
            removed = connection.execute(_REMOVE, place).rowcount
            connection.execute(_REMOVE_TEXTS, place)
            connection.execute(
                sa.update(audit_chains)
                .where(audit_chains.c.id == chain)
                .values(pruned_sequence=last, pruned_hash=hash)
            )
            return removed

        return await self._database.write(work)

    def texts(self, chain: str, after: int, through: int) -> Sequence[AuditText]:
        """Returns the texts of entries behind `after` and up to `through`, in order. Those that were erased are left out."""
        place = {"chain_of": chain, "after": after, "through": through}
        return self._database.read_now(
            lambda connection: [AuditText(*row) for row in raw_rows(connection, _TEXTS, place)]
        )

    def hash_at(self, chain: str, sequence: int) -> str | None:
        """Returns the hash of an entry, or None if it is not there. Blocks."""
        place = {"chain_of": chain, "through": sequence}
        return self._database.read_now(
            lambda connection: connection.execute(_HASH, place).scalar_one_or_none()
        )

    def anchor(self, chain: str) -> Head | None:
        """Returns the remembered head of a chain, or None.

        Raises:
            OSError: the anchor cannot be read.
            ValueError: it is damaged.
        """
        return None if self._anchors is None else self._anchors.read(chain)

    def _anchor(self, done: Sequence[_Appended]) -> None:
        assert self._anchors is not None
        for one in done:
            try:
                before = self._anchors.read(one.chain)
                if before is not None and not self._continues(one, before):
                    self._warn(
                        "the audit trail %s lacks the entry %d that its anchor remembers, or has another in its place: "
                        "run `deepwell audit verify`",
                        one.chain,
                        before.sequence,
                    )
                    continue
                self._anchors.advance(one.chain, one.head)
                self._anchored[one.chain] = one.head
            except (OSError, ValueError) as error:
                self._warn("the audit trail has no anchor, so a cut may go unnoticed: %s", error)

    def _continues(self, one: _Appended, anchor: Head) -> bool:
        """Returns whether what was appended continues the trail that an anchor remembers."""
        if anchor in (one.before, one.head, self._anchored.get(one.chain)):
            return True
        hash = self.hash_at(one.chain, anchor.sequence)
        if hash is not None:  # another process was faster
            return hash == anchor.hash
        state, _ = self.rows(one.chain, 0, 0)
        return anchor.sequence <= state.pruned.sequence

    def _warn(self, message: str, *values: object) -> None:
        if not self._warned:
            self._warned = True
            _log.error(message, *values)


def append_records(connection: Connection, tenant: Tenant, records: Sequence[AuditRecord]) -> _Appended:
    """Appends events inside the caller's transaction, which commits them with its other changes."""
    state = connection.execute(_LOCK_TENANT, {"tenant_of": tenant}).one_or_none()
    if state is None:
        values = {
            "id": f"chain_{secrets.token_hex(8)}",
            "tenant": tenant,
            "salt": secrets.token_hex(32),
            "created_at": int(shared_time()),
            "sequence": 0,
            "hash": GENESIS,
            "pruned_sequence": 0,
            "pruned_hash": GENESIS,
        }
        connection.execute(_NEW_CHAIN, values)
        state = connection.execute(_LOCK_TENANT, {"tenant_of": tenant}).one()
    return _extend(connection, state, records)


def forget_person(connection: Connection, tenant: Tenant, end_user: str) -> dict[str, int]:
    """Removes the tie between an end user and the pseudonym in the trail, and the user's texts. Returns counts by table."""
    found = _person(connection, tenant, end_user)
    if found is None:
        return {}
    chain, pseudonym = found
    counts: dict[str, int] = {}
    for table, column in ((audit_texts, audit_texts.c.person), (audit_persons, audit_persons.c.pseudonym)):
        mine = (table.c.chain == chain) & (column == pseudonym)
        counts[table.name] = connection.execute(sa.delete(table).where(mine)).rowcount
    return counts


def forget_tenant(connection: Connection, tenant: Tenant) -> dict[str, int]:
    """Removes the tie between a tenant and its trail, with the ties of all end users and all texts. Returns counts by table."""
    state = connection.execute(_LOCK_TENANT, {"tenant_of": tenant}).one_or_none()
    if state is None:
        return {}
    counts = {
        table.name: connection.execute(sa.delete(table).where(table.c.chain == state.id)).rowcount
        for table in (audit_texts, audit_persons)
    }
    connection.execute(
        sa.update(audit_chains).where(audit_chains.c.id == state.id).values(tenant=None, salt=None)
    )
    return counts | {"audit_chains": 1}


# Statements are built once because building one takes several times longer than SQLite takes to run it.
_CHAIN = sa.select(audit_chains).where(audit_chains.c.id == bindparam("chain_of"))
_LOCK_CHAIN = _CHAIN.with_for_update()
_OF_TENANT = sa.select(audit_chains).where(audit_chains.c.tenant == bindparam("tenant_of"))
_LOCK_TENANT = _OF_TENANT.with_for_update()
_NEW_CHAIN = sa.insert(audit_chains)
_NEW_ENTRIES = sa.insert(audit_entries)
_NEW_TEXTS = sa.insert(audit_texts)
_NEW_HEAD = (
    sa.update(audit_chains)
    .where(audit_chains.c.id == bindparam("chain_of"))
    .values(sequence=bindparam("new_sequence"), hash=bindparam("new_hash"))
)
_ROWS = (
    sa.select(
        audit_entries.c.sequence,
        audit_entries.c.at_ms,
        as_text(audit_entries.c.entry),
        as_text(audit_entries.c.hash),
    )
    .where(audit_entries.c.chain == bindparam("chain_of"), audit_entries.c.sequence > bindparam("after"))
    .order_by(audit_entries.c.sequence)
    .limit(bindparam("most"))
)
_HASH = sa.select(audit_entries.c.hash).where(
    audit_entries.c.chain == bindparam("chain_of"), audit_entries.c.sequence == bindparam("through")
)
_REMOVE = sa.delete(audit_entries).where(
    audit_entries.c.chain == bindparam("chain_of"), audit_entries.c.sequence <= bindparam("through")
)
_REMOVE_TEXTS = sa.delete(audit_texts).where(
    audit_texts.c.chain == bindparam("chain_of"), audit_texts.c.sequence <= bindparam("through")
)
_TEXTS = (
    sa.select(*(audit_texts.c[name] for name in AuditText.__dataclass_fields__))
    .where(
        audit_texts.c.chain == bindparam("chain_of"),
        audit_texts.c.sequence > bindparam("after"),
        audit_texts.c.sequence <= bindparam("through"),
    )
    .order_by(audit_texts.c.sequence)
)
_FIND_PERSON = sa.select(audit_persons.c.pseudonym).where(
    audit_persons.c.chain == bindparam("chain_of"), audit_persons.c.digest == bindparam("digest_of")
)


def _extend(connection: Connection, state: sa.Row[Any], records: Sequence[AuditRecord]) -> _Appended:
    """Appends events to a chain whose row is locked."""
    chain = state.id
    before = Head(state.sequence, state.hash)
    persons = {
        one: _pseudonym(connection, chain, state.salt, one)
        for one in sorted({record.end_user for record in records if record.end_user})
    }
    salts = [secrets.token_hex(16) if record.text else "" for record in records]
    rows = sealed(records, chain, before, persons, salts, salt=state.salt or "")
    texts = [
        {
            "chain": chain,
            "sequence": row[0],
            "salt": salt,
            "text": storable(record.text),
            "person": persons.get(record.end_user, ""),
        }
        for row, record, salt in zip(rows, records, salts, strict=True)
        if salt
    ]
    if texts:
        connection.execute(_NEW_TEXTS, texts)
    if rows:
        connection.execute(
            _NEW_ENTRIES,
            [
                {"chain": chain, "sequence": sequence, "at_ms": at_ms, "entry": entry, "hash": hash}
                for sequence, at_ms, entry, hash in rows
            ],
        )
        connection.execute(
            _NEW_HEAD, {"chain_of": chain, "new_sequence": rows[-1][0], "new_hash": rows[-1][3]}
        )
    return _Appended(chain, before, rows)


def _pseudonym(connection: Connection, chain: str, salt: str, end_user: str) -> str:
    place = {"chain_of": chain, "digest_of": _digest(salt, end_user)}
    found = connection.execute(_FIND_PERSON, place).scalar_one_or_none()
    if found is not None:
        return found
    pseudonym = f"person_{secrets.token_hex(8)}"
    connection.execute(
        sa.insert(audit_persons).values(
            chain=chain, digest=place["digest_of"], pseudonym=pseudonym, created_at=int(shared_time())
        )
    )
    return pseudonym


def _person(connection: Connection, tenant: Tenant, end_user: str) -> tuple[str, str] | None:
    state = connection.execute(_OF_TENANT, {"tenant_of": tenant}).one_or_none()
    if state is None:
        return None
    place = {"chain_of": state.id, "digest_of": _digest(state.salt, end_user)}
    found = connection.execute(_FIND_PERSON, place).scalar_one_or_none()
    return None if found is None else (state.id, found)


def _digest(salt: str, end_user: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + end_user.encode("utf-8", "replace")).hexdigest()


def _chain(row: Sequence[Any]) -> Chain:
    """Returns a chain from its row. Damaged text is shown with replacement characters."""
    shown: list[Any] = [storable(one) if isinstance(one, str) else one for one in row]
    id, tenant, _salt, created_at, sequence, hash, pruned_sequence, pruned_hash = shown
    return Chain(
        id,
        None if tenant is None else Tenant(tenant),
        created_at,
        Head(sequence, hash),
        Head(pruned_sequence, pruned_hash),
    )
