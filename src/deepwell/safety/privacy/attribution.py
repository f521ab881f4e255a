"""Attribution: the rows of each table, and the lines of files, that are one person's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from deepwell.safety.privacy.file_lines import NOTHING, FoundLines, find_lines, names_in_line
from deepwell.safety.privacy.places import names_end_user
from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import voter_of
from deepwell.storage.files import FileStore
from deepwell.storage.responses import DELETED
from deepwell.storage.tables import (
    agent_runs,
    batch_lines,
    batches,
    completions,
    conversations,
    eval_runs,
    evals,
    feedback,
    files,
    fine_tuning_jobs,
    jobs,
    rating_votes,
    responses,
    vector_store_files,
    vector_stores,
)
from deepwell.storage.tuning.sessions import session_job_ids
from deepwell.storage.tuning.works import WORKS

__all__ = ["Attribution", "Subject", "attributed", "parts"]

_PAGE: Final = 500
_JSONL: Final = (
    "batch",
    "fine-tune",
    "evals",
    "user_data",
)  # purposes of files whose lines may name end users


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

    responses: list[str] = field(init=False, default_factory=list[str])
    conversations: list[str] = field(init=False, default_factory=list[str])
    completions: list[int] = field(init=False, default_factory=list[int])
    batches: list[str] = field(init=False, default_factory=list[str])
    stores: list[str] = field(init=False, default_factory=list[str])
    files: list[str] = field(init=False, default_factory=list[str])
    feedback: list[int] = field(init=False, default_factory=list[int])
    sessions: list[str] = field(
        init=False, default_factory=list[str]
    )  # jobs that train on what the end user said
    works: list[str] = field(init=False, default_factory=list[str])  # searches and compressions
    agents: list[str] = field(init=False, default_factory=list[str])
    evals: list[str] = field(init=False, default_factory=list[str])
    eval_runs: list[str] = field(init=False, default_factory=list[str])
    tunings: list[str] = field(init=False, default_factory=list[str])
    votes: list[int] = field(init=False, default_factory=list[int])
    lines: dict[str, FoundLines] = field(init=False, default_factory=dict[str, FoundLines])
    """Lines of files that others have lines in, by the hash of the bytes."""
    cut_files: list[str] = field(init=False, default_factory=list[str])
    """Files with such bytes."""
    answered_in: list[str] = field(init=False, default_factory=list[str])
    """Batches with results of the end user's lines, or with such lines in their input."""


async def attributed(database: Database, store: FileStore, subject: Subject) -> Attribution:
    """Finds the objects that name an end user.

    It reads every row of the tenant that may carry a name, a page at a time, and the files that may have lines with one.
    """
    found, me = Attribution(), subject.end_user
    talks: set[str] = set()
    async for row in _rows(database, responses, responses.c.id, subject.tenant, ("id", "status", "body")):
        body = _json(row.body)
        if row.status == DELETED or not isinstance(body, dict):
            continue
        if names_end_user(body, me):
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
    await _tuning(database, subject, found)
    async for row in _rows(database, agent_runs, agent_runs.c.seq, subject.tenant, ("id", "request")):
        if names_end_user(_json(row.request), me):
            found.agents.append(row.id)
    async for row in _rows(database, rating_votes, rating_votes.c.seq, subject.tenant, ("seq", "rater")):
        if row.rater == me:
            found.votes.append(row.seq)
    named = await _batches(database, subject, found)
    await _lines(database, store, subject, found, named)
    await _stores(database, subject, found, named)
    return found


async def _tuning(database: Database, subject: Subject, found: Attribution) -> None:
    me, tenant = subject.end_user, subject.tenant
    for table, ids in ((evals, found.evals), (fine_tuning_jobs, found.tunings)):
        async for row in _rows(database, table, table.c.seq, tenant, ("id", "metadata")):
            if _names(_json(row.metadata), me):
                ids.append(row.id)
    columns, theirs = ("id", "eval_id", "metadata", "data_source"), set(found.evals)
    async for row in _rows(database, eval_runs, eval_runs.c.seq, tenant, columns):
        if row.eval_id in theirs or _names(_json(row.metadata), me) or _rows_name(row.data_source, me):
            found.eval_runs.append(row.id)
    async for row in _rows(database, jobs, jobs.c.seq, tenant, ("id", "kind", "payload")):
        payload = _json(row.payload) if row.kind in WORKS else None
        if isinstance(payload, dict) and names_end_user(payload.get("asked"), me):
            found.works.append(row.id)


def _rows_name(data_source: str, end_user: str) -> bool:
    """Returns whether a run of an evaluation holds rows itself, and one of them names the end user."""
    source = _json(data_source)
    source = source.get("source") if isinstance(source, dict) else None
    rows = source.get("content") if isinstance(source, dict) else None
    return isinstance(rows, list) and any(names_in_line(row, end_user) for row in rows)


async def _lines(
    database: Database, store: FileStore, subject: Subject, found: Attribution, named: set[str]
) -> None:
    """Finds lines that name the end user, and their results. A file without another line counts as named itself."""
    tenant, me = subject.tenant, subject.end_user
    kept: dict[str, str] = {}  # hash by file
    scanned: dict[str, FoundLines] = {}

    async def scan(sha256: str, is_theirs: Callable[[dict[str, Any]], bool]) -> FoundLines:
        try:
            path = await store.local(sha256)
            return await asyncio.to_thread(find_lines, path, is_theirs)
        except FileNotFoundError:  # the bytes are gone
            return NOTHING

    async def scan_once(sha256: str) -> FoundLines:
        if sha256 not in scanned:
            scanned[sha256] = await scan(sha256, lambda entry: names_in_line(entry, me))
        return scanned[sha256]

    async for row in _rows(database, files, files.c.seq, tenant, ("id", "sha256", "purpose")):
        kept[row.id] = row.sha256
        if row.purpose in _JSONL and row.id not in named and (await scan_once(row.sha256)).is_whole:
            named.add(row.id)
    answered = sa.select(batch_lines.c.batch_id).where(
        batch_lines.c.tenant == tenant, batch_lines.c.end_user == me
    )
    found.answered_in += await database.read(
        lambda connection: sorted(set(connection.scalars(answered)) - set(found.batches))
    )
    columns = ("id", "input_file_id", "input_sha256", "output_file_id", "error_file_id")
    async for row in _rows(database, batches, batches.c.seq, tenant, columns):
        source = row.input_sha256 or kept.get(row.input_file_id)
        if row.id in found.batches or source is None or not (await scan_once(source)).numbers:
            continue
        results = [one for one in (row.output_file_id, row.error_file_id) if one in kept]
        if scanned[source].is_whole and row.input_file_id:
            found.batches.append(row.id)
            named |= {row.input_file_id, *results}
            continue
        if row.id not in found.answered_in:
            found.answered_in.append(row.id)
        theirs = scanned[source].custom_ids
        for id in results:
            inside = await scan(kept[id], lambda entry, theirs=theirs: entry.get("custom_id") in theirs)
            if inside.numbers:
                found.lines[kept[id]] = inside
    # Results are found by the names in the inputs, so that inputs are cut last
    whole = {kept[id] for id in named if id in kept}
    found.lines |= {sha: one for sha, one in scanned.items() if one.numbers and sha not in whole}
    found.cut_files += [id for id, sha in kept.items() if sha in found.lines]


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
    return names_end_user({"metadata": labels}, end_user)


def _json(text: str | None) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None
