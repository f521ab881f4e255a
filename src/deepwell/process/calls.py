"""`CallProcess`: a confined child process that answers one call at a time and may be killed at any moment.

It is for work that holds the interpreter's lock for long, or that runs data of strangers: it is confined from its start, and
has limits of memory and of processor time that the kernel enforces, so that no code inside of it has to cooperate. What a child
works on for one tenant is never in sight of another's: a call for another tenant ends the child and starts a new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from deepwell.errors import InvalidFile
from deepwell.process.confinement.filter import restrict
from deepwell.process.confinement.launch import (
    child_command,
    child_path,
    end_program,
    innermost,
    public_environment,
)
from deepwell.process.frames import Frames, WireError

__all__ = [
    "SINGLE_TENANT",
    "CallEnded",
    "CallProcess",
    "answer_calls",
    "handed",
    "limit_memory",
    "limited",
    "signal_name",
    "start_child",
    "trim_memory",
    "twice_if_lost",
]

T = TypeVar("T")

SINGLE_TENANT: Final = ""
"""Tenant of a child that works for one tenant alone, or on nothing that belongs to one."""

MAX_FRAME_BYTES = 256 << 20  # of a call and of an answer
_RECEIVE_BYTES = 1 << 18
_GRACE_S = 20.0  # of wall time, for a machine that is busy with other work
_SLOWNESS = 6.0  # wall time that a second of processor time may take
_FRUGAL = {
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class CallEnded(Exception):
    """Raised when the child ended before it answered.

    Attributes:
        killed: it was ended by `kill`, because nobody waits for the answer.
        late: it was ended because it did not answer, although it had not used its processor time: it did not run.
        lost: somebody else ended it, such as the kernel where memory is short; the call itself may be sound.
    """

    def __init__(self, reason: str, *, killed: bool = False, late: bool = False, lost: bool = False) -> None:
        super().__init__(reason)
        self.killed = killed
        self.late = late
        self.lost = lost


def twice_if_lost(call: Callable[[], T]) -> T:
    """Returns what a call returns. One that somebody else ended, as the kernel may where memory is short, is made once more."""
    try:
        return call()
    except CallEnded as error:
        if not error.lost:
            raise
    return call()


def start_child(
    module: str, descriptor: int, *arguments: str, reads: Iterable[Path] = (), forks: bool = False
) -> subprocess.Popen[bytes]:
    """Starts `python -m module descriptor arguments` confined, with this process's modules and without its secrets.

    Args:
        reads: files and folders that it may read.
        forks: whether it may start processes of its own.

    Raises:
        OSError: it could not be started.
    """
    command = child_command(
        module, [str(descriptor), *arguments], keep=[descriptor], reads=reads, forks=forks
    )
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # a library that panics says so there; the reason crosses in the answer
        pass_fds=(descriptor,),
        env={**public_environment(), **_FRUGAL, "PYTHONPATH": os.pathsep.join(child_path(module))},
        cwd="/",
        process_group=0,
    )


class CallProcess:
    """The parent's end. The child is started by the first call, and again by the first call after it ended.

    Args:
        module: the child's module, run as `python -m module FD`; it calls `answer_calls`.
        launch: the first message to every child. The child answers it as it does a call.
        launch_s: processor time that the start may take.
        reads: files and folders that the child may read.
        decode: turns the bytes of an answer into a message. A child whose answer is none is ended.
    """

    def __init__(
        self,
        module: str,
        launch: bytes,
        *,
        launch_s: float = 10.0,
        reads: Iterable[Path] = (),
        decode: Callable[[bytes], Any] = bytes,
    ) -> None:
        self._module = module
        self._launch = launch
        self._launch_s = launch_s
        self._reads = tuple(reads)
        self._decode = decode
        self._tenant: str | None = None  # whose data the child has seen
        self._calling = threading.Lock()
        self._state = threading.Lock()  # guards what follows
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._frames = Frames(MAX_FRAME_BYTES)
        self._busy = False
        self._killed = False
        self._doomed = False  # the child was killed, and may not have ended yet
        self._program = 0  # process id of the program behind the walls
        self.hello: Any = None  # the answer of the last child to `launch`

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        process = self._process
        return innermost(process.pid) if process is not None else 0

    def call(self, request: bytes, processor_s: float, *, tenant: str, file: int | None = None) -> Any:
        """Returns the child's answer. Calls of several threads wait for each other.

        Args:
            processor_s: processor time that the child may spend on it. The child itself sets this limit (`limited`); here
                it bounds the wait, in case that the child does not run at all.
            tenant: whose data the request has. A child that worked for another is ended first.
            file: descriptor of a file that is handed to the child.

        Raises:
            CallEnded: the child ended first, by its own fault or by `kill`.
        """
        with self._calling:
            with self._state:
                self._busy, self._killed = True, False
            try:
                self._ensure(tenant)
                # Between calls nothing runs: a decoder that was taken over would use the processor for as long as it likes.
                self._signal(signal.SIGCONT)
                answer = self._exchange(request, processor_s, file)
                self._signal(signal.SIGSTOP)
                return answer
            finally:
                with self._state:
                    self._busy = False

    def start(self, tenant: str) -> Any:
        """Starts the child if there is none for a tenant, and returns its answer to `launch`. Raises `CallEnded` as `call`."""
        with self._calling:
            with self._state:
                self._busy, self._killed = True, False
            try:
                self._ensure(tenant)
                return self.hello
            finally:
                with self._state:
                    self._busy = False

    def kill(self) -> None:
        """Ends the call in progress, and the child with it. Does nothing between calls."""
        with self._state:
            if self._busy:
                self._killed = self._doomed = True
                if self._process is not None:
                    end_program(self._process.pid)

    def close(self) -> None:
        """Ends the child. The next call starts another."""
        self.kill()
        with self._calling:
            self._end()

    def _ensure(self, tenant: str) -> None:
        alive = self._process is not None and not self._doomed and self._process.poll() is None
        if alive and self._tenant == tenant and self._is_silent():
            return
        self._end()
        self._tenant = tenant
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = start_child(self._module, theirs.fileno(), reads=self._reads)
        except OSError as error:
            ours.close()
            raise CallEnded(f"it could not be started ({error})") from None
        with self._state:
            self._process, self._socket, self._frames = process, ours, Frames(MAX_FRAME_BYTES)
            if self._killed:  # before there was a child
                end_program(process.pid)
        try:
            self.hello = self._exchange(self._launch, self._launch_s)
            self._program = self.pid
            self._signal(signal.SIGSTOP)
        except BaseException:
            self._end()
            raise

    def _is_silent(self) -> bool:
        """Returns whether the child has sent nothing since its answer: that would pass for the answer to the next call."""
        assert self._socket is not None
        self._socket.settimeout(0)
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _signal(self, number: int) -> None:
        if not self._program:  # 0 would be the group of this process
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._program, number)

    def _exchange(self, request: bytes, processor_s: float, file: int | None = None) -> Any:
        assert self._socket is not None
        wait_s = _GRACE_S + _SLOWNESS * processor_s
        until = time.monotonic() + wait_s
        late = lies = False
        try:
            self._socket.settimeout(wait_s)
            if file is not None:
                os.lseek(file, 0, os.SEEK_SET)  # the offset is shared, and an earlier child may have moved it
            head = len(request).to_bytes(4, "little")
            sent = socket.send_fds(self._socket, [head], [] if file is None else [file])
            self._socket.sendall(head[sent:])
            self._socket.sendall(request)
            while True:
                if (left_s := until - time.monotonic()) <= 0:  # bytes that trickle in do not make it longer
                    raise TimeoutError
                self._socket.settimeout(left_s)
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    break
                if bodies := list(self._frames.feed(data)):
                    if len(bodies) > 1 or self._frames.pending:
                        raise WireError("more than an answer")
                    return self._decode(bodies[0])
        except TimeoutError:
            late = True
        except (WireError, msgspec.MsgspecError, RecursionError):
            lies = True
        except OSError:
            pass
        raise self._ended(late=late, lies=lies)

    def _ended(self, *, late: bool, lies: bool) -> CallEnded:
        process, killed = self._process, self._killed
        assert process is not None
        if not (killed or late or lies):  # it has closed its end: how it ended is told by what waits for it
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
        self._end()
        if killed:
            return CallEnded("nobody waits for it any more", killed=True)
        if late:
            return CallEnded("it did not answer in time", late=True)
        if lies:
            return CallEnded("it sent no message")
        if process.returncode == -signal.SIGPROF:
            return CallEnded("it took too much processor time")
        if process.returncode == -signal.SIGKILL:  # none of its own limits does this
            return CallEnded("it was killed", lost=True)
        if process.returncode < 0:
            return CallEnded(f"it took too much memory, or crashed ({signal_name(-process.returncode)})")
        return CallEnded(f"it exited with status {process.returncode}")

    def _end(self) -> None:
        with self._state:
            process, sock = self._process, self._socket
            self._process = self._socket = None
            self._doomed = False
        if sock is not None:
            sock.close()
        if process is not None:
            end_program(process.pid)
            process.wait()


def signal_name(number: int) -> str:
    """Returns the name of a signal. Most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def answer_calls(descriptor: int, answer: Callable[..., bytes]) -> None:
    """Answers calls in the child, one after another, until the parent closes the connection or ends.

    Args:
        answer: gets the request, and the descriptor of the file that came with it, if one did; it closes the file.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides what a signal to the service means
    restrict()
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    frames = Frames(MAX_FRAME_BYTES)
    files: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            data, handed, _, _ = socket.recv_fds(sock, _RECEIVE_BYTES, 1)
            files += handed
            if not data:
                break
            for body in frames.feed(data):
                reply = answer(body, *files)
                del body
                files.clear()
                sock.sendall(len(reply).to_bytes(4, "little"))
                sock.sendall(reply)


@contextlib.contextmanager
def handed(path: Path) -> Generator[int]:
    """Opens a regular file, for a child that cannot open it. A pipe or a device would be read without end.

    Raises:
        InvalidFile: it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InvalidFile(f"the file cannot be read ({error})", fix="check the path") from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise InvalidFile("the file cannot be read (it is no regular file)", fix="check the path")
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def limited(processor_s: float) -> Generator[None]:
    """Ends this process, in the middle of whatever it does, when the block takes more processor time."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def trim_memory() -> None:
    """Gives freed memory back to the system, which the allocator would keep after large texts."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # of another C library
            ctypes.CDLL(None).malloc_trim(0)


def limit_memory(nbytes: int) -> None:
    """Limits the memory that this process writes to (heap and private mappings) to `nbytes`, in all."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (nbytes, nbytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
