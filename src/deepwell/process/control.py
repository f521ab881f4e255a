"""The messages between a supervisor and its child, and the child's end of the channel.

Both sides talk over a socket pair. When the parent ends, the child reads the end of the stream and exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from deepwell.process.frames import Failure, Frames, encode, failure_of
from deepwell.process.progress import Progress

__all__ = [
    "LIMIT_BYTES",
    "ControlChannel",
    "Failed",
    "Launch",
    "Order",
    "Ping",
    "Pong",
    "Ready",
    "Report",
    "Started",
    "decode_news",
]

LIMIT_BYTES = 16 << 20  # of a message
_PR_SET_PDEATHSIG = 1


class Launch(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """The first message to a child. `progress` is the descriptor of its shared counters."""

    payload: bytes
    progress: int


class Ping(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """The supervisor asks for a sign of life."""


class Order(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """The supervisor gives an order."""

    name: str


class Pong(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """The child's event loop answers a ping."""


class Started(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Parts of the child's start that are done, and parts in all."""

    done: int
    total: int


class Ready(msgspec.Struct, tag=6, array_like=True, frozen=True):
    """The child is ready."""


class Failed(msgspec.Struct, tag=7, array_like=True, frozen=True):
    """The child cannot start."""

    failure: Failure


class Report(msgspec.Struct, tag=8, array_like=True, frozen=True):
    """The child reports to whoever started it."""

    payload: bytes


_orders = msgspec.msgpack.Decoder(Launch | Ping | Order)
_news = msgspec.msgpack.Decoder(Pong | Started | Ready | Failed | Report)


def decode_news(body: bytes) -> Pong | Started | Ready | Failed | Report:
    """Decodes a message of a child."""
    return _news.decode(body)


class ControlChannel:
    """The child's end of the channel to its supervisor. The child's event loop serves it, so a hanging loop does not answer.

    Attributes:
        counters: progress that the supervisor reads. They are shared once `launch` has returned.
    """

    def __init__(self, descriptor: int) -> None:
        _die_with_parent()
        # A service manager signals all processes of the service, but only the parent knows the order in which to end them.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._control = socket.socket(fileno=descriptor)
        self._control.set_inheritable(False)
        self._frames = Frames(LIMIT_BYTES)
        self._lock = threading.Lock()
        self._backlog: list[Launch | Ping | Order] = []
        self.counters = Progress.private()

    def launch(self) -> bytes:
        """Waits for the parent's first message and returns its payload."""
        while True:
            self._backlog += self._read()
            if self._backlog and isinstance(first := self._backlog[0], Launch):
                del self._backlog[0]
                self.counters = Progress.opened(first.progress)
                return first.payload

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_order: Callable[[str], None],
        on_ping: Callable[[], None] | None = None,
    ) -> None:
        """Starts answering pings and passing on orders. `on_ping` is called at each ping."""

        def readable() -> None:
            self.counters.turn()
            for one in self._read():
                self._obey(one, on_order)
                if on_ping is not None and isinstance(one, Ping):
                    on_ping()

        loop.add_reader(self._control.fileno(), readable)
        for one in self._backlog:
            self._obey(one, on_order)
        self._backlog.clear()

    def _obey(self, one: Any, on_order: Callable[[str], None]) -> None:
        if isinstance(one, Ping):
            self._tell(Pong())
        elif isinstance(one, Order):
            on_order(one.name)

    def _read(self) -> list[Launch | Ping | Order]:
        """Returns the received messages. If the parent is gone, the process exits, because there is no work left."""
        try:
            data = self._control.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            os._exit(1)
        return [_orders.decode(body) for body in self._frames.feed(data)]

    def ready(self) -> None:
        """Reports that the child is ready."""
        self._tell(Ready())

    def progress(self, done: int, total: int) -> None:
        """Reports the parts done and total parts of the start. May be called from any thread."""
        self._tell(Started(done, total))

    def failed(self, error: Exception) -> None:
        """Reports that the child cannot start and will exit."""
        self._tell(Failed(failure_of(0, error)))

    def report(self, payload: bytes) -> None:
        """Sends a report to the parent. May be called from any thread."""
        self._tell(Report(payload))

    def _tell(self, news: msgspec.Struct) -> None:
        with self._lock, contextlib.suppress(OSError):  # the parent is gone, which the reader will notice
            self._control.sendall(encode(news))


def _die_with_parent() -> None:
    """Asks the kernel for SIGKILL when the parent's thread ends, since even a stopped child must not outlive it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
