"""`Housekeeper`: what one process of a server does from time to time: retention, and a look at the database itself."""

from __future__ import annotations

import asyncio
import logging

from deepwell.errors import DeepwellError
from deepwell.server.context import ServerContext
from deepwell.storage.retention import Retention

__all__ = ["Housekeeper"]

_log = logging.getLogger("deepwell.server")
_EVERY_S = 60.0  # at most, between looks
_SWEEP_S = 600.0  # at most, between sweeps


class Housekeeper:
    """Work beside requests, of all families together. It starts with the first stored object."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts the work; only the first process of a server removes old rows."""
        self._tasks = [asyncio.create_task(self._look_often())]
        if self._context.options.worker == 0:
            self._tasks.append(asyncio.create_task(self._sweep_often()))

    async def stop(self) -> None:
        """Ends the work. What is removed is removed in whole writes."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _look_often(self) -> None:
        """Notices within a minute that the database was replaced, even if nobody uses it."""
        await self._context.kept.wait()
        database = self._context.state.database
        while True:
            try:
                await database.record()
            except Exception as error:
                _warn("the database is not in order", error)
            await asyncio.sleep(_EVERY_S)

    async def _sweep_often(self) -> None:
        await self._context.kept.wait()
        state, policy = self._context.state, self._context.options.files.retention
        retention = Retention(state.database, state.files, policy)
        every_s = _SWEEP_S if policy.shortest_s is None else min(max(policy.shortest_s / 4, 1.0), _SWEEP_S)
        while True:
            try:
                await retention.sweep()
            except Exception as error:
                _warn("old rows cannot be removed", error)
            await asyncio.sleep(every_s)


def _warn(what: str, error: Exception) -> None:
    foreseen = isinstance(error, DeepwellError)
    _log.warning("%s: %s", what, error, exc_info=None if foreseen else error)
