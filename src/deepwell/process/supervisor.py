"""Supervision of a child process: it is restarted when it dies and killed when it stops answering. Holds both ends.

Both sides talk over a socket pair. When the parent ends, the child reads the end of the stream and exits. When the child
ends, the parent notices at once in the same way. A ping every second detects a child that is alive but hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable
from deepwell.process.frames import Failure, Frames, WireError, encode, error_of, failure_of

__all__ = ["ControlChannel", "State", "Supervisor"]

State = Literal["new", "starting", "ready", "restarting", "stopped"]

PING_S = 1.0
START_S = 60.0  # allowed silence of a child that is not ready, because it imports before it answers
STOP_S = 15.0  # from the order to stop to the kill
LONGEST_PAUSE_S = 30.0  # between two starts of a child that keeps failing
SETTLED_S = 60.0  # a child that was ready for at least this long does not count as failing at its start
_LIMIT = 16 << 20
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger("deepwell")


class _Launch(msgspec.Struct, tag=1, array_like=True, frozen=True):
    payload: bytes


class _Ping(msgspec.Struct, tag=2, array_like=True, frozen=True):
    pass


class _Order(msgspec.Struct, tag=3, array_like=True, frozen=True):
    name: str


class _Pong(msgspec.Struct, tag=4, array_like=True, frozen=True):
    pass


class _Progress(msgspec.Struct, tag=5, array_like=True, frozen=True):
    done: int
    total: int


class _Ready(msgspec.Struct, tag=6, array_like=True, frozen=True):
    pass


class _Failed(msgspec.Struct, tag=7, array_like=True, frozen=True):
    failure: Failure


class _Report(msgspec.Struct, tag=8, array_like=True, frozen=True):
    payload: bytes


_orders = msgspec.msgpack.Decoder(_Launch | _Ping | _Order)
_news = msgspec.msgpack.Decoder(_Pong | _Progress | _Ready | _Failed | _Report)


def pause_of(failures: int) -> float:
    """Returns the seconds before the next start, after `failures` children in a row that ended before they settled."""
    return 0.0 if failures <= 1 else min(LONGEST_PAUSE_S, 0.25 * 2.0 ** min(failures - 1, 16))


class Supervisor:
    """Keeps one child process running, from `start` to `stop`, on its own thread.

    Args:
        name: name of the child in messages.
        module: the child's module, run as `python -m module CONTROL_FD`.
        launch: returns the first message to a child, given the number of children that ended before it.
        descriptors: files that the child inherits, under the same numbers.
        timeout_s: a child that has not answered for this long is killed.
        on_report: called on the supervisor's thread with each report of the child.
        on_progress: called there with parts done and total parts, while the first child starts.
    """

    def __init__(
        self,
        name: str,
        module: str,
        launch: Callable[[int], bytes],
        *,
        descriptors: Sequence[int] = (),
        timeout_s: float = 10.0,
        on_report: Callable[[bytes], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.state: State = "new"
        self.pid = 0  # process id of the current child; 0 if there is none
        self.last_end = ""  # how the last child ended, in words
        self.pause_of = pause_of
        self._module = module
        self._launch = launch
        self._descriptors = tuple(descriptors)
        self._timeout_s = timeout_s
        self._period_s = min(PING_S, timeout_s / 2)
        self._on_report = on_report
        self._on_progress = on_progress
        self._stopping = threading.Event()
        self._replacing = False
        self._first = threading.Event()  # the first child is ready, or has failed
        self._error: DeepwellError | None = None
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=f"deepwell-{name}-supervisor", daemon=True)

    def start(self) -> None:
        """Starts the first child and returns at once."""
        self.state = "starting"
        self._thread.start()

    def wait_ready(self) -> None:
        """Waits for the first child.

        Raises:
            DeepwellError: the reason why the child did not start; it is not retried.
        """
        self._first.wait()
        if self._error is not None:
            self.stop()
            raise self._error

    def order(self, name: str) -> None:
        """Sends an order to the child, if there is one."""
        with self._lock, contextlib.suppress(OSError):
            if self._control is not None:
                self._control.sendall(encode(_Order(name)))

    def replace(self, patience_s: float) -> None:
        """Lets the child end by itself and waits until its successor is ready. A child that does not end is killed."""
        process, before = self._process, self.restarts
        self._replacing = True
        self.order("stop")
        until = time.monotonic() + patience_s
        while not self._stopping.wait(0.02) and time.monotonic() < until:
            if self.restarts > before and self.state == "ready":
                return
        if process is not None and self.restarts == before:
            process.kill()

    def stop(self, patience_s: float = STOP_S) -> None:
        """Ends the child, by order and then by force, and waits for it. Stopping twice is harmless."""
        self._stopping.set()
        self.order("stop")
        self._thread.join(patience_s)
        process = self._process
        if self._thread.is_alive() and process is not None:
            process.kill()
            self._thread.join()
        self.state = "stopped"

    def _run(self) -> None:
        try:
            self._keep_alive()
        finally:
            self._first.set()

    def _keep_alive(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            ready_at = self._one_life()
            self.pid = 0
            if self._stopping.is_set():
                break
            if not self._first.is_set():
                self._error = self._error or EngineUnavailable(
                    f"the {self.name} ended while it started: {self.last_end}", fix="see its output above"
                )
                break
            self.restarts += 1
            self.state = "restarting"
            if self._replacing:
                self._replacing, failures = False, 0
                continue
            settled = ready_at is not None and time.monotonic() - ready_at >= SETTLED_S
            failures = 1 if settled else failures + 1
            pause = self.pause_of(failures)
            _log.error("the %s %s; the next one starts in %g s", self.name, self.last_end, pause)
            self._stopping.wait(pause)

    def _one_life(self) -> float | None:
        """Runs one child until it ends, and returns the time when it became ready, or None."""
        control, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109
        try:
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", self._module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *self._descriptors),
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                    process_group=0,  # a terminal's Ctrl-C goes only to the parent, which decides what it means
                )
        except OSError as error:
            control.close()
            self.last_end = f"could not be started ({error})"
            return None
        with self._lock:
            self._process, self._control = process, control
        self.pid = process.pid
        ready_at: float | None = None
        try:
            control.sendall(encode(_Launch(self._launch(self.restarts))))
            if self._stopping.is_set():  # the stop was requested before there was a child to tell
                control.sendall(encode(_Order("stop")))
            ready_at = self._watch(process, control)
        except (OSError, WireError, msgspec.DecodeError) as error:
            self.last_end = f"lost its connection ({error})"
        finally:
            with self._lock:
                self._control = None
            control.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()
        if process.returncode < 0:
            ended = f"was ended by {signal.Signals(-process.returncode).name}"
            self.last_end = f"{self.last_end} and {ended}" if self.last_end else ended
        else:
            self.last_end = self.last_end or f"exited with status {process.returncode}"
        return ready_at

    def _watch(self, process: subprocess.Popen[bytes], control: socket.socket) -> float | None:
        """Reads the child's messages until it is gone, and kills it if it is silent. Returns the time it became ready."""
        self.last_end = ""
        frames = Frames(_LIMIT)
        ready_at: float | None = None
        missed = 0
        due = time.monotonic() + self._period_s
        while True:
            control.settimeout(max(due - time.monotonic(), 0.001))
            try:
                data = control.recv(1 << 16)
            except TimeoutError:
                # Silence is counted in our own periods and not by a clock, so that a suspended machine makes no child late.
                due = time.monotonic() + self._period_s
                missed += 1
                patience_s = self._timeout_s if ready_at else max(self._timeout_s, START_S)
                if missed * self._period_s > patience_s:
                    self.last_end = f"did not answer for {patience_s:g} s"
                    process.kill()
                    return ready_at
                control.settimeout(self._period_s)
                control.sendall(encode(_Ping()))
                continue
            except ConnectionError:  # the child died with unread bytes
                data = b""
            if not data:
                return ready_at
            missed = 0
            for body in frames.feed(data):
                news = _news.decode(body)
                if isinstance(news, _Ready):
                    ready_at = time.monotonic()
                    self.state = "ready"
                    self._first.set()
                elif isinstance(news, _Failed):
                    error = error_of(news.failure)
                    self.last_end = f"could not start: {error}"
                    if not self._first.is_set():
                        self._error = error
                elif isinstance(news, _Progress):
                    if self._on_progress is not None and not self._first.is_set():
                        self._on_progress(news.done, news.total)
                elif isinstance(news, _Report) and self._on_report is not None:
                    self._on_report(news.payload)


