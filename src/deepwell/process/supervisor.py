"""Supervision of a child process: it is restarted when it dies and killed when it hangs.

A child hangs when there is work and nothing moves. Its event loop has work when a ping waits for an answer; it moves when
it answers, or counts work that it has done (`Progress`). Its working thread says itself that it has work, and moves by its
steps. So a child that is slow but moves lives on, and a thread that hangs is found although the event loop answers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable
from deepwell.process.control import (
    LIMIT_BYTES,
    Failed,
    Launch,
    Order,
    Ping,
    Ready,
    Report,
    Started,
    decode_news,
)
from deepwell.process.frames import Frames, WireError, encode, error_of
from deepwell.process.progress import Progress

__all__ = ["STEP_S", "State", "Supervisor"]

State = Literal["new", "starting", "ready", "restarting", "stopped"]

PING_S = 1.0
START_S = 60.0  # allowed silence of a child that is not ready, because it imports before it answers
STEP_S = 60.0  # allowed length of one step of a child's working thread
STOP_S = 15.0  # from the order to stop to the kill
LONGEST_PAUSE_S = 30.0  # between two starts of a child that keeps failing
SETTLED_S = 60.0  # a child that was ready for at least this long does not count as failing at its start
_log = logging.getLogger("deepwell")


def pause_of(failures: int) -> float:
    """Returns the seconds before the next start, after `failures` children in a row that ended before they settled."""
    return 0.0 if failures <= 1 else min(LONGEST_PAUSE_S, 0.25 * 2.0 ** min(failures - 1, 16))


def _ended_by(number: signal.Signals) -> str:
    return f"was ended by {number.name}"


_KILLED = _ended_by(signal.SIGKILL)  # and by nothing of ours, which would have given a reason
_FIRST_KILLS = 2  # of a child that was never ready: it is started again, as its fault is not told


class Supervisor:
    """Keeps one child process running, from `start` to `stop`, on its own thread.

    Args:
        name: name of the child in messages.
        module: the child's module, run as `python -m module CONTROL_FD`.
        launch: returns the first message to a child, given the number of children that ended before it.
        descriptors: files that the child inherits, under the same numbers.
        timeout_s: a child whose event loop neither answers nor moves for this long is killed.
        step_timeout_s: a child whose working thread has work and makes no step for this long is killed.
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
        step_timeout_s: float = STEP_S,
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
        self._step_timeout_s = step_timeout_s
        self._period_s = min(PING_S, timeout_s / 2, step_timeout_s / 2)
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
            DeepwellError: the reason why the child did not start; it is not retried, unless somebody killed it.
        """
        self._first.wait()
        if self._error is not None:
            self.stop()
            raise self._error

    def order(self, name: str) -> None:
        """Sends an order to the child, if there is one."""
        with self._lock, contextlib.suppress(OSError):
            if self._control is not None:
                self._control.sendall(encode(Order(name)))

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
            by_others = self.last_end == _KILLED and failures < _FIRST_KILLS
            if not self._first.is_set() and not by_others:
                self._error = self._error or EngineUnavailable(
                    f"the {self.name} ended while it started: {self.last_end}", fix="see its output above"
                )
                break
            self.state = "restarting"
            self.restarts += 1  # last: who sees the count rise must not take the dead child for the next one
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
        progress = Progress.shared()
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109
        try:
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", self._module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), progress.descriptor, *self._descriptors),
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                    process_group=0,  # a terminal's Ctrl-C goes only to the parent, which decides what it means
                )
        except OSError as error:
            control.close()
            progress.close()
            self.last_end = f"could not be started ({error})"
            return None
        with self._lock:
            self._process, self._control = process, control
        self.pid = process.pid
        ready_at: float | None = None
        try:
            control.sendall(encode(Launch(self._launch(self.restarts), progress.descriptor)))
            if self._stopping.is_set():  # the stop was requested before there was a child to tell
                control.sendall(encode(Order("stop")))
            ready_at = self._watch(process, control, _Stillness(progress))
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
            progress.close()
        if process.returncode < 0:
            ended = _ended_by(signal.Signals(-process.returncode))
            self.last_end = f"{self.last_end} and {ended}" if self.last_end else ended
        else:
            self.last_end = self.last_end or f"exited with status {process.returncode}"
        return ready_at

    def _watch(
        self, process: subprocess.Popen[bytes], control: socket.socket, still: _Stillness
    ) -> float | None:
        """Reads the child's messages until it is gone, and kills it if it hangs. Returns the time it became ready."""
        self.last_end = ""
        frames = Frames(LIMIT_BYTES)
        ready_at: float | None = None
        due = time.monotonic() + self._period_s
        while True:
            control.settimeout(max(due - time.monotonic(), 0.001))
            try:
                data = control.recv(1 << 16)
            except TimeoutError:
                due = time.monotonic() + self._period_s
                still.period()
                patience_s = self._timeout_s if ready_at else max(self._timeout_s, START_S)
                if still.loop * self._period_s > patience_s:
                    self.last_end = f"did not answer for {patience_s:g} s"
                elif still.steps * self._period_s > self._step_timeout_s:
                    self.last_end = f"made no step for {self._step_timeout_s:g} s, although it had work"
                if self.last_end:
                    process.kill()
                    return ready_at
                control.settimeout(self._period_s)
                control.sendall(encode(Ping()))
                continue
            except ConnectionError:  # the child died with unread bytes
                data = b""
            if not data:
                return ready_at
            still.loop = 0
            for body in frames.feed(data):
                news = decode_news(body)
                if isinstance(news, Ready):
                    ready_at = time.monotonic()
                    self.state = "ready"
                    self._first.set()
                elif isinstance(news, Failed):
                    error = error_of(news.failure)
                    self.last_end = f"could not start: {error}"
                    if not self._first.is_set():
                        self._error = error
                elif isinstance(news, Started):
                    if self._on_progress is not None and not self._first.is_set():
                        self._on_progress(news.done, news.total)
                elif isinstance(news, Report) and self._on_report is not None:
                    self._on_report(news.payload)


class _Stillness:
    """The number of periods in a row in which a child did not move.

    Periods are counted, and no clock is read, so that a suspended machine makes no child late.

    Attributes:
        loop: periods in which the event loop left a ping unanswered and did no other work.
        steps: periods in which the working thread had work and made no step.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._turns = self._steps = 0
        self.loop = self.steps = 0

    def period(self) -> None:
        """Counts one more period."""
        progress = self._progress
        turns, steps = progress.turns, progress.steps
        self.loop = self.loop + 1 if turns == self._turns else 0
        self.steps = self.steps + 1 if progress.working and steps == self._steps else 0
        self._turns, self._steps = turns, steps
