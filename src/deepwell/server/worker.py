"""One HTTP process of several: `python -m deepwell.server.worker FD`, run by `workers`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Generator
from pathlib import Path

import msgspec

from deepwell.engine.process import ProcessEngine
from deepwell.engine.supervisor import Leash
from deepwell.server.app import create_app
from deepwell.server.build import Served, build_service
from deepwell.server.forward import Forward
from deepwell.server.run import Server
from deepwell.server.service import Service
from deepwell.server.text import Codec
from deepwell.server.workers import ModelAt, WorkerLaunch
from deepwell.settings import Settings

__all__ = ["main"]

_KEPT_BY_ONE = "/v1/responses"  # background responses run in the memory of worker 0


class _WorkerServer(Server):
    """Takes orders from the parent, and no signals."""

    def __init__(self, service: Service, leash: Leash, settings: Settings, address: str | None) -> None:
        app = create_app(service)
        super().__init__(
            service,
            app=Forward(app, prefix=_KEPT_BY_ONE, address=address, wait_s=settings.engine_wait_s)
            if address
            else app,
            log_level=settings.log_level,
            grace_seconds=settings.drain_seconds,
            on_ready=leash.ready,
        )
        self._leash = leash

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._leash.attach(asyncio.get_running_loop(), self._obey)
        await super().startup(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def _obey(self, order: str) -> None:
        self.should_exit = True
        if order == "now":
            self.force_exit = True


def _served(model: ModelAt, settings: Settings) -> Served:
    engine = ProcessEngine(model.address, wait_s=settings.engine_wait_s)
    return Served(model.name, engine, Codec.load(Path(model.path)))


def _private(path: Path) -> socket.socket:
    """The socket on which other workers pass requests on."""
    path.unlink(missing_ok=True)  # the predecessor's
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    return sock


def main(descriptor: str) -> None:
    """Serve for the parent, until it says stop or ends."""
    sys.setswitchinterval(0.001)
    leash = Leash(int(descriptor))
    launch = msgspec.msgpack.decode(leash.launch(), type=WorkerLaunch)
    try:
        settings = Settings(**launch.settings)
        embedder = _served(launch.embedder, settings) if launch.embedder else None
        service = build_service(settings, _served(launch.main, settings), embedder, worker=launch.index)
        folder = Path(launch.folder)
        address = str(folder / "worker-0") if launch.index else None
        server = _WorkerServer(service, leash, settings, address)
        sockets = [socket.socket(fileno=launch.listener), _private(folder / f"worker-{launch.index}")]
    except Exception as error:
        leash.failed(error)
        raise
    server.run(sockets=sockets)
    service.engine.close()


if __name__ == "__main__":
    main(sys.argv[1])
