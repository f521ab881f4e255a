"""Retention: removes what is older than its settings say, a few rows at a time, so that no other write waits for long.

Ages are by the wall clock, as the times in the rows are. A row is removed only by a statement that holds its age as a
condition, so that one which was changed in the meantime stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.settings.storage import StorageSettings
from deepwell.storage.agents import delete_runs
from deepwell.storage.batches import OPEN
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database
from deepwell.storage.files import FileStore
from deepwell.storage.responses import DELETED
from deepwell.storage.tables import (
    agent_runs,
    batch_lines,
    batches,
    completions,
    conversation_items,
    conversations,
    files,
    jobs,
    responses,
    uploads,
    vector_store_files,
)

__all__ = ["Retention", "RetentionPolicy"]

_DAY_S = 86_400
_DELETED_S = 30 * _DAY_S  # for which a deleted response keeps its place where others are kept for ever
_ROWS = 50  # removed in one write: some milliseconds
_ITEMS = 500  # removed with their conversations or batches in one write
_PAUSE_S = 0.01  # after each write, so that the disk is not busy with this alone


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The times for which rows are kept, in seconds; None: until a client deletes them."""

    responses_s: float | None = None
    completions_s: float | None = None
    conversations_s: float | None = None
    files_s: float | None = None
    batches_s: float | None = None
    jobs_s: float | None = None

    @classmethod
    def of(cls, settings: StorageSettings) -> RetentionPolicy:
        """Reads the policy from the settings, in which 0 days mean for ever."""
        days = (
            settings.response_retention_days,
            settings.completion_retention_days,
            settings.conversation_retention_days,
            settings.file_retention_days,
            settings.batch_retention_days,
            settings.job_retention_days,
        )
        return cls(*(one * _DAY_S or None for one in days))

    @property
    def shortest_s(self) -> float | None:
        """The shortest of the times, or None if everything is kept."""
        given = [getattr(self, field.name) for field in fields(self)]
        return min((one for one in given if one is not None), default=None)


class Retention:
    """The removal of old rows. Several processes may run it on one database; each row is removed once."""

    def __init__(
        self,
        database: Database,
        store: FileStore,
        policy: RetentionPolicy,
        *,
        clock: Callable[[], float] = shared_time,
        pause_s: float = _PAUSE_S,
    ) -> None:
        self._database = database
        self._files = store
        self._policy = policy
        self._clock = clock
        self._pause_s = pause_s

    async def sweep(self) -> dict[str, int]:
        """Removes all that is too old now, and returns the number of rows by table."""
        policy = self._policy
        responses_s, remove = policy.responses_s, _remove_responses
        if responses_s is None:
            responses_s, remove = _DELETED_S, partial(_remove_responses, status=DELETED)
        steps: list[tuple[str, float | None, Callable[[Connection, int], int]]] = [
            ("responses", responses_s, remove),
            ("completions", policy.completions_s, _remove_completions),
            ("conversations", policy.conversations_s, _remove_conversations),
            ("batches", policy.batches_s, _remove_batches),
            ("agent_runs", policy.jobs_s, _remove_agent_runs),
            ("jobs", policy.jobs_s, _remove_jobs),
            ("uploads", policy.jobs_s, _remove_uploads),
        ]
        removed = {name: await self._remove_all(age_s, remove) for name, age_s, remove in steps}
        removed["files"] = await self._remove_files()
        return removed

    async def _remove_all(self, age_s: float | None, remove: Callable[[Connection, int], int]) -> int:
        """Calls `remove` with the newest time that is too old, in a write each, until there is nothing left to remove."""
        if age_s is None:
            return 0
        before = int(self._clock() - age_s)
        total = 0
        while count := await self._database.free(lambda connection: remove(connection, before)):
            total += count
            await asyncio.sleep(self._pause_s)
        return total

    async def _remove_files(self) -> int:
        hashes: set[str] = set()

        def remove(connection: Connection, before: int) -> int:
            attached = sa.exists().where(
                vector_store_files.c.tenant == files.c.tenant, vector_store_files.c.file_id == files.c.id
            )
            old = sa.and_(files.c.expires_at.is_(None), files.c.created_at < before, ~attached)
            chosen = sa.select(files.c.seq).where(old).order_by(files.c.created_at).limit(_ROWS)
            rows = connection.execute(
                sa.delete(files).where(files.c.seq.in_(chosen), old).returning(files.c.sha256)
            )
            found = list(rows.scalars())
            hashes.update(found)
            return len(found)

        count = await self._remove_all(self._policy.files_s, remove)
        await self._files.release(hashes)
        return count


