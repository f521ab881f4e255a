"""One HTTP process of several, run by `supervise`. `deepwell serve` runs it as `python -m deepwell.fleet.worker FD`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.hosting.process import ProcessEngine
from deepwell.engine.hosting.remote.address import RemoteOptions, is_remote
from deepwell.engine.protocol import Engine
from deepwell.process.control import ControlChannel
from deepwell.process.progress import Progress
from deepwell.server.app import route_table
from deepwell.server.build import context_of
from deepwell.server.context import ServerContext
from deepwell.server.http.listen import raise_descriptor_limit
from deepwell.server.run import Server, freeze_heap
from deepwell.server.workers.forward import Forward, Forwarded
from deepwell.server.workers.supervise import ModelAt, WorkerLaunch
from deepwell.settings import Settings

__all__ = ["main"]


class _Counted:
    """ASGI middleware that counts every message of every request as progress.

    Many short pieces of work may fill one turn of the event loop, which answers no ping meanwhile, but moves.
    """

    def __init__(self, app: ASGIApp, progress: Progress) -> None:
        self._app = app
        self._progress = progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        turn = self._progress.turn

        async def send_counted(message: Message) -> None:
            turn()
            await send(message)

        turn()
        await self._app(scope, receive, send_counted)


class _WorkerServer(Server):
    """A server that takes orders from its parent, and no signals."""

    def __init__(
        self, context: ServerContext, control: ControlChannel, settings: Settings, address: str | None
    ) -> None:
        def forwarding(app: ASGIApp) -> ASGIApp:
            app = _Counted(app, control.counters)
            if not address:
                return Forwarded(app)
            prefixes = route_table().roots(in_one_process=True)
            return Forward(app, prefixes=prefixes, address=address, wait_s=settings.engine_wait_s)

        super().__init__(
            context,
            wrap=forwarding,
            log_level=settings.log_level,
            grace_seconds=settings.drain_seconds,
            on_ready=control.ready,
        )
        self._control_channel = control

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._control_channel.attach(asyncio.get_running_loop(), self._obey)
        await super().startup(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def _obey(self, order: str) -> None:
        self.should_exit = True
        if order == "now":
            self.force_exit = True


def _served(model: ModelAt, settings: Settings) -> ServedModel:
    engine: Engine
    if is_remote(model.address):
        from deepwell.engine.hosting.remote.probe import open_remote

        options = RemoteOptions.of(settings, name=model.name, address=model.address)
        engine = open_remote(options, Path(model.path))
    else:
        engine = ProcessEngine(model.address, wait_s=settings.engine_wait_s)
    codec = Codec.load(Path(model.path))
    return ServedModel(model.name, engine, codec, tasks=model.tasks, defaults=model.defaults)


def _private(path: Path) -> socket.socket:
    """Returns the socket on which other workers forward requests."""
    path.unlink(missing_ok=True)  # the predecessor's
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    return sock


def main(
    descriptor: str, wire: Callable[[ServerContext, Settings], object] = lambda _context, _settings: None
) -> None:
    """Serves for the parent, until it says stop or ends. `wire` adds what stands above the server."""
    sys.setswitchinterval(0.001)
    raise_descriptor_limit()
    control = ControlChannel(int(descriptor))
    launch = msgspec.msgpack.decode(control.launch(), type=WorkerLaunch)
    try:
        settings = Settings(**launch.settings)
        models = [_served(model, settings) for model in launch.models]
        context = context_of(settings, models, worker=launch.index, model_host=launch.model_host)
        wire(context, settings)
        folder = Path(launch.folder)
        address = str(folder / "worker-0") if launch.index else None
        server = _WorkerServer(context, control, settings, address)
        sockets = [socket.socket(fileno=launch.listener), _private(folder / f"worker-{launch.index}")]
    except Exception as error:
        control.failed(error)
        raise
    freeze_heap()
    server.run(sockets=sockets)
    for model in models:
        model.engine.close()


if __name__ == "__main__":
    main(sys.argv[1])
