"""The engine's own process: a model behind a Unix socket, for any number of connections.

Each step sends one message per connection, with the results of the step for all requests of that connection. The engine's
thread writes it itself. Bytes that the socket does not accept are buffered up to a limit, so the engine never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, cast, runtime_checkable

import msgspec

from deepwell.engine.hosting.wire import (
    MAX_REQUEST_BYTES,
    Abort,
    Adapters,
    Done,
    Embed,
    Generate,
    Hello,
    LoadAdapter,
    Prepare,
    Rows,
    Score,
    Step,
    decode_request,
    row_of,
)
from deepwell.engine.protocol import Delta, Engine, EngineStats, GenerateRequest
from deepwell.engine.streams import Outlet
from deepwell.errors import DeepwellError
from deepwell.process.channel import FramedChannel
from deepwell.process.control import ControlChannel
from deepwell.process.frames import Frames, WireError, encode, failure_of
from deepwell.process.progress import Progress

__all__ = ["Kept", "Launch", "main", "open_hosted"]

MAX_UNREAD_BYTES: Final = 32 << 20  # per connection; more than any live reader leaves
_STATS_S: Final = 0.05  # between two reports of the counters while no request ends
_log = logging.getLogger("deepwell.engine")


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """An adapter that the next engine loads again."""

    name: str
    path: str
    digest: str


class Launch(msgspec.Struct, array_like=True, frozen=True):
    """Instructions to the process: how to make the engine, and where requests arrive."""

    factory: str  # "module:function", called with `progress` and the arguments
    arguments: dict[str, Any]
    listener: int  # file descriptor
    restarts: int
    adapters: list[Kept]


@runtime_checkable
class _Watched(Protocol):
    """An engine whose thread counts its steps."""

    progress: Progress


@runtime_checkable
class _Posting(Protocol):
    """An engine that delivers all deltas of a step at once, on its own thread."""

    def generate_into(self, request: GenerateRequest, outlet: Outlet) -> Callable[[], None]: ...


def open_hosted(progress: Callable[[int, int], None], *, source: str, options: bytes) -> Engine:
    """Calls `open_engine` with arguments that can be sent: a path as text, and encoded `EngineOptions`."""
    gc.disable()  # what imports make lives on, and each collection would visit it
    from deepwell.engine.load import open_engine
    from deepwell.engine.options import EngineOptions

    gc.enable()
    return open_engine(Path(source), EngineOptions.decode(options), quiet=True, progress=progress)


class _Connection:
    """The connection of one user of the engine. The user numbers its requests."""

    def __init__(self, host: _Host, sock: socket.socket, id: int) -> None:
        self._host = host
        self._id = id
        self._channel = FramedChannel(
            sock,
            host.loop,
            Frames(MAX_REQUEST_BYTES),
            on_body=lambda body: self._take(decode_request(body)),
            on_end=self._ended,
            max_unread_bytes=MAX_UNREAD_BYTES,
        )
        self._lock = threading.Lock()  # requests are ended by the engine's thread and by the event loop's
        self._closed = False
        self._numbers: dict[str, int] = {}  # the engine's id of a running request -> its number
        self._abandon: dict[int, Callable[[], None]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._told = EngineStats()
        self._told_at = 0.0

    def open(self) -> None:
        """Sends the greeting and starts listening."""
        host = self._host
        self._told = host.stats()
        self.send(Hello(os.getpid(), host.engine.capabilities(), self._told))
        self.send(Adapters(host.adapters_version, tuple(host.engine.adapters())))
        self._channel.listen()

    def close(self) -> None:
        """Closes the connection and aborts its requests."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            abandon = list(self._abandon.values())
        self._channel.close()
        for one in abandon:
            one()
        for task in list(self._tasks.values()):
            task.cancel()
        self._host.connections.discard(self)

    def tick(self) -> None:
        """Sends the counters if they have changed since they were last sent."""
        stats = self._host.stats()
        if stats != self._told:
            self._told = stats
            self.send(Step([], stats))

    def send(self, message: msgspec.Struct) -> None:
        """Writes a message, and buffers what the socket does not accept. May be called from any thread."""
        self._channel.send(encode(message))

    def _ended(self, why: str) -> None:
        if why:
            _log.error("connection %d is closed: %s", self._id, why)
        self.close()

    def _take(self, message: Any) -> None:
        number: int = message.number
        if isinstance(message, Abort):
            if abandon := self._abandon.get(number):
                abandon()
            elif task := self._tasks.get(number):
                task.cancel()
            return
        if number in self._abandon or number in self._tasks:
            raise WireError(f"request {number} is there already")
        engine = self._host.engine
        if isinstance(message, Generate):
            request = replace(message.request, request_id=f"{self._id}-{number}")
            if isinstance(engine, _Posting) and request.params.grammar is None:
                self._submit(number, request, engine)
            else:
                self._start(number, self._generate(number, request))
        elif isinstance(message, Score):
            scores = engine.score(
                message.tokens, adapter=message.adapter, start=message.start, window=message.window
            )
            self._start(number, self._rows(number, scores))
        elif isinstance(message, Embed):
            self._start(number, self._rows(number, engine.embed(message.tokens, adapter=message.adapter)))
        elif isinstance(message, Prepare):
            work = engine.prepare(message.grammar, tenant=message.tenant, cache_salt=message.cache_salt)
            self._start(number, self._done(number, work))
        elif isinstance(message, LoadAdapter):
            load = self._host.change_adapters(engine.load_adapter, message.name, message.path)
            self._start(number, self._done(number, load))
        else:
            self._start(
                number, self._done(number, self._host.change_adapters(engine.unload_adapter, message.name))
            )

    def _submit(self, number: int, request: GenerateRequest, engine: _Posting) -> None:
        self._numbers[request.request_id] = number
        try:
            abandon = engine.generate_into(request, self)
        except Exception as error:
            del self._numbers[request.request_id]
            self.send(failure_of(number, error))
            return
        with self._lock:
            if request.request_id in self._numbers:  # the request may already have ended
                self._abandon[number] = abandon

    def post(self, deltas: list[Delta]) -> None:
        """Sends the results of one step. It runs on the engine's thread and catches every error, so that the engine goes on."""
        try:
            self._post(deltas)
        except Exception:
            _log.exception("connection %d cannot be told what a step brought: it is closed", self._id)
            self._host.loop.call_soon_threadsafe(self.close)

    def _post(self, deltas: list[Delta]) -> None:
        rows = [row_of(self._numbers[delta.request_id], delta) for delta in deltas]
        ended = [
            (row[0], delta.request_id) for row, delta in zip(rows, deltas, strict=True) if delta.finish_reason
        ]
        if ended:
            with self._lock:
                for number, request_id in ended:
                    del self._numbers[request_id]
                    self._abandon.pop(number, None)
        now = time.monotonic()
        stats = None
        if ended or now - self._told_at > _STATS_S:
            self._told_at = now
            stats = self._told = self._host.stats()
        self.send(Step(rows, stats))

    def _start(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        async def reported() -> None:
            try:
                await work
            except Exception as error:
                self.send(failure_of(number, error))
            finally:
                self._tasks.pop(number, None)

        self._tasks[number] = self._host.loop.create_task(reported())

    async def _generate(self, number: int, request: GenerateRequest) -> None:
        """Runs a request that needs more than a call: a grammar to compile, or an engine that iterates."""
        engine = self._host.engine
        try:
            if request.params.grammar is not None:
                await engine.prepare(
                    request.params.grammar, tenant=request.tenant, cache_salt=request.cache_salt
                )
            if isinstance(engine, _Posting):
                self._submit(number, request, engine)
                return
            async for delta in engine.generate(request):
                stats = self._host.stats() if delta.finish_reason else None
                self.send(Step([row_of(number, delta)], stats))
        except asyncio.CancelledError:
            self.send(Step([row_of(number, Delta("", (), finish_reason="abort"))]))
            raise

    async def _rows(self, number: int, work: Coroutine[Any, Any, Any]) -> None:
        rows = await work
        self.send(Rows(number, rows.tobytes()))
        self.tick()

    async def _done(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        await work
        self.send(Done(number))


class _Host:
    """The engine and its connections."""

    def __init__(
        self, engine: Engine, listener: socket.socket, restarts: int, on_adapters: Callable[[], None]
    ) -> None:
        self.engine = engine
        self.loop = asyncio.get_running_loop()
        self.connections: set[_Connection] = set()
        self.adapters_version = time.monotonic_ns()  # all processes of the machine share this clock
        self._listener = listener
        self._restarts = restarts
        self._on_adapters = on_adapters
        self._changing = asyncio.Lock()
        self._accepted = 0

    def stats(self) -> EngineStats:
        """Returns the engine's counters."""
        return replace(self.engine.stats(), restarts=self._restarts)

    def open(self) -> None:
        """Starts accepting connections."""
        self._listener.setblocking(False)
        self.loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock, _ = self._listener.accept()
            self._accepted += 1
            connection = _Connection(self, sock, self._accepted)
            self.connections.add(connection)
            connection.open()

    def tick(self) -> None:
        """Sends changed counters to all connections."""
        for connection in list(self.connections):
            connection.tick()

    async def change_adapters(self, change: Callable[..., object], *arguments: str) -> None:
        """Loads or unloads one adapter at a time and tells all connections."""
        async with self._changing:
            await asyncio.to_thread(change, *arguments)
            self.adapters_version = time.monotonic_ns()
            self._on_adapters()
            for connection in list(self.connections):
                connection.send(Adapters(self.adapters_version, tuple(self.engine.adapters())))

    def close(self) -> None:
        """Closes all connections."""
        self.loop.remove_reader(self._listener.fileno())
        for connection in list(self.connections):
            connection.close()


def _make(launch: Launch, control: ControlChannel) -> Engine:
    """Makes the engine, with the adapters that its predecessor had."""
    module, _, function = launch.factory.partition(":")
    engine: Engine = getattr(importlib.import_module(module), function)(control.progress, **launch.arguments)
    if isinstance(engine, _Watched):
        engine.progress = control.counters
    for kept in launch.adapters:
        try:
            found = engine.load_adapter(kept.name, kept.path)
        except DeepwellError as error:
            _log.error("the adapter %r cannot be loaded again: %s", kept.name, error)
            continue
        if found.digest != kept.digest:
            _log.warning("the adapter %r at %s has other weights than before", kept.name, kept.path)
    return engine


async def _serve(control: ControlChannel, launch: Launch) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hosts: list[_Host] = []

    def tick() -> None:
        for host in hosts:
            host.tick()

    control.attach(loop, lambda _: stop.set(), tick)
    making = loop.create_task(asyncio.to_thread(_make, launch, control))
    stopping = loop.create_task(stop.wait())
    await asyncio.wait((making, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not making.done():
        os._exit(0)  # a load cannot be interrupted, and leaves nothing to clean up
    if (error := making.exception()) is not None:
        if not isinstance(error, DeepwellError):
            _log.error("the engine cannot be made", exc_info=error)
        control.failed(cast("Exception", error))
        stopping.cancel()
        return
    engine = making.result()

    def keep_adapters() -> None:
        kept = [Kept(one.name, one.path, one.digest) for one in engine.adapters()]
        control.report(msgspec.msgpack.encode(kept))

    with socket.socket(fileno=launch.listener) as listener:
        host = _Host(engine, listener, launch.restarts, keep_adapters)
        hosts.append(host)
        keep_adapters()
        host.open()
        control.ready()
        await stopping
        host.close()
    await asyncio.to_thread(engine.close)


def main(descriptor: str) -> None:
    """Runs an engine for the parent process, until the parent orders a stop or ends."""
    # The engine's thread needs the interpreter after every step. With the default interval it could wait up to 5 ms.
    sys.setswitchinterval(0.001)
    control = ControlChannel(int(descriptor))
    launch = msgspec.msgpack.decode(control.launch(), type=Launch)
    asyncio.run(_serve(control, launch))
