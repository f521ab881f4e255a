"""Programs that try to leave a sandbox, what they are after, and the proof that each succeeds where there is none."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

__all__ = ["Bait", "Ended", "Escape", "escapes"]

Proof = Literal["mark", "outside", "late", "flood", "returned"]

_ENVIRONMENT: Final = "DEEPWELL_ESCAPE_SECRET"
_FLOOD_BYTES: Final = 1 << 20
_LATE_S: Final = 5.0  # after its time, on a machine that others use
_ANSWER_S: Final = 0.2
_PRELUDE: Final = """
import contextlib, ctypes, errno, os, signal, socket, struct, sys, threading, time, urllib.request
from os import environ
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {NUMBERS}
def call(name, *arguments):
    number = ctypes.c_long(NUMBERS[name][os.uname().machine == 'aarch64'])
    return libc.syscall(number, *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
def escaped(condition=True):
    if condition:
        print(MARK, flush=True)
"""
# Numbers on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h).
_NUMBERS: Final = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fanotify_init": (300, 262),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kill": (62, 129),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "process_vm_readv": (310, 270),
    "reboot": (169, 142),
    "rt_sigqueueinfo": (129, 138),
    "userfaultfd": (323, 282),
}


@dataclass(frozen=True, slots=True)
class Escape:
    """An attempt.

    Attributes:
        group: "files", "proc", "network", "rights", "resources" or "ends".
        success: the proof that it has succeeded: see escapes.toml.
        program: Python source text without what `Bait.source` puts before it.
    """

    name: str
    group: str
    program: str
    success: Proof = "mark"


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an attempt, in a sandbox or without.

    Attributes:
        output: kept output, both streams.
        returned: contents of the files that came back.
        seconds: how long it took, or until it was ended.
        timed_out: whether it was ended because its time was over.
    """

    output: str
    returned: tuple[bytes, ...]
    seconds: float
    timed_out: bool


def escapes() -> tuple[Escape, ...]:
    """Returns all attempts, in the order of their file."""
    text = files("deepwell_bench.workloads").joinpath("escapes.toml").read_text(encoding="utf-8")
    return tuple(Escape(**one) for one in tomllib.loads(text)["escape"])


class Bait:
    """A machine with something to take: a secret in a file, in an environment and behind sockets, and a process to disturb.

    Attributes:
        secret: what must not get into a sandbox.
    """

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self._mark = secrets.token_hex(16)
        self._folder = Path(tempfile.mkdtemp(prefix="bait-"))
        self._sockets: list[socket.socket] = []
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        self._folder.chmod(0o755)
        self._file = self._folder / "secret"
        self._file.write_text(self.secret)
        self._outside = self._folder / "outside"
        self._outside.mkdir()
        self._outside.chmod(0o777)
        self._descriptor = os.open(self._file, os.O_RDONLY)
        os.set_inheritable(self._descriptor, True)
        os.environ[_ENVIRONMENT] = self.secret
        self._victim = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._victim.kill()
        self._victim.wait()
        os.environ.pop(_ENVIRONMENT, None)
        os.close(self._descriptor)
        shutil.rmtree(self._folder, ignore_errors=True)

    def source(self, escape: Escape) -> str:
        """Returns the whole program of an attempt."""
        facts = {
            "MARK": self._mark,
            "SECRET": self.secret,
            "SECRET_FILE": str(self._file),
            "OUTSIDE": str(self._outside),
            "TCP": self._ports["tcp"],
            "UDP": self._ports["udp"],
            "UNIX": str(self._folder / "socket"),
            "ABSTRACT": f"bait-{self._mark}",
            "VICTIM": self._victim.pid,
            "HARNESS": os.getpid(),
        }
        # In pieces, for a secret that stands in the text of the program is not one that it has found.
        named = [f"{name} = {_in_pieces(value)}" for name, value in facts.items()]
        return "\n".join([*named, _PRELUDE.replace("{NUMBERS}", repr(_NUMBERS)), escape.program])

    def succeeded(self, escape: Escape, ended: Ended, seconds: float) -> bool:
        """Returns whether an attempt has succeeded, and takes away what it left.

        Args:
            seconds: the time that the attempt had.
        """
        left = list(self._outside.iterdir())
        for one in left:
            one.unlink()
        match escape.success:
            case "mark":
                return self._mark in ended.output
            case "outside":
                return bool(left)
            case "late":
                return ended.seconds > seconds + (_LATE_S if ended.timed_out else 0.5)
            case "flood":
                return len(ended.output) >= _FLOOD_BYTES
            case "returned":
                return any(self.secret.encode() in one for one in ended.returned)

    def unharmed(self) -> bool:
        """Returns whether the process to disturb lives, and the secret file is as it was."""
        return self._victim.poll() is None and self._file.read_text() == self.secret

    def succeeds_unconfined(self, escape: Escape, seconds: float) -> bool:
        """Runs an attempt as a plain process with this one's rights. Returns whether it succeeds there."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            (folder / "main.py").write_text(self.source(escape))
            process = subprocess.Popen(
                [sys.executable, "-B", "main.py"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(self._descriptor,),
                start_new_session=True,
            )
            late = False
            try:
                output = process.communicate(timeout=seconds)[0]
            except subprocess.TimeoutExpired:
                late = True
                os.killpg(process.pid, signal.SIGKILL)
                output = process.communicate()[0]
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            returned = tuple(_naively_collected(folder))
        # A plain process has no limit: one that reached the end of its time would have gone on.
        ended = Ended(
            output.decode(errors="replace"), returned, seconds + 1 if late else 0.0, timed_out=False
        )
        return self.succeeded(escape, ended, seconds)

    def _listen(self) -> None:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        self._ports = {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1]}
        unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        unix.bind(str(self._folder / "socket"))
        (self._folder / "socket").chmod(0o777)
        abstract.bind(f"\0bait-{self._mark}")
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagrams.bind(f"\0bait-{self._mark}-datagrams")
        self._sockets = [tcp, udp, unix, abstract, datagrams]
        for one in (tcp, unix, abstract):
            one.listen()
            self._serve(lambda one=one: self._answer_stream(one))
        for one in (udp, datagrams):
            self._serve(lambda one=one: self._answer_datagram(one))

    def _serve(self, answer: Callable[[], None]) -> None:
        def loop() -> None:
            while not self._closing.is_set():
                with suppress(OSError):
                    answer()

        threading.Thread(target=loop, daemon=True).start()

    def _answer_stream(self, listener: socket.socket) -> None:
        there, _ = listener.accept()
        with there:
            there.settimeout(_ANSWER_S)
            with suppress(TimeoutError):  # some speak first
                there.recv(4096)
            there.sendall(f"HTTP/1.0 200 OK\r\n\r\n{self.secret}".encode())

    def _answer_datagram(self, listener: socket.socket) -> None:
        _, where = listener.recvfrom(4096)
        if where:
            listener.sendto(self.secret.encode(), where)


def _in_pieces(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    half = len(value) // 2
    return f"{value[:half]!r} + {value[half:]!r}"


def _naively_collected(folder: Path) -> list[bytes]:
    """Returns what a program left, as one would read it who thinks of no links."""
    found: list[bytes] = []
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names[:100]:
            with suppress(OSError), (Path(place) / name).open("rb") as file:
                found.append(file.read(_FLOOD_BYTES))
    return found
