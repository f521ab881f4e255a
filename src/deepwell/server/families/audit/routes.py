"""`/v1/audit`: the audit trail of the tenant, page by page, and its verification."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.audit.bodies import (
    AuditEntry,
    AuditEntryList,
    AuditFinding,
    AuditVerification,
)
from deepwell.server.families.audit.schema import EntriesQuery
from deepwell.server.families.pages import ends_of
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.database import Tenant
from deepwell.storage.safety.audit import AuditRow, AuditStore
from deepwell.storage.safety.chain import storable
from deepwell.storage.safety.entries import AuditPages, EntryFilter
from deepwell.storage.safety.verify import verify_chain

__all__ = ["router"]

_ID = re.compile(r"audit_([1-9][0-9]{0,17})")


class _Found(msgspec.Struct):
    rule: str = ""
    category: str | None = None
    start: int = 0
    end: int = 0
    score: float | None = None
    action: str | None = None


class _Line(msgspec.Struct):
    """The members of an entry that the API tells."""

    event: str = ""
    action: str | None = None
    layer: str | None = None
    route: str | None = None
    model: str | None = None
    findings: list[_Found] = []
    policy: Any = None  # of a change of the policy, more than its hash
    person: str | None = None
    request_id: str | None = None


_read_line = msgspec.json.Decoder(_Line).decode


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    verifying = asyncio.Lock()  # one verification at a time reads the whole trail

    @routes.get("/v1/audit/entries", summary="List entries of the audit trail", response_model=None)
    async def entries(request: Request, query: Annotated[EntriesQuery, Query()]) -> Response:
        wanted = EntryFilter(query.decision, _milliseconds(query.since), _milliseconds(query.until))
        await context.audit.flush()
        page = await AuditPages(context.state.database).newest(
            tenant_of(request), wanted, before=_sequence(query.after), limit=query.limit
        )
        data = [_entry(one) for one in page.data]
        return json_response(AuditEntryList(data, *ends_of(data), page.has_more))

    @routes.post("/v1/audit/verify", summary="Verify the audit trail", response_model=None)
    async def verify(request: Request) -> Response:
        await context.audit.flush()
        async with verifying:
            return json_response(await _verified(context.audit.store, tenant_of(request)))

    return routes


async def _verified(store: AuditStore, tenant: Tenant) -> AuditVerification:
    begin = time.perf_counter()
    entries, error = 0, None
    for chain in await store.chains(tenant):  # one at most
        result = await asyncio.to_thread(verify_chain, store, chain.id)
        entries += result.entries
        if not result.holds:
            first = result.problems[0]
            error = f"entry {first.sequence}: {first.message}"
    return AuditVerification(error is None, entries, round(time.perf_counter() - begin, 3), error)


def _sequence(after: str | None) -> int | None:
    if after is None:
        return None
    if (found := _ID.fullmatch(after)) is None:
        raise InvalidRequest(
            f"'after' names {after[:64]!r}, which is not in this list",
            fix="use the last id of the page before",
            param="after",
        )
    return int(found[1])


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _entry(row: AuditRow) -> AuditEntry:
    """Returns an entry as the API describes it. One that was damaged tells its place and hash, and verification the rest."""
    sequence, at_ms, text, hash = row
    try:
        line = _read_line(text)
    except (msgspec.MsgspecError, UnicodeError):
        line = _Line("unreadable")
    return AuditEntry(
        id=f"audit_{sequence}",
        at=at_ms / 1000,
        event=line.event,
        decision=line.action,
        layer=line.layer,
        route=line.route,
        model=line.model,
        findings=[
            AuditFinding(one.rule, line.layer, [one.start, one.end], one.category, one.action, one.score)
            for one in line.findings
        ],
        policy_hash=line.policy if isinstance(line.policy, str) else None,
        user=line.person,
        request_id=line.request_id,
        hash=storable(hash),
    )
