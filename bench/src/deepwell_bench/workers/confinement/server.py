"""The attacked server: a process with data to take, whose children are started by their real parent classes.

It answers JSON lines: `open` starts a kind of child, `attempt` tries an action in it and tells its outcome, `close` ends it.
The harm that an action cannot see is seen here: files and their rights, memory, signals, limits, messages, processes.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pty
import resource
import secrets
import select
import shutil
import signal
import socket
import sqlite3
import struct
import sys
import tempfile
import termios
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from fcntl import ioctl
from pathlib import Path
from typing import Any, Final

import deepwell
from deepwell.errors import DeepwellError
from deepwell.process import calls
from deepwell_bench.workers.confinement import actions
from deepwell_bench.workers.confinement.kinds import Kind, open_kind
from deepwell_bench.workers.loop import serve

__all__ = ["Server"]

_ENVIRONMENT: Final = ("DEEPWELL_API_KEY", "PGPASSWORD", "DATABASE_DSN", "VENDOR_ACCESS", "HF_TOKEN")
_CANARY: Final = b"canary"
_LOOK_S: Final = 1.5
_BUSY_TICKS: Final = 10  # hundredths of a second of processor time within a look
_GROWN_BYTES: Final = 512 << 20
_MORE_DESCRIPTORS: Final = 32
_CALL_GRACE_S: Final = 2.5

_libc = ctypes.CDLL(None, use_errno=True)


class _Ground:
    """The data that an attack is after, and its marks."""

    def __init__(self, folder: Path) -> None:
        self.marker = "mark" + secrets.token_hex(6)
        self._secrets = [f"secret-{secrets.token_hex(16)}" for _ in range(2)]
        own, other = self._secrets
        self.folder = Path(tempfile.mkdtemp(prefix="attacked-", dir=folder))
        self.home = self.folder / "home"
        self.data = self.folder / "data"
        (self.home / ".ssh").mkdir(parents=True)
        (self.home / ".ssh" / "id_ed25519").write_text(own)
        self.data.mkdir(mode=0o700)  # as the server makes it
        os.chdir(self.data)
        for name in _ENVIRONMENT:
            os.environ[name] = own
        os.environ["HOME"] = str(self.home)
        self._memory = ctypes.create_string_buffer(own.encode())
        self._canary_memory = ctypes.create_string_buffer(_CANARY)
        self._write_files(own, other)
        self._listen()
        self._share(own)
        self.signals = 0
        signal.signal(signal.SIGUSR2, self._signalled)
        self.host = os.uname().nodename

    def _signalled(self, *_: object) -> None:
        self.signals += 1

    def _write_files(self, own: str, other: str) -> None:
        self.config = self.data / "deepwell.toml"
        self.blob = self.data / "blobs" / "tenant-b" / "file"
        self.handed = self.data / "blobs" / "tenant-b" / "handed.txt"
        self.canary = self.data / "canary"
        self.blob.parent.mkdir(parents=True)
        for path, text in ((self.config, own), (self.blob, other), (self.handed, other)):
            path.write_text(f"key = {text}\n")
            path.chmod(0o600)
        self.database = sqlite3.connect(self.data / "deepwell.db", check_same_thread=False)
        self.database.executescript(
            f"PRAGMA journal_mode=WAL; CREATE TABLE notes (note TEXT); INSERT INTO notes VALUES ('{own}');"  # noqa: S608
        )
        self.database_fd = next(
            int(one.name)
            for one in Path("/proc/self/fd").iterdir()
            if str(one.resolve()).endswith("deepwell.db")
        )
        self.canary_fd = -1
        self.renew()

    def renew(self) -> None:
        """Puts the canary back, and takes away what was made."""
        for path in self._made():
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if self.canary_fd >= 0:
            os.close(self.canary_fd)
        self.canary.unlink(missing_ok=True)
        self.canary.write_bytes(_CANARY)
        self.canary.chmod(0o600)
        self.canary_fd = os.open(self.canary, os.O_RDWR)
        self._canary_state = self._canary_now()

    def _canary_now(self) -> tuple[Any, ...]:
        try:
            about = self.canary.lstat()
            attributes = os.listxattr(self.canary)
            state = (about.st_ino, about.st_mode, about.st_uid, about.st_nlink, about.st_mtime_ns)
            return (self.canary.read_bytes(), *state, *attributes)
        except OSError:
            return ()

    @property
    def places(self) -> list[Path]:
        """Folders in which somebody may write."""
        source = Path(deepwell.__file__).parent
        return [Path(one) for one in ("/tmp", "/var/tmp", "/dev/shm", "/")] + [self.home, self.data, source]  # noqa: S108

    def _made(self) -> list[Path]:
        found: list[Path] = []
        for place in self.places:
            with suppress(OSError):
                found += [one for one in place.iterdir() if self.marker in one.name]
        found += self.data.glob("core*")
        return found

    def _listen(self) -> None:
        self._streams = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.unix = self.data / "socket"
        unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        unix.bind(str(self.unix))
        abstract.bind(f"\0{self.marker}-stream")
        for one in (unix, abstract):
            one.listen()
        self._streams += [unix, abstract]
        udp, datagrams = (
            socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_UNIX)
        )
        udp.bind(("127.0.0.1", 0))
        datagrams.bind(f"\0{self.marker}-datagrams")
        near, self._peer = socket.socketpair()
        self.socket_fd = near.detach()
        self._free = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._free.bind(("127.0.0.1", 0))
        self.free_tcp = self._free.getsockname()[1]
        self._free.close()
        self._texts: list[socket.socket] = [udp, datagrams, self._peer]
        self.terminal, self._terminal_end = pty.openpty()
        self.tty = os.ttyname(self._terminal_end)
        with suppress(OSError):
            ioctl(self._terminal_end, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(self._terminal_end, number)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select(self._streams, [], [])
            for one in ready:
                with suppress(OSError):
                    one.accept()[0].close()

    def _share(self, own: str) -> None:
        self.sysv_key = secrets.randbelow(1 << 30) + 2
        memory = _libc.shmget(self.sysv_key, 4096, 0o1600)
        _libc.shmat.restype = ctypes.c_void_p
        where = _libc.shmat(memory, None, 0)
        ctypes.memmove(where, own.encode(), len(own))
        queue = _libc.msgget(self.sysv_key, 0o1600)
        message = struct.pack("l", 1) + own.encode()
        _libc.msgsnd(queue, message, len(own), 0)
        semaphore = _libc.semget(self.sysv_key, 1, 0o1600)
        self._shared = (memory, queue, semaphore)
        self.queue = f"/{self.marker}-queue"
        _libc.mq_open(self.queue.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
        self.shared = f"/{self.marker[:8]}-{secrets.token_hex(4)}"
        Path(f"/dev/shm{self.shared}").write_text(own)  # noqa: S108
        number = 248 if os.uname().machine == "x86_64" else 217
        _libc.syscall(number, b"user", f"{self.marker}-key".encode(), own.encode(), len(own), -4)

    def world(self) -> actions.World:
        """Returns what an action may aim at."""
        digests = tuple(hashlib.sha256(one.encode()).hexdigest() for one in self._secrets)
        ports = [one.getsockname()[1] for one in self._streams[:2]]
        return actions.World(
            digests=digests,
            marker=self.marker,
            pid=os.getpid(),
            address=ctypes.addressof(self._memory),
            canary_address=ctypes.addressof(self._canary_memory),
            folder=str(self.data),
            database=str(self.data / "deepwell.db"),
            wal=str(self.data / "deepwell.db-wal"),
            blob=str(self.blob),
            handed=str(self.handed),
            config=str(self.config),
            canary=str(self.canary),
            home=str(self.home),
            source=str(Path(deepwell.__file__)),
            places=tuple(str(one) for one in self.places[:3]),
            database_fd=self.database_fd,
            canary_fd=self.canary_fd,
            socket_fd=self.socket_fd,
            tcp=ports[0],
            other_tcp=ports[1],
            udp=self._texts[0].getsockname()[1],
            free_tcp=self.free_tcp,
            unix=str(self.unix),
            abstract=f"{self.marker}-stream",
            datagrams=f"{self.marker}-datagrams",
            sysv_key=self.sysv_key,
            queue=self.queue,
            shared=self.shared,
            tty=self.tty,
        )

    def harm(self) -> list[str]:
        """Returns what has been done to the server since the last look, and mends it."""
        found: list[str] = []
        if self._canary_now() != self._canary_state:
            found.append("its file changed")
        if made := self._made():
            found.append("made " + ", ".join(str(one) for one in made[:3]))
        if self._canary_memory.value != _CANARY:
            found.append("its memory changed")
            self._canary_memory.value = _CANARY
        if self.signals:
            found.append("a signal came")
            self.signals = 0
        found += self._received() + self._process_harm()
        if f":{self.free_tcp:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text():
            found.append("somebody listens")
        extra = _libc.shmget(self.sysv_key + 1, 0, 0)
        if extra >= 0:
            found.append("shared memory was made")
            _libc.shmctl(extra, 0, None)
        if os.uname().nodename != self.host:
            found.append("its name changed")
        group = Path(f"/sys/fs/cgroup/{self.marker}")
        if group.exists():
            found.append("a control group was made")
            with suppress(OSError):
                group.rmdir()
        self.renew()
        return found

    def _received(self) -> list[str]:
        found: list[str] = []
        texts: list[Any] = [*self._texts, self.terminal]
        while ready := select.select(texts, [], [], 0)[0]:
            for one in ready:
                data = os.read(one, 4096) if isinstance(one, int) else one.recv(4096)
                if self.marker.encode() in data:
                    found.append("a text came: " + data.decode(errors="replace").strip()[-40:])
        return found

    def remember(self) -> None:
        """Notes the state of this process, which `harm` compares."""
        self._state = self._state_now()
        self._descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    def _state_now(self) -> dict[str, Any]:
        return {
            "affinity": sorted(os.sched_getaffinity(0)),
            "niceness": os.getpriority(os.PRIO_PROCESS, os.getpid()),
            "scheduler": os.sched_getscheduler(os.getpid()),
            "limit": resource.getrlimit(resource.RLIMIT_CORE),
            "oom score": Path("/proc/self/oom_score_adj").read_text(),
        }

    def _process_harm(self) -> list[str]:
        now = self._state_now()
        found = [f"its {name} changed" for name, value in now.items() if value != self._state[name]]
        if len(os.listdir("/proc/self/fd")) > self._descriptors + _MORE_DESCRIPTORS:  # noqa: PTH208
            found.append("it has more descriptors")
        if _resident() > self._resident + _GROWN_BYTES:
            found.append("it holds more memory")
        with suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
            os.sched_setscheduler(os.getpid(), os.SCHED_OTHER, os.sched_param(0))
        self.remember()
        return found

    @property
    def daemons(self) -> list[int]:
        """Processes that an action has left."""
        name, found = f"{self.marker[:8]}-daemon"[:15], list[int]()
        for one in Path("/proc").glob("[0-9]*/comm"):
            with suppress(OSError):
                if one.read_text().strip() == name:
                    found.append(int(one.parent.name))
        return found

    _resident = 0

    def begin(self) -> None:
        """Notes the state of this process before the first action."""
        self._resident = _resident()
        self.remember()

    def close(self) -> None:
        """Takes everything away."""
        memory, queue, semaphore = self._shared
        _libc.shmctl(memory, 0, None)
        _libc.msgctl(queue, 0, None)
        _libc.semctl(semaphore, 0, 0)
        _libc.mq_unlink(self.queue.encode())
        Path(f"/dev/shm{self.shared}").unlink(missing_ok=True)  # noqa: S108
        os.chdir("/")
        shutil.rmtree(self.folder, ignore_errors=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _ticks(pid: int) -> int:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def _tree_ticks(pid: int) -> int:
    """Returns the processor time of a process and its descendants, in hundredths of a second."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        total += _ticks(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                waiting += map(int, task.read_text().split())
    return total


