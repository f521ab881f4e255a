"""`ModelLease`: the lease of one HTTP process on a model, shared by all of its requests."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator

from deepwell.engine.hosting.process import ProcessEngine
from deepwell.server.access.principal import ANYONE
from deepwell.server.access.ticket import current_ticket
from deepwell.server.observe.record import Phase, current
from deepwell.server.observe.semconv import Attribute
from deepwell.server.residency.client import ModelHostClient
from deepwell.server.residency.policy import NotLoadedInTime

__all__ = ["ModelLease", "model_replaced"]

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
        self._version = ""  # of the files that were loaded
        self._unused: asyncio.Future[None] | None = None  # done when the last use has ended

    @contextlib.asynccontextmanager
    async def used(self, version: str = "") -> AsyncGenerator[ProcessEngine]:
        """Uses the model; see `enter`."""
        engine = await self.enter(version)
        try:
            yield engine
        finally:
            self.leave()

    async def enter(self, version: str = "") -> ProcessEngine:
        """Returns the engine of the loaded model. `leave` must follow, unless this raises.

        Args:
            version: of the files that the caller knows the model by; empty: any.

        Raises:
            NotLoadedInTime: the model could not be loaded in time, or other files are loaded under its name.
            DeepwellError: the model cannot be loaded.
        """
        until = asyncio.get_running_loop().time() + self._wait_s if self._wait_s else math.inf
        begin = time.perf_counter()
        await self._turn(until)
        self._uses += 1
        try:
            if self._entering is None:
                self._entering = asyncio.create_task(self._enter(until, version))
            engine = await asyncio.shield(self._entering)
            if version and self._version != version:
                raise model_replaced(self._name)
            return engine
        except BaseException:
            self.leave()
            raise
        finally:
            _note_load(begin, self._name)

    def leave(self) -> None:
        """Ends a use. The last one gives the lease back."""
        self._uses -= 1
        if self._uses == 0:
            if self._unused is not None:
                self._unused.set_result(None)
                self._unused = None
            if self._entering is not None:
                self._entering.cancel()
                self._entering = None
            self._client.release(self._name)

    @property
    def in_use(self) -> bool:
        """True while the model is used, or waited for."""
        return self._uses > 0

    def loaded(self, load: int) -> None:
        """Closes the connection to an engine that has been unloaded, unless it is that of load number `load`."""
        if not self._uses and self._load != load:
            self.close()

    def close(self) -> None:
        """Closes the connection to the engine."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    async def _turn(self, until: float) -> None:
        """Waits while the lease is held and the model gives way to another: new uses would keep it for ever.

        Raises:
            NotLoadedInTime: the uses have not ended at `until`.
        """
        loop = asyncio.get_running_loop()
        while self._entering is not None and self._entering.done() and self._gives_way:
            if self._unused is None:
                self._unused = loop.create_future()
            left = until - loop.time() if until < math.inf else None
            await asyncio.wait((self._unused,), timeout=left)
            if loop.time() >= until:
                raise _gives_way(self._name)

    @property
    def _gives_way(self) -> bool:
        return any(one.gives_way and one.name == self._name for one in self._client.state.residents)

    async def _enter(self, until: float, version: str) -> ProcessEngine:
        ticket = current_ticket()
        tenant = (ticket.principal if ticket is not None else ANYONE).tenant
        wait_s = max(until - asyncio.get_running_loop().time(), 0.001) if until < math.inf else 0.0
        granted = await self._client.acquire(self._name, tenant, wait_s, version)
        self._version = granted.version
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


def _gives_way(name: str) -> NotLoadedInTime:
    error = NotLoadedInTime(
        f"{name!r} is in use, and gives way to another model then",
        fix="send the request again",
        param="model",
    )
    error.retry_after = 5
    return error


def model_replaced(name: str) -> NotLoadedInTime:
    """Returns the error for a model whose files in the store were replaced while it was in use."""
    error = NotLoadedInTime(
        f"{name!r} was replaced in the store, and runs from its old files as long as it is in use",
        fix="send the request again when its other requests have ended",
        param="model",
    )
    error.retry_after = 5
    return error


def _close(connected: asyncio.Task[ProcessEngine]) -> None:
    if not connected.cancelled() and connected.exception() is None:
        connected.result().close()
