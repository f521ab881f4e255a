"""Several HTTP processes on one socket over one engine, which their parent starts, watches and stops."""

from __future__ import annotations

import gc
import os
import queue
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pydantic import SecretStr

from deepwell.dialogue.model import Task
from deepwell.engine.hosting.process import private_folder
from deepwell.engine.hosting.remote.address import is_remote
from deepwell.models.store.sampling import OPENAI, SamplingDefaults
from deepwell.process.supervisor import Supervisor
from deepwell.settings import Settings

__all__ = ["ModelAt", "WorkerLaunch", "serve_workers"]

_MARGIN_S = 10.0  # from the end of the grace period to the kill
_REPLACE_S = 60.0  # for the start of a worker that replaces another


class ModelAt(msgspec.Struct, array_like=True, frozen=True):
    """A model that an engine's process serves, or a server elsewhere.

    Attributes:
        address: path of the socket, or kind and URL of the server.
    """

    name: str
    path: str
    address: str
    tasks: tuple[Task, ...]
    defaults: SamplingDefaults = OPENAI


class WorkerLaunch(msgspec.Struct, array_like=True, frozen=True):
    """The orders that a worker starts with."""

    index: int
    settings: dict[str, Any]
    listener: int  # file descriptor
    folder: str  # holds the workers' own sockets, worker-INDEX
    models: tuple[ModelAt, ...]
    model_host: str  # address of the process that loads models on demand; empty: there are none


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def serve_workers(
    settings: Settings,
    listener: socket.socket,
    models: Sequence[ModelAt],
    on_ready: Callable[[], None],
    *,
    model_host: str = "",
    program: str = "deepwell.server.workers.worker",
) -> None:
    """Serves until SIGINT or SIGTERM. A second signal ends answers in flight at once. SIGHUP replaces worker after worker.

    Args:
        model_host: address of the process that loads models on demand; empty: there are none.
        program: module that a worker runs.

    A worker that dies or does not answer is replaced. Only its own connections are lost.

    Raises:
        DeepwellError: workers cannot start.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: signals.put(number))
    values = {name: _plain(getattr(settings, name)) for name in type(settings).model_fields}
    gc.enable()  # the start is over for this process: the workers have their own
    listener.listen(2048)  # connections wait here while no worker is up
    # Private, and removed with the engine or the host of models; one of our own, where the engine is elsewhere
    sockets = [model_host, *(model.address for model in models if not is_remote(model.address))]
    place = next(filter(None, sockets), "")
    folder = Path(place).parent if place else private_folder()
    metrics = folder / "metrics"
    metrics.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # for the workers, which count together

    def supervisor(index: int) -> Supervisor:
        launch = WorkerLaunch(index, values, listener.fileno(), str(folder), tuple(models), model_host)

        def told(restarts: int) -> bytes:
            if restarts:
                _forget_the_dead(metrics)
            return msgspec.msgpack.encode(launch)

        return Supervisor(
            f"worker {index}",
            program,
            told,
            descriptors=(listener.fileno(),),
            timeout_s=settings.engine_timeout_s,
        )

    workers = [supervisor(index) for index in range(settings.workers)]
    try:
        workers[0].start()
        workers[0].wait_ready()  # it upgrades the database
        for worker in workers[1:]:
            worker.start()
        for worker in workers[1:]:
            worker.wait_ready()
        on_ready()
        while signals.get() == signal.SIGHUP:
            for worker in workers:
                worker.replace(settings.drain_seconds + _REPLACE_S)
    finally:
        _stop(workers, signals, settings.drain_seconds + _MARGIN_S)
        if not place:
            shutil.rmtree(folder, ignore_errors=True)


def _forget_the_dead(metrics: Path) -> None:
    """Removes the gauges of processes that have ended, which would be counted for ever."""
    for file in metrics.glob("gauge_live*.db"):
        if not Path(f"/proc/{file.stem.rpartition('_')[2]}").exists():
            file.unlink(missing_ok=True)


def _stop(workers: Sequence[Supervisor], signals: queue.SimpleQueue[int], patience_s: float) -> None:
    """Drains all workers at once. A signal other than SIGHUP meanwhile ends what is in flight."""
    threads = [
        threading.Thread(target=worker.stop, args=(patience_s,))
        for worker in workers
        if worker.state != "new"
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        try:
            if signals.get(timeout=0.1) != signal.SIGHUP:
                for worker in workers:
                    worker.order("now")
        except queue.Empty:
            continue