class ControlChannel:
    """The child's end of the channel to its supervisor. The child's event loop serves it, so a hanging loop does not answer."""

    def __init__(self, descriptor: int) -> None:
        _die_with_parent()
        # A service manager signals all processes of the service, but only the parent knows the order in which to end them.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._control = socket.socket(fileno=descriptor)
        self._control.set_inheritable(False)
        self._frames = Frames(_LIMIT)
        self._lock = threading.Lock()
        self._backlog: list[_Launch | _Ping | _Order] = []

    def launch(self) -> bytes:
        """Waits for the parent's first message and returns its payload."""
        while True:
            self._backlog += self._read()
            if self._backlog and isinstance(first := self._backlog[0], _Launch):
                del self._backlog[0]
                return first.payload

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_order: Callable[[str], None],
        on_ping: Callable[[], None] | None = None,
    ) -> None:
        """Starts answering pings and passing on orders. `on_ping` is called at each ping."""

        def readable() -> None:
            for one in self._read():
                self._obey(one, on_order)
                if on_ping is not None and isinstance(one, _Ping):
                    on_ping()

        loop.add_reader(self._control.fileno(), readable)
        for one in self._backlog:
            self._obey(one, on_order)
        self._backlog.clear()

    def _obey(self, one: Any, on_order: Callable[[str], None]) -> None:
        if isinstance(one, _Ping):
            self._tell(_Pong())
        elif isinstance(one, _Order):
            on_order(one.name)

    def _read(self) -> list[_Launch | _Ping | _Order]:
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
        self._tell(_Ready())

    def progress(self, done: int, total: int) -> None:
        """Reports the parts done and total parts of the start. May be called from any thread."""
        self._tell(_Progress(done, total))

    def failed(self, error: Exception) -> None:
        """Reports that the child cannot start and will exit."""
        self._tell(_Failed(failure_of(0, error)))

    def report(self, payload: bytes) -> None:
        """Sends a report to the parent. May be called from any thread."""
        self._tell(_Report(payload))

    def _tell(self, news: msgspec.Struct) -> None:
        with self._lock, contextlib.suppress(OSError):  # the parent is gone, which the reader will notice
            self._control.sendall(encode(news))


def _die_with_parent() -> None:
    """Asks the kernel for SIGKILL when the parent's thread ends, since even a stopped child must not outlive it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
