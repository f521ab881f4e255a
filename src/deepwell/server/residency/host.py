"""`ModelHost`: loads and unloads the models on demand of one server, for all of its HTTP processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import shutil
import socket
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from deepwell.dialogue.opening import host_model
from deepwell.engine.hosting.process import EngineProcess, private_folder
from deepwell.errors import DeepwellError, EngineUnavailable, ModelNotFound
from deepwell.process.channel import FramedChannel
from deepwell.process.frames import Failure, Frames, failure_of
from deepwell.server.residency.lease import model_replaced
from deepwell.server.residency.policy import Grant, Load, ModelBusy, Order, Refuse, Residency, Unload, Waiter
from deepwell.server.residency.shelf import ModelShelf
from deepwell.server.residency.wire import (
    LIMIT_BYTES,
    Acquire,
    Done,
    Granted,
    HostState,
    List,
    Look,
    Offered,
    Release,
    ResidentModel,
    decode_request,
    encode,
)
from deepwell.server.residency.wire import Unload as UnloadRequest
from deepwell.settings import Settings

__all__ = ["ModelHost"]

_MAX_UNREAD_BYTES = 16 << 20  # of one HTTP process
_PATIENCE_S = 1.0  # with an engine that is loading while the server stops
_log = logging.getLogger("deepwell.models")


class _Client:
    """The connection of one HTTP process, which is the holder of its leases."""

    def __init__(self, host: ModelHost, sock: socket.socket) -> None:
        self._host = host
        self._channel = FramedChannel(
            sock,
            asyncio.get_running_loop(),
            Frames(LIMIT_BYTES),
            on_body=lambda body: host.take(self, decode_request(body)),
            on_end=lambda _why: host.lost(self),
            max_unread_bytes=_MAX_UNREAD_BYTES,
        )
        self._channel.listen()

    def send(self, message: msgspec.Struct) -> None:
        self._channel.send(encode(message))

    def close(self) -> None:
        self._channel.close()


class ModelHost:
    """The engines of models on demand, on an event loop in a thread of its own.

    Args:
        settings: how models are loaded, and the limits of `Residency`.
        served: names of the models that are loaded already, and stay.
        budget_bytes: memory for all models on demand together.
        turns: the file by which engines of the server share the processors.

    Attributes:
        address: path of the socket to which the HTTP processes connect.
    """

    def __init__(
        self, settings: Settings, *, served: Sequence[str], budget_bytes: int, turns: Path | None = None
    ) -> None:
        self._settings = settings
        self._turns = turns
        self._shelf = ModelShelf(settings, served)
        self._policy = Residency(
            budget_bytes,
            keep_alive_s=settings.model_keep_alive_s,
            loads_per_minute=settings.model_loads_per_minute,
        )
        self._folder = private_folder()
        self.address = str(self._folder / "models")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="deepwell-models", daemon=True)
        self._clients: set[_Client] = set()
        self._engines: dict[str, EngineProcess] = {}
        self._starting: set[EngineProcess] = set()
        self._load_numbers: dict[str, int] = {}
        self._versions: dict[str, str] = {}  # of the files that each engine runs
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._told = HostState()
        self._loads = self._unloads = self._failures = 0
        self._load_seconds = 0.0
        self._closing = False

    def start(self) -> None:
        """Starts to serve."""
        self._thread.start()

    def pids(self) -> dict[str, int]:
        """Returns the process ids of the loaded engines by model."""
        return {name: engine.supervisor.pid for name, engine in self._engines.items()}

    def close(self) -> None:
        """Ends every engine, and the thread. Closing twice is harmless."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._begin_close)
            self._thread.join()
        for engine in self._engines.values():
            engine.stop()
        self._engines.clear()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._loop.run_forever()
        self._loop.close()

    def _begin_close(self) -> None:
        self._closing = True
        self._loop.remove_reader(self._listener.fileno())
        for client in list(self._clients):
            client.close()
        for engine in self._engines.values():
            engine.supervisor.order("stop")
        for engine in list(
            self._starting
        ):  # a load may take minutes, and the threads of the loop may all wait for some
            threading.Thread(target=engine.supervisor.stop, args=(_PATIENCE_S,), name="deepwell-stop").start()
        self._loop.create_task(self._finish_close())

    async def _finish_close(self) -> None:
        """Waits for the loads and unloads under way, whose engines would otherwise outlive the server."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._loop.stop()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock, _ = self._listener.accept()
            client = _Client(self, sock)
            self._clients.add(client)
            client.send(self._state())

    # Requests

    def take(self, client: _Client, message: Any) -> None:
        """Takes a message of a client."""
        now = time.monotonic()
        if isinstance(message, Acquire):
            self._acquire(client, message)
        elif isinstance(message, Release):
            self._obey(self._policy.release(client, message.name, now))
        elif isinstance(message, UnloadRequest):
            try:
                orders = self._policy.unload(message.name, now)
            except DeepwellError as error:
                client.send(failure_of(message.number, error))
                return
            client.send(Done(message.number, bool(orders)))
            self._obey(orders)
        else:
            self._spawn(self._offer(client, message))

    def lost(self, client: _Client) -> None:
        """Ends the leases of a client that is gone."""
        client.close()
        self._clients.discard(client)
        self._obey(self._policy.drop(client, time.monotonic()))

    async def _offer(self, client: _Client, message: List | Look) -> None:
        try:
            if isinstance(message, Look):
                offers = (await asyncio.to_thread(self._shelf.look, message.name),)
            else:
                offers = tuple(await asyncio.to_thread(self._shelf.list))
        except Exception as error:
            client.send(self._failure(message.number, error))
        else:
            client.send(Offered(message.number, offers))

    def _acquire(self, client: _Client, message: Acquire) -> None:
        """Asks the policy at once: a release that comes after this message must find the wait that it ends."""
        now = time.monotonic()
        size_bytes = self._shelf.known_bytes(message.name)
        if not size_bytes:
            error = ModelNotFound(f"there is no model {message.name!r} here", param="model")
            client.send(failure_of(message.number, error))
            return
        loaded = self._versions.get(message.name, "")
        if loaded and message.version and message.version != loaded:
            try:
                self._obey(self._policy.unload(message.name, now))
            except ModelBusy:
                client.send(failure_of(message.number, model_replaced(message.name)))
                return
        deadline = now + message.wait_s if message.wait_s else math.inf
        waiter = Waiter(client, message.number, message.name, message.tenant, deadline)
        self._obey(self._policy.acquire(waiter, size_bytes, now))

    # Orders of the policy

    def _obey(self, orders: Sequence[Order]) -> None:
        for order in orders:
            if isinstance(order, Load):
                self._spawn(self._load(order.name))
            elif isinstance(order, Unload):
                self._spawn(self._unload(order.name))
            else:
                client, number = order.waiter.holder, order.waiter.number
                assert isinstance(client, _Client)
                if isinstance(order, Refuse):
                    client.send(self._failure(number, order.error))
                else:
                    assert isinstance(order, Grant)
                    name = order.waiter.name
                    client.send(self._granted(number, name))
        self._look_ahead()
        state = self._state()
        if state != self._told:
            self._told = state
            for client in self._clients:
                client.send(state)

    def _failure(self, number: int, error: Exception) -> Failure:
        """Returns the message of an error for a client, who need not know where the store is."""
        found, store = failure_of(number, error), f"{self._settings.models_dir}/"
        return structs.replace(
            found, message=found.message.replace(store, ""), fix=found.fix.replace(store, "")
        )

    def _granted(self, number: int, name: str) -> Granted:
        return Granted(number, self._engines[name].address, self._load_numbers[name], self._versions[name])

    def _look_ahead(self) -> None:
        """Sets the timer for the policy's next tick."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        moment = self._policy.next_tick(now)
        if math.isfinite(moment) and not self._closing:
            self._timer = self._loop.call_later(max(moment - now, 0.001), self._tick)

    def _tick(self) -> None:
        self._obey(self._policy.tick(time.monotonic()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, name: str) -> None:
        started = time.monotonic()
        try:
            engine, version = await asyncio.to_thread(self._start_engine, name)
        except Exception as error:
            self._failures += 1
            told = (
                error
                if isinstance(error, DeepwellError)
                else DeepwellError(f"{type(error).__name__}: {error}")
            )
            _log.error("the model %r could not be loaded: %s", name, told)
            self._obey(self._policy.failed(name, told, time.monotonic()))
            return
        self._engines[name], self._versions[name] = engine, version
        self._load_numbers[name] = next(self._numbers)
        self._loads += 1
        self._load_seconds += time.monotonic() - started
        _log.info("loaded %r in %.2f s", name, time.monotonic() - started)
        self._obey(self._policy.loaded(name, time.monotonic()))

    def _start_engine(self, name: str) -> tuple[EngineProcess, str]:
        """Starts an engine and waits until it is ready. Returns the version of its files, too."""
        if self._closing:
            raise EngineUnavailable("the server is shutting down", fix="send requests elsewhere")
        settings = self._settings.with_model(name)
        planned, version = self._shelf.plan(name)
        engine = host_model(settings, planned, turns=self._turns)
        self._starting.add(engine)
        try:
            if not self._closing:
                engine.supervisor.wait_ready()
        except BaseException:
            engine.stop()
            raise
        finally:
            self._starting.discard(engine)
        if self._closing:
            engine.stop()
            raise EngineUnavailable("the server is shutting down", fix="send requests elsewhere")
        return engine, version

    async def _unload(self, name: str) -> None:
        engine = self._engines.pop(name)
        self._versions.pop(name, None)
        await asyncio.to_thread(engine.stop)
        self._unloads += 1
        _log.info("unloaded %r", name)
        self._obey(self._policy.unloaded(name, time.monotonic()))

    def _state(self) -> HostState:
        now = time.monotonic()
        residents = tuple(
            ResidentModel(
                one.name,
                one.state,
                one.size_bytes,
                self._load_numbers.get(one.name, 0),
                self._versions.get(one.name, ""),
                round(one.expires_in_s, 3) if math.isfinite(one.expires_in_s) else None,
                one.gives_way,
            )
            for one in self._policy.residents(now)
        )
        return HostState(
            residents,
            self._policy.budget_bytes,
            self._policy.used_bytes,
            self._loads,
            self._load_seconds,
            self._unloads,
            self._failures,
        )
