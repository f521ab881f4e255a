"""`Ledger`: the progress of an erasure, written with every change, so that a killed one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database
from deepwell.storage.jobs import Job
from deepwell.storage.tables import jobs

__all__ = ["LEASE_S", "Change", "EraseOvertaken", "Ledger"]

LEASE_S: Final = 10.0
"""Seconds of silence after which another process takes an erasure over."""


class EraseOvertaken(Exception):
    """Raised where another process has taken the erasure over."""


@dataclass(frozen=True, slots=True)
class Change:
    """The result of one step: rows removed, by table, and what has to follow its commit.

    Attributes:
        blobs: hashes of bytes that may be nobody's now.
        stores: vector stores whose indexes have to be made anew.
    """

    counts: dict[str, int] = field(default_factory=dict[str, int])
    blobs: Sequence[str] = ()
    stores: Sequence[str] = ()

    @property
    def rows(self) -> int:
        """Number of rows removed."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class _State:
    counts: dict[str, int] = field(default_factory=dict[str, int])
    blobs: list[str] = field(default_factory=list[str])
    stores: list[str] = field(default_factory=list[str])

    def after(self, change: Change) -> _State:
        counts = dict(self.counts)
        for name, count in change.counts.items():
            if count:
                counts[name] = counts.get(name, 0) + count
        return _State(counts, sorted({*self.blobs, *change.blobs}), sorted({*self.stores, *change.stores}))

    def text(self) -> str:
        return json.dumps({"counts": self.counts, "blobs": self.blobs, "stores": self.stores})


class Ledger:
    """The progress of one erasure. A write that is not this process's any more is undone."""

    def __init__(self, database: Database, job: Job) -> None:
        self._database = database
        self._job = job
        told: dict[str, Any] = json.loads(job.progress or "{}")
        self._state = _State(told.get("counts", {}), told.get("blobs", []), told.get("stores", []))

    @property
    def counts(self) -> dict[str, int]:
        """Rows and files removed so far, by place."""
        return dict(self._state.counts)

    @property
    def blobs(self) -> list[str]:
        """Hashes of bytes that are still to be released."""
        return list(self._state.blobs)

    @property
    def stores(self) -> list[str]:
        """Vector stores whose indexes are still to be made anew."""
        return list(self._state.stores)

    async def write(self, work: Callable[[Connection], Change], **values: Any) -> Change:
        """Runs `work` and notes its result in the same transaction. `values` are set in the job's row besides.

        Raises:
            EraseOvertaken: another process has the job; nothing was changed.
        """
        before = self._state

        def whole(connection: Connection) -> tuple[Change, _State]:
            change = work(connection)
            state = before.after(change)
            self._note(connection, progress=state.text(), **values)
            return change, state

        change, self._state = await self._database.write(whole)
        return change

    async def settle(self, counts: dict[str, int]) -> None:
        """Notes that blobs were released and indexes made, and how many files that removed."""
        state = replace(self._state.after(Change(counts)), blobs=[], stores=[])
        await self._database.write(lambda connection: self._note(connection, progress=state.text()))
        self._state = state

    async def beat(self) -> None:
        """Keeps the job."""
        await self._database.write(self._note)

    async def end(self) -> None:
        """Deletes the job."""
        await self._database.write(lambda connection: connection.execute(sa.delete(jobs).where(self._mine())))

    def _mine(self) -> sa.ColumnElement[bool]:
        job = self._job
        return (
            (jobs.c.id == job.id)
            & (jobs.c.status == "running")
            & (jobs.c.owner == job.owner)
            & (jobs.c.attempts == job.attempts)
        )

    def _note(self, connection: Connection, **values: Any) -> None:
        now = {"beat": jobs.c.beat + 1, "lease_s": LEASE_S, "lease_until": shared_time() + LEASE_S}
        if not connection.execute(sa.update(jobs).where(self._mine()).values(**now, **values)).rowcount:
            raise EraseOvertaken(self._job.id)
