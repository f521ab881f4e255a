"""Runs the application under uvicorn until a signal or the caller stops it."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from deepwell.errors import PortInUse
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.families.family import BackgroundWorker
from deepwell.server.http.acceptor import Acceptor
from deepwell.server.http.connection import Connection
from deepwell.server.http.connection_table import ConnectionTable
from deepwell.server.http.listen import port_owner, raise_descriptor_limit
from deepwell.server.observe.logs import name_requests

__all__ = ["Server", "freeze_heap", "serve"]

GRACE_SECONDS = 20.0
_YOUNG: Final = 20_000
"""Objects that are made before the young ones are visited. A streamed answer makes thousands, freed without a visit."""


class Server(uvicorn.Server):
    """A uvicorn server whose answers in flight end by themselves within `grace_seconds`, or with an error that says why."""

    def __init__(
        self,
        context: ServerContext,
        *,
        wrap: Callable[[ASGIApp], ASGIApp] | None = None,
        log_level: str = "warning",
        grace_seconds: float = GRACE_SECONDS,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        app = create_app(context)
        super().__init__(
            uvicorn.Config(
                app if wrap is None else wrap(app),
                loop="asyncio",
                http=Connection,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level=log_level,
                server_header=False,
                # This passes after the streams were told to end. It covers a client that does not read.
                timeout_graceful_shutdown=int(grace_seconds) + 2,
            )
        )
        self._context = context
        self._workers: Sequence[BackgroundWorker] = app.state.workers
        self._grace_seconds = grace_seconds
        self._on_ready = on_ready
        self._connections = ConnectionTable(
            context.options.connections,
            count=lambda reason: context.metrics.cut_connections.labels(reason).inc(),
            show=context.metrics.connections.set,
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        servers: list[Any] = [Acceptor(sock, self._connections, self._connect) for sock in sockets or ()]
        self.servers = servers  # closed by uvicorn
        for server in servers:
            server.start()
        self._connections.watch(asyncio.get_running_loop())
        for answering in self._context.served:
            # From here on, an engine in another process reports to this event loop.
            answering.model.engine.stats()
        if self._context.on_demand is not None:
            self._context.on_demand.client.connect()
        if self.started:
            for worker in self._workers:
                worker.start()
            if self._on_ready:
                self._on_ready()

    def _connect(self) -> Connection:
        return Connection(
            self.config,
            self.server_state,
            self.lifespan.state,
            self._connections,
            self._context.options.connections.client_timeout_s,
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._context.draining = True
        ending = asyncio.get_running_loop().call_later(self._grace_seconds, self._context.stop)
        try:
            for worker in self._workers:
                await worker.stop()
            await super().shutdown(sockets)
        finally:
            ending.cancel()
            await self._context.close_state()
            self._context.observer.close()


def freeze_heap() -> None:
    """Takes every object that exists out of garbage collection, so that collections while serving do not visit them.

    They are modules, schemas and routes for the most part, which live as long as the process. A collection first would find
    a thousand small objects, in a tenth of the time of the whole start. Collections are switched on, where the start had
    switched them off, and are seldom: at the default of 700 objects they took a seventh of the processor time of short streams.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    gc.enable()


def serve(
    context: ServerContext,
    listener: socket.socket,
    *,
    log_level: str,
    on_ready: Callable[[], None],
    drain_seconds: float = GRACE_SECONDS,
) -> None:
    """Serves until SIGINT or SIGTERM. A second signal ends answers in flight at once.

    Raises:
        PortInUse: another process began to listen after the socket was bound.
    """
    # The engine's thread needs the interpreter back after every step of some milliseconds. With the default interval, it
    # would wait up to 5 ms whenever this thread is busy with HTTP.
    sys.setswitchinterval(0.001)
    raise_descriptor_limit()
    name_requests(log_level)
    # uvicorn raises the signal again when it has shut down. It stopped as asked, so the signal must not end the process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    server = Server(context, log_level=log_level, grace_seconds=drain_seconds, on_ready=on_ready)
    freeze_heap()
    try:
        server.run(sockets=[listener])
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        port = listener.getsockname()[1]
        raise PortInUse(f"port {port} is taken by {port_owner(port)}", fix=f"use --port {port + 1}") from None
