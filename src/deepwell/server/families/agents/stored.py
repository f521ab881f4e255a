"""`StoredLog`: the log of a run in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deepwell.agents.loop.steps import Entry, decode_entry, encode_entry, kind_of
from deepwell.storage.agents import AgentStore, StoredStep
from deepwell.storage.database import Tenant

__all__ = ["StoredLog", "step_of"]


class StoredLog:
    """Keeps the steps of a run as rows.

    Args:
        cancelled: set when somebody has asked for the run's end.
        told: called with each step once it is kept.
    """

    def __init__(
        self,
        store: AgentStore,
        tenant: Tenant,
        id: str,
        cancelled: asyncio.Event,
        told: Callable[[Entry], None],
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._id = id
        self._cancelled = cancelled
        self._told = told

    async def append(self, entry: Entry) -> None:
        """Keeps an entry.

        Raises:
            StepTaken: another process goes on with the run, or it has ended.
        """
        if await self._store.append(self._tenant, self._id, step_of(entry)):
            self._cancelled.set()
        self._told(entry)

    async def entries(self) -> list[Entry]:
        """Returns all entries."""
        return [decode_entry(one.body) for one in await self._store.steps(self._tenant, self._id)]


def step_of(entry: Entry) -> StoredStep:
    """Returns an entry as its row."""
    return StoredStep(entry.number, kind_of(entry.step), encode_entry(entry).decode())
