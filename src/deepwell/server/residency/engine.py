"""`OnDemandEngine`: the `Engine` protocol for a model that is loaded while somebody uses it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.hosting.process import ProcessEngine
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    GenerateRequest,
    Grammar,
    Window,
)
from deepwell.engine.streams import DeltaStream
from deepwell.errors import UnsupportedModel
from deepwell.server.residency.lease import ModelLease
from deepwell.server.residency.wire import Offer

__all__ = ["OnDemandEngine"]


class OnDemandEngine:
    """A model on demand, as one HTTP process uses it. It belongs to one event loop.

    Every call holds the process's lease on the model, which is asked for by the first and given back after the last.
    """

    def __init__(self, offer: Offer, lease: ModelLease) -> None:
        self._offer = offer
        self.lease = lease

    def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Continues `request.prompt` once the model is loaded. Closing the iterator aborts the request within one step."""
        return _LeasedStream(self.lease, request, self._offer.version)

    async def score(
        self, tokens: Sequence[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        """Returns the log probability of each token from `start` on, given those before it; see `Engine.score`."""
        async with self._used() as engine:
            return await engine.score(tokens, adapter=adapter, start=start, window=window)

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns the pooled hidden states, L2-normalised: [hidden_size]."""
        async with self._used() as engine:
            return await engine.embed(tokens, adapter=adapter)

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        """Compiles a grammar in the engine's process; see `Engine.prepare`."""
        async with self._used() as engine:
            await engine.prepare(grammar, tenant=tenant, cache_salt=cache_salt)

    async def load(self) -> None:
        """Loads the model; then its time without requests begins.

        Raises:
            DeepwellError: it cannot be loaded, or not in time.
        """
        async with self._used():
            pass

    def abort(self, request_id: str) -> None:
        """Aborts a request within one step. Unknown ids are ignored."""
        if self.lease.engine is not None:
            self.lease.engine.abort(request_id)

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
        return self.lease.engine.stats() if self.lease.engine is not None else EngineStats()

    def capabilities(self) -> Capabilities:
        """Returns the model that the engine runs, or would run, and its limits."""
        return self._offer.capabilities

    def close(self) -> None:
        """Closes the connection to the engine."""
        self.lease.close()

    def _used(self) -> AbstractAsyncContextManager[ProcessEngine]:
        return self.lease.used(self._offer.version)


class _LeasedStream(AsyncIterator[Delta]):
    """The stream of a request, which uses its model from the first step of the iteration to its end."""

    def __init__(self, lease: ModelLease, request: GenerateRequest, version: str) -> None:
        self._lease = lease
        self._version = version
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
            engine = await self._lease.enter(self._version)
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
            self._lease.leave()

    def __del__(self) -> None:
        # Garbage collection may run this in any thread, and after the loop has gone.
        if self._inner is not None and not self._ended:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._lease.leave)