def _remove_responses(connection: Connection, before: int, status: str | None = None) -> int:
    """Removes old responses, the newest first. One on which a younger response builds stays as long as that one does.

    With a `status`, only responses of that status are removed.
    """
    later = responses.alias()
    old = sa.and_(
        responses.c.created_at < before,
        responses.c.owner.is_(None),
        ~sa.exists().where(later.c.tenant == responses.c.tenant, later.c.previous_id == responses.c.id),
        sa.true() if status is None else responses.c.status == status,
    )
    # Rows are locked before they are removed, and the removal looks again: what is stored meanwhile holds the one before it.
    chosen = (
        sa.select(responses.c.tenant, responses.c.id)
        .where(old)
        .order_by(responses.c.created_at.desc())
        .with_for_update(skip_locked=True)
    )
    total = 0
    # A chain is removed from its end, so several rounds fit into one write.
    while total < _ROWS and (rows := connection.execute(chosen.limit(_ROWS - total)).all()):
        for row in rows:
            mine = (responses.c.tenant == row.tenant) & (responses.c.id == row.id)
            total += connection.execute(sa.delete(responses).where(mine, old)).rowcount
    return total


def _remove_completions(connection: Connection, before: int) -> int:
    old = completions.c.created_at < before
    chosen = sa.select(completions.c.seq).where(old).order_by(completions.c.created_at).limit(_ROWS)
    return connection.execute(sa.delete(completions).where(completions.c.seq.in_(chosen), old)).rowcount


def _remove_conversations(connection: Connection, before: int) -> int:
    """Removes conversations that nobody has changed since, each with all of its items."""
    columns, inside = conversations.c, conversation_items.c
    old = (columns.updated_at < before) & (columns.created_at < before)
    chosen = sa.select(columns.tenant, columns.id).where(old).order_by(columns.updated_at).limit(_ROWS)
    total = items = 0
    for row in connection.execute(chosen).all():
        items += connection.execute(
            sa.select(sa.func.count()).where(inside.tenant == row.tenant, inside.conversation_id == row.id)
        ).scalar_one()
        if total and items > _ITEMS:
            break
        mine = (columns.tenant == row.tenant) & (columns.id == row.id)
        total += connection.execute(sa.delete(conversations).where(mine, old)).rowcount
    return total


def _remove_batches(connection: Connection, before: int) -> int:
    """Removes batches that ended before, with their jobs and the lines that never became files."""
    columns = batches.c
    ended_at = sa.func.coalesce(
        columns.completed_at, columns.failed_at, columns.expired_at, columns.cancelled_at, columns.created_at
    )
    old = (columns.created_at < before) & columns.status.not_in(OPEN) & (ended_at < before)
    chosen = sa.select(columns.tenant, columns.id).where(old).order_by(columns.created_at).limit(_ROWS)
    total = 0
    for row in connection.execute(chosen).all():
        lines = (batch_lines.c.tenant == row.tenant) & (batch_lines.c.batch_id == row.id)
        some = sa.select(batch_lines.c.line).where(lines).limit(_ITEMS)
        cut = connection.execute(sa.delete(batch_lines).where(lines, batch_lines.c.line.in_(some))).rowcount
        if cut == _ITEMS:  # the rest, and the batch, in the next write
            return total + 1
        for table in (batches, jobs):
            mine = (table.c.tenant == row.tenant) & (table.c.id == row.id)
            connection.execute(sa.delete(table).where(mine))
        total += 1
    return total


def _remove_agent_runs(connection: Connection, before: int) -> int:
    """Removes runs of agents that ended before, with their steps. A run that waits for a person has not ended."""
    columns = agent_runs.c
    old = columns.finished_at < before
    chosen = sa.select(columns.tenant, columns.id).where(old).order_by(columns.finished_at).limit(_ROWS)
    rows = connection.execute(chosen).all()
    for tenant in {row.tenant for row in rows}:
        delete_runs(connection, tenant, [row.id for row in rows if row.tenant == tenant])
    return len(rows)


def _remove_jobs(connection: Connection, before: int) -> int:
    """Removes finished jobs. The job of a batch that has not ended stays, because it shows that nobody runs the batch."""
    unfinished = sa.exists().where(
        batches.c.tenant == jobs.c.tenant, batches.c.id == jobs.c.id, batches.c.status.in_(OPEN)
    )
    old = jobs.c.finished_at < before
    chosen = sa.select(jobs.c.seq).where(old, ~unfinished).order_by(jobs.c.finished_at).limit(_ROWS)
    return connection.execute(sa.delete(jobs).where(jobs.c.seq.in_(chosen), old)).rowcount


def _remove_uploads(connection: Connection, before: int) -> int:
    columns = uploads.c
    old = (columns.expires_at < before) & (columns.status != "pending")
    chosen = sa.select(columns.tenant, columns.id).where(old).order_by(columns.expires_at).limit(_ROWS)
    rows = connection.execute(chosen).all()
    for row in rows:
        connection.execute(sa.delete(uploads).where(columns.tenant == row.tenant, columns.id == row.id, old))
    return len(rows)
