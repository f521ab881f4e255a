"""`ForkServer`: a kept child process that forks a process with limits for every piece of work.

It is for work on data of strangers that has to be tried often. A fork takes about a millisecond, where an interpreter with its
imports takes a tenth of a second. No work sees the memory of another, and each gives back all that it took.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from deepwell.process.calls import CallEnded, signal_name, start_child
from deepwell.process.confinement.filter import restrict
from deepwell.process.confinement.launch import end_program, innermost

__all__ = ["ForkLimits", "ForkServer", "serve_forks"]

IDLE_S: Final = 600.0  # after which the server ends itself; the next work starts another
_BEGIN_S: Final = 20.0  # wall time until work is forked, on a machine that is busy with other work
_GRACE_S: Final = 10.0  # wall time for the report that comes after `wall_s`
_END_S: Final = 2.0  # wall time until the end of a server shows whose connections have ended
_BEGUN: Final = b"\1"
_RESULT: Final = struct.Struct("<q")  # sent by the fork itself, if it gets that far
_REPORT: Final = struct.Struct("<?i")  # sent behind it by the server: ended for its wall time, exit code
_OUT_OF_MEMORY: Final = 3  # exit code
_PR_SET_PDEATHSIG: Final = 1


class ForkLimits(msgspec.Struct, frozen=True):
    """The limits of one piece of work.

    Attributes:
        wall_s: time after which it is ended although it has not used its processor time, because it does not run.
        memory_bytes: address space of the process.
        stack_bytes: size of the stack, of which only used pages take memory.
        idle_s: time after which the server ends when no work comes.
    """

    processor_s: float
    wall_s: float
    memory_bytes: int
    stack_bytes: int
    idle_s: float = IDLE_S


class ForkServer:
    """The parent's end. The server is started by the first work, and again by the first after it ended.

    Methods may be called from any thread. Work of several threads runs at the same time.

    Args:
        module: the server's module, run as `python -m module FD LIMITS`; it calls `serve_forks`.
    """

    def __init__(self, module: str, limits: ForkLimits) -> None:
        self._module = module
        self._limits = limits
        self._lock = threading.Lock()  # guards what follows
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        """Process id of the server; 0 if there is none."""
        server = self._server
        return innermost(server[0].pid) if server is not None and server[0].poll() is None else 0

    def start(self) -> None:
        """Starts the server if there is none, without waiting for it. Raises `CallEnded` as `run` does."""
        with self._lock:
            self._ensure()

    def run(self, work: bytes) -> int | None:
        """Runs work in a process of its own, waits for its end and returns its result; None if it raised an exception.

        Work that was lost by no fault of its own runs once more.

        Raises:
            CallEnded: it exceeded a limit or crashed; or it is `late` (it did not run in time), `lost` (its process or the
                server was killed twice) or `killed` (the server was closed).
        """
        try:
            return self._run(work)
        except CallEnded as error:
            if not error.lost:
                raise
            return self._run(work)

    def close(self) -> None:
        """Ends the server and the work that is under way. Work that comes later is refused."""
        with self._lock:
            self._closed = True
            self._retire()

    def _run(self, work: bytes) -> int | None:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock:
                process, control = self._ensure()
                with contextlib.suppress(OSError):  # then nobody has `theirs`, and nothing is answered
                    socket.send_fds(control, [_BEGUN], [theirs.fileno()])
            hangs = False
            try:
                report = self._exchange(ours, work)
            except ConnectionError:
                report = b""  # the server has just ended
            except TimeoutError:
                report, hangs = b"", True
        if not report:
            if not hangs:  # work that lies about its report ends no server, on which others' work runs
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S)
            with self._lock:
                if self._closed:
                    raise CallEnded("nobody waits for it any more", killed=True)
                ended = hangs or process.poll() is not None
                if ended and self._server is not None and self._server[0] is process:
                    self._retire()
            raise CallEnded("its server ended", lost=True)
        result, report = report[: -_REPORT.size], report[-_REPORT.size :]
        late, code = _REPORT.unpack(report)
        if late:
            raise CallEnded("it did not run in time", late=True)
        if code:
            raise _ended(code)
        return _RESULT.unpack(result)[0] if len(result) == _RESULT.size else None

    def _exchange(self, ours: socket.socket, work: bytes) -> bytes:
        """Returns the result of the work, if it has one, and its report; nothing if the server ended."""
        ours.settimeout(_BEGIN_S)
        if not ours.recv(len(_BEGUN)):
            return b""
        until = time.monotonic() + self._limits.wall_s + _GRACE_S
        ours.settimeout(until - time.monotonic())
        with contextlib.suppress(ConnectionError):  # the work ended before it had read everything
            ours.sendall(work)
            ours.shutdown(socket.SHUT_WR)
        report = b""
        with contextlib.suppress(ConnectionError):
            while len(report) <= _RESULT.size + _REPORT.size:
                ours.settimeout(max(until - time.monotonic(), 0.001))
                if not (data := ours.recv(_RESULT.size + _REPORT.size)):  # the server has closed its end
                    break
                report += data
        return report if len(report) in (_REPORT.size, _RESULT.size + _REPORT.size) else b""

    def _ensure(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._closed:
            raise CallEnded("nobody waits for it any more", killed=True)
        if self._server is not None and self._server[0].poll() is None:
            return self._server
        self._retire()
        ours, theirs = socket.socketpair()
        ours.settimeout(_BEGIN_S)
        try:
            with theirs:
                limits = msgspec.json.encode(self._limits).decode()
                self._server = start_child(self._module, theirs.fileno(), limits, forks=True), ours
        except OSError as error:
            ours.close()
            raise CallEnded(f"it could not be started ({error})", lost=True) from None
        return self._server

    def _retire(self) -> None:
        if self._server is not None:
            process, control = self._server
            self._server = None
            end_program(
                process.pid
            )  # first: what waits for it ends with the connection, and work that stands would go on
            control.close()
            process.wait()


def _ended(code: int) -> CallEnded:
    if code == -signal.SIGPROF:
        return CallEnded("it took too much processor time")
    if code == -signal.SIGKILL:  # none of its own limits does this
        return CallEnded("it was killed", lost=True)
    if code < 0:
        return CallEnded(f"it took too much memory, or crashed ({signal_name(-code)})")
    return CallEnded("it took too much memory")


def serve_forks(descriptor: int, limits: str, work: Callable[[bytes], int]) -> None:
    """Runs `work` in a fork for every request, in the server, until the parent closes the connection or none comes for long.

    Called on the only thread, with everything imported that the work needs. `work` returns what `ForkServer.run` does. An
    exception of `work` is no failure, except that memory ran out.
    """
    _Server(socket.socket(fileno=descriptor), msgspec.json.decode(limits, type=ForkLimits), work).serve()


class _Server:
    def __init__(self, control: socket.socket, limits: ForkLimits, work: Callable[[bytes], int]) -> None:
        self._control = control
        self._limits = limits
        self._work = work
        self._running: dict[int, tuple[socket.socket, float]] = {}  # by process id, with the time of its end
        self._wake, self._woken = os.pipe()
        # `select` knows no descriptor from 1,024 on, and the parent may hand one over.
        self._ready = select.poll()
        self._ready.register(self._control.fileno(), select.POLLIN)
        self._ready.register(self._wake, select.POLLIN)
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def serve(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the parent decides what a signal to the service means
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        gc.freeze()  # a collection in a fork would copy the pages of all objects
        try:
            while self._turn():
                pass
        finally:
            for pid in self._running:
                os.kill(pid, signal.SIGKILL)

    def _turn(self) -> bool:
        """Waits for one event and handles it; False when there is nothing more to do."""
        until = min(
            (end for _, end in self._running.values()), default=time.monotonic() + self._limits.idle_s
        )
        ready = self._ready.poll(1000 * max(until - time.monotonic(), 0.0) + 1)
        if not ready and not self._running:
            return False
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        self._reap()
        if all(one != self._control.fileno() for one, _ in ready):
            return True
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        for one in descriptors:
            self._fork(socket.socket(fileno=one))
        return bool(data)

    def _reap(self) -> None:
        for pid, (sock, end) in list(self._running.items()):
            late = time.monotonic() > end
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                if not late:
                    continue
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
            del self._running[pid]
            sock.settimeout(0)  # the work may have left no room
            with sock, contextlib.suppress(OSError):  # nobody waits any more
                sock.sendall(_REPORT.pack(late and not ended, os.waitstatus_to_exitcode(status)))

    def _fork(self, sock: socket.socket) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # the parent finds the connection closed
            sock.close()
            return
        if not pid:
            code = 1
            try:
                code = self._child(sock, server)
            finally:
                os._exit(code)
        self._running[pid] = sock, time.monotonic() + self._limits.wall_s
        with contextlib.suppress(OSError):
            sock.sendall(_BEGUN)

    def _child(self, sock: socket.socket, server: int) -> int:
        """Reads and does the work in the fork, and sends its result; returns its exit code."""
        self._leave_server(server)
        parts: list[bytes] = []
        while part := sock.recv(1 << 18):
            parts.append(part)
        code = 0

        def work() -> None:
            nonlocal code
            try:
                sock.sendall(_RESULT.pack(self._work(b"".join(parts))))
            except MemoryError:
                code = _OUT_OF_MEMORY
            except BaseException:  # what is wrong with the data is found again where it is used
                return

        limits = self._limits
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, limits.processor_s)
        threading.stack_size(limits.stack_bytes)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return code

    def _leave_server(self, server: int) -> None:
        """Drops what the fork has of the server's, and ties its life to the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        os.close(self._wake)
        os.close(self._woken)
        for other, _ in self._running.values():
            other.close()
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            restrict()
        if os.getppid() != server:
            os._exit(1)


def _nothing(*_: object) -> None:
    pass  # the signal wakes `select` through the pipe
