"""`ModelLease`: the lease of one HTTP process on a model, shared by all of its requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from deepwell.engine.hosting.process import ProcessEngine
from deepwell.server.access.principal import ANYONE
from deepwell.server.access.ticket import current_ticket
from deepwell.server.observe.record import Phase, current
from deepwell.server.observe.semconv import Attribute
from deepwell.server.residency.client import ModelHostClient

__all__ = ["ModelLease"]

_NOTED_S = 0.005  # a shorter wait is that for a lease on a model that is there


class ModelLease:
    """Counts the uses of a model. The first asks for the lease, the last gives it back.

    A process has one for each name: its uses would otherwise end each other's.

    Args:
        wait_s: longest wait for the model; 0: no limit.
        engine_wait_s: longest wait for an engine that is being restarted.

    Attributes:
        engine: the engine that this process is connected to, if there is one.
    """

    def __init__(self, name: str, client: ModelHostClient, *, wait_s: float, engine_wait_s: float) -> None:
        self.engine: ProcessEngine | None = None
        self._name = name
        self._client = client
        self._wait_s = wait_s
        self._engine_wait_s = engine_wait_s
        self._uses = 0
        self._entering: asyncio.Task[ProcessEngine] | None = None
        self._load = 0  # number of the load that `engine` belongs to

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncGenerator[ProcessEngine]:
        """Uses the model; see `enter`."""
        engine = await self.enter()
        try:
            yield engine
        finally:
            self.leave()

    async def enter(self) -> ProcessEngine:
        """Returns the engine of the loaded model. `leave` must follow, unless this raises.

        Raises:
            DeepwellError: the model cannot be loaded, or not in time.
        """
        self._uses += 1
        begin = time.perf_counter()
        try:
            if self._entering is None:
                self._entering = asyncio.create_task(self._enter())
            return await asyncio.shield(self._entering)
        except BaseException:
            self.leave()
            raise
        finally:
            _note_load(begin, self._name)

    def leave(self) -> None:
        """Ends a use. The last one gives the lease back."""
        self._uses -= 1
        if self._uses == 0:
            if self._entering is not None:
                self._entering.cancel()
                self._entering = None
            self._client.release(self._name)

    def loaded(self, load: int) -> None:
        """Closes the connection to an engine that has been unloaded, unless it is that of load number `load`."""
        if not self._uses and self._load != load:
            self.close()

    def close(self) -> None:
        """Closes the connection to the engine."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    async def _enter(self) -> ProcessEngine:
        ticket = current_ticket()
        tenant = (ticket.principal if ticket is not None else ANYONE).tenant
        granted = await self._client.acquire(self._name, tenant, self._wait_s)
        if self.engine is None or self._load != granted.load:
            self.close()
            self.engine = await self._connect(granted.address)
            self._load = granted.load
        return self.engine

    async def _connect(self, address: str) -> ProcessEngine:
        """Connects on a thread: an engine that has just been lost answers only when its successor is there."""
        connecting = asyncio.create_task(
            asyncio.to_thread(ProcessEngine, address, wait_s=self._engine_wait_s)
        )
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close)
            raise


def _note_load(begin: float, model: str) -> None:
    """Writes the wait for a model into the request's record, from where it becomes a span."""
    record, end = current(), time.perf_counter()
    if record is not None and end - begin >= _NOTED_S:
        record.phases.append(Phase("load", begin, end, {Attribute.MODEL: model}))


def _close(connected: asyncio.Task[ProcessEngine]) -> None:
    if not connected.cancelled() and connected.exception() is None:
        connected.result().close()