class Server:
    """Answers the benchmark."""

    def __init__(self, folder: Path) -> None:
        self._ground = _Ground(folder)
        self._kind: Kind | None = None
        if hasattr(calls, "_GRACE_S"):  # a call that never ends is awaited for a shorter time
            calls._GRACE_S = _CALL_GRACE_S  # pyright: ignore

    def open(self, kind: str, models: str) -> dict[str, Any]:
        """Starts a kind of child, and has it read a file of another tenant. Returns what it says of itself."""
        begin = time.monotonic()
        self._kind = open_kind(kind, Path(models), self._ground.folder)
        if self._kind is None:
            return {"absent": "what it needs is not here"}
        try:
            confined = self._kind.start()
        except DeepwellError as error:  # it is not started where it cannot be confined
            return {"absent": str(error)}
        seconds = time.monotonic() - begin
        primed = self._kind.prime(self._ground.handed)
        self._ground.begin()
        self._ground.harm()
        return {"absent": "", "confined": confined, "seconds": seconds, "primed": primed}

    def attempt(self, name: str) -> dict[str, Any]:
        """Tries an action; returns its outcome and the harm that it did."""
        assert self._kind is not None
        world = json.dumps(asdict(self._ground.world()))
        outcome = self._kind.attempt(name, world)
        harm: list[str] = []
        if name == "hold_processor_after_call" and (pid := self._kind.pid):
            before, until = _tree_ticks(pid), time.monotonic() + _LOOK_S
            while time.monotonic() < until and _tree_ticks(pid) - before <= _BUSY_TICKS:
                time.sleep(0.05)
            if _tree_ticks(pid) - before > _BUSY_TICKS:
                harm.append("it computes on")
            self._kind.end()
        if name == "leave_daemon":
            self._kind.end()
            time.sleep(0.3)
            harm += [f"process {one} is left" for one in self._ground.daemons]
            for one in self._ground.daemons:
                os.kill(one, signal.SIGKILL)
        if outcome == "done":
            time.sleep(0.01)
        if name == "signal_by_owned_call_socket":  # which the next message makes the kernel send
            self._kind.attempt("stat_database", world)
            self._kind.end()
        harm += self._ground.harm()
        return {"outcome": outcome, "harm": harm}

    def close(self) -> None:
        """Ends the child, and takes the ground away."""
        if self._kind is not None:
            self._kind.close()
        self._ground.close()


def main() -> None:
    """Answers until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdin = os.fdopen(os.dup(0))
    server = Server(Path(sys.argv[1]))
    try:
        serve(server, answers)
    finally:
        server.close()


if __name__ == "__main__":
    main()
