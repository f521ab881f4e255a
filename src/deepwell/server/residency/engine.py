"""`OnDemandEngine`: the `Engine` protocol for a model that is loaded while somebody uses it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.core.streams import DeltaStream
from deepwell.engine.hosting.process import ProcessEngine
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    GenerateRequest,
    Grammar,
)
from deepwell.errors import UnsupportedModel
from deepwell.server.access.principal import ANYONE
from deepwell.server.access.ticket import current_ticket
from deepwell.server.residency.client import ModelHostClient
from deepwell.server.residency.wire import Granted, Offer

__all__ = ["OnDemandEngine"]


class OnDemandEngine:
    """A model on demand, as one HTTP process uses it. It belongs to one event loop.

    Every call holds the process's lease on the model, which is asked for by the first and given back after the last.

    Args:
        wait_s: longest wait for the model; 0: no limit.
        engine_wait_s: longest wait for an engine that is being restarted.
    """

    def __init__(self, offer: Offer, client: ModelHostClient, *, wait_s: float, engine_wait_s: float) -> None:
        self._offer = offer
        self._client = client
        self._wait_s = wait_s
        self._engine_wait_s = engine_wait_s
        self._uses = 0
        self._entering: asyncio.Task[ProcessEngine] | None = None
        self._engine: ProcessEngine | None = None
        self._load = 0  # number of the load that `_engine` belongs to

    def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Continues `request.prompt` once the model is loaded. Closing the iterator aborts the request within one step."""
        return _LeasedStream(self, request)

    async def score(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns the log probability of every token given those before it: [len(tokens) - 1]."""
        async with self._leased() as engine:
            return await engine.score(tokens, adapter=adapter)

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns the pooled hidden states, L2-normalised: [hidden_size]."""
        async with self._leased() as engine:
            return await engine.embed(tokens, adapter=adapter)

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        """Compiles a grammar in the engine's process; see `Engine.prepare`."""
        async with self._leased() as engine:
            await engine.prepare(grammar, tenant=tenant, cache_salt=cache_salt)

    def abort(self, request_id: str) -> None:
        """Aborts a request within one step. Unknown ids are ignored."""
        if self._engine is not None:
            self._engine.abort(request_id)

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Refuses: an adapter would be lost when the model is unloaded."""
        raise UnsupportedModel(
            f"{self._offer.name!r} is loaded on demand, and adapters need a model that stays",
            fix=f"name it when the server starts: deepwell serve {self._offer.name}",
            param="base_model_name",
        )

    def unload_adapter(self, name: str) -> None:
        """Refuses as `load_adapter` does."""
        self.load_adapter(name, "")

    def adapters(self) -> Sequence[AdapterInfo]:
        """Returns nothing: there are no adapters of models on demand."""
        return ()

    def stats(self) -> EngineStats:
        """Returns the counters of the loaded engine, or zeros."""
        return self._engine.stats() if self._engine is not None else EngineStats()

    def capabilities(self) -> Capabilities:
        """Returns the model that the engine runs, or would run, and its limits."""
        return self._offer.capabilities

    def forget(self, load: int) -> None:
        """Closes the connection to an engine that has been unloaded, unless it is that of load number `load`."""
        if self._engine is not None and not self._uses and self._load != load:
            self._engine.close()
            self._engine = None

    def close(self) -> None:
        """Closes the connection to the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    # Leases

    @contextlib.asynccontextmanager
    async def _leased(self) -> AsyncGenerator[ProcessEngine]:
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
        try:
            if self._entering is None:
                self._entering = asyncio.create_task(self._enter())
            return await asyncio.shield(self._entering)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Ends a use. The last one gives the lease back."""
        self._uses -= 1
        if self._uses == 0:
            if self._entering is not None:
                self._entering.cancel()
                self._entering = None
            self._client.release(self._offer.name)

    async def _enter(self) -> ProcessEngine:
        ticket = current_ticket()
        tenant = (ticket.principal if ticket is not None else ANYONE).tenant
        granted: Granted = await self._client.acquire(self._offer.name, tenant, self._wait_s)
        if self._engine is None or self._load != granted.load:
            self.close()
            self._engine = await asyncio.to_thread(ProcessEngine, granted.address, wait_s=self._engine_wait_s)
            self._load = granted.load
        return self._engine


class _LeasedStream(AsyncIterator[Delta]):
    """The stream of a request, which holds a use of its engine from the first step of the iteration to its end."""

    def __init__(self, engine: OnDemandEngine, request: GenerateRequest) -> None:
        self._engine = engine
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._inner: DeltaStream | None = None
        self._ended = False

    async def __anext__(self) -> Delta:
        if self._inner is None:
            if self._ended:
                raise StopAsyncIteration
            await self._open()
        assert self._inner is not None
        try:
            delta = await self._inner.__anext__()
        except BaseException:
            self._end()
            raise
        if delta.finish_reason is not None:
            self._end()
        return delta

    async def _open(self) -> None:
        try:
            engine = await self._engine.enter()
        except BaseException:
            self._ended = True
            raise
        try:
            self._inner = engine.generate(self._request)
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        """Aborts the request; nothing more is delivered."""
        if self._inner is not None:
            await self._inner.aclose()
            self._end()
        self._ended = True

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._engine.leave()

    def __del__(self) -> None:
        # Garbage collection may run this in any thread, and after the loop has gone.
        if self._inner is not None and not self._ended:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._engine.leave)
