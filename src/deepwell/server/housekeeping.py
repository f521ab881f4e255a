"""`Housekeeper`: what one process of a server does from time to time: retention, erasures, and a look at the database."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from deepwell.errors import DeepwellError, StorageDamaged
from deepwell.safety.privacy.erase import Eraser, Hooks, HostPlaces
from deepwell.safety.privacy.rounds import forget_votes
from deepwell.server.context import ServerContext
from deepwell.storage.database import Tenant
from deepwell.storage.integrity import AT_ONCE_BYTES, examine
from deepwell.storage.retention import Retention
from deepwell.storage.safety.erasures import ErasureStore

__all__ = ["Housekeeper", "erasing"]

_log = logging.getLogger("deepwell.server")
_EVERY_S = 60.0  # at most, between looks
_SWEEP_S = 600.0  # at most, between sweeps
_EXAMINE_S = 86_400.0  # between examinations of the whole database
_PAUSE_S = 0.01  # for requests, between rows that are hashed
_ERASE_S = 15.0  # between looks for erasures that another process left


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
            self._tasks.append(asyncio.create_task(self._erase_often()))
            self._tasks.append(asyncio.create_task(self._examine_daily()))

    async def stop(self) -> None:
        """Ends the work. What is removed is removed in whole writes."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _look_often(self) -> None:
        """Notices within a minute that the database was replaced, or somebody's data erased, even if nobody uses it."""
        await self._context.kept.wait()
        database = self._context.state.database
        erasures, seen = ErasureStore(database), None
        while True:
            try:
                await database.record()
                newest = await erasures.newest()
                if seen is not None and newest != seen:
                    await self._context.forget_answers()
                if newest not in (None, seen) and self._context.options.worker == 0:
                    await forget_votes(database, self._context.options.tuning.rounds)
                seen = newest
            except Exception as error:
                _warn("the database is not in order", error)
            await asyncio.sleep(_EVERY_S)

    async def _erase_often(self) -> None:
        """Finishes erasures whose process was killed."""
        await self._context.kept.wait()
        eraser = erasing(self._context)
        while True:
            try:
                while await eraser.run_next():
                    pass
            except Exception as error:
                _warn("an erasure cannot be finished", error)
            await asyncio.sleep(_ERASE_S)

    async def _examine_daily(self) -> None:
        """Looks for damage in the file of the database; at once, if it was too large for the start to wait for."""
        await self._context.kept.wait()
        file = self._context.state.database.file
        if file is None:
            return
        if (await asyncio.to_thread(file.stat)).st_size <= AT_ONCE_BYTES:
            await asyncio.sleep(_EXAMINE_S)
        while True:
            await self.examine(file)
            await asyncio.sleep(_EXAMINE_S)

    async def examine(self, file: Path) -> None:
        """Looks for damage once. `/readyz` answers 503 from then on, if there is some."""
        reason = await asyncio.to_thread(examine, file, pause_s=_PAUSE_S)
        self._context.metrics.database_damaged.set(reason is not None)
        if reason is not None:
            _log.error("%s", StorageDamaged.of("database_damaged", path=file, reason=reason))

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


def erasing(context: ServerContext) -> Eraser:
    """Returns an eraser over the stores of a server, which empties its caches and brings its indexes up to date."""

    async def refresh_index(tenant: Tenant, store_id: str) -> None:
        await context.knowledge.searcher.synchronise(tenant, store_id)

    tuning = context.options.tuning
    catalog = context.options.catalog
    models = None if catalog is None else catalog.settings.models_dir
    indexes = context.options.knowledge.folder
    host = HostPlaces(indexes, runs=tuning.folder, rounds=tuning.rounds, models=models)
    hooks = Hooks(refresh_index, context.forget_answers)
    return Eraser(context.state.database, context.state.files, host, hooks)


def _warn(what: str, error: Exception) -> None:
    foreseen = isinstance(error, DeepwellError)
    _log.warning("%s: %s", what, error, exc_info=None if foreseen else error)
