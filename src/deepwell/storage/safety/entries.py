"""`AuditPages`: the entries of a tenant's trail from the newest on, for whoever looks through them."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Page
from deepwell.storage.safety.audit import AuditRow
from deepwell.storage.safety.raw import as_text, raw_rows
from deepwell.storage.tables import audit_chains, audit_entries

__all__ = ["AuditPages", "EntryFilter"]


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """The entries that are wanted. Times are Unix milliseconds; None: all.

    Attributes:
        action: action of a decision.
        since_ms: the earliest time.
        until_ms: time before which events happened.
    """

    action: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class AuditPages:
    """Pages of the trails in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(
        self, tenant: Tenant, wanted: EntryFilter, *, before: int | None, limit: int
    ) -> Page[AuditRow]:
        """Returns entries from the newest on, or those before the sequence number `before`; none if there is no trail."""
        columns = audit_entries.c
        query = (
            sa.select(columns.sequence, columns.at_ms, as_text(columns.entry), as_text(columns.hash))
            .join(audit_chains, audit_chains.c.id == columns.chain)
            .where(audit_chains.c.tenant == tenant)
            .order_by(columns.sequence.desc())
            .limit(limit + 1)
        )
        if before is not None:
            query = query.where(columns.sequence < before)
        if wanted.since_ms is not None:
            query = query.where(columns.at_ms >= wanted.since_ms)
        if wanted.until_ms is not None:
            query = query.where(columns.at_ms < wanted.until_ms)
        if wanted.action is not None:
            # A decision's action stands before its findings; that of a finding ends one. Within a text, quotes are escaped.
            query = query.where(columns.entry.contains(f'"action":"{wanted.action}",', autoescape=True))

        def work(connection: Connection) -> Page[AuditRow]:
            rows = raw_rows(connection, query)
            return Page(rows[:limit], len(rows) > limit)

        return await self._database.read(work)
