"""Actions that a hostile file's code would take in a child process: `python actions.py WORLD` tries them all.

Each action tries one concrete thing and tells whether it *reached* something of the server, of another tenant, of the network
or of the kernel, not only whether a call was refused. The module needs the standard library alone, and no file once it is
imported, so that it runs inside a confined process. WORLD is a `World` as JSON: what to aim at.

An action returns True (reached), False (not), or None where only the server's side can tell. Actions are bounded, so that they
harm no machine: signals are SIGUSR2, the host's settings are written with the value that they have, and floods end.
"""

# Paths are strings, for importing pathlib takes files; errors are results; commands run as a stranger would start them.
# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH112, PTH116, PTH120, PTH123, PTH208, PTH211, S103, S108, S606, SIM115, B023

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import gc
import hashlib
import json
import mmap
import os
import re
import resource
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Final

__all__ = ["ACTIONS", "Action", "World", "attempt", "run"]

REACHED: Final = "reached"
EXIT_REACHED: Final = 42
"""Exit status of a program that an action has turned this process into, and that reached the server's files."""

_SECRET: Final = re.compile(rb"secret-[0-9a-f]{32}")
_LISTED_FDS: Final = 256
_THREADS: Final = 1024
_PROCESSES: Final = 32
_MEMORY_BYTES: Final = 4 << 30
_BLOCK_BYTES: Final = 64 << 20
_FILE_BYTES: Final = 64 << 20
_WAIT_S: Final = 2.0
_DAEMON_S: Final = 60
_AT_FDCWD: Final = -100

# Numbers on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h); -1: there is no such call.
_NUMBERS: Final = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "capget": (125, 90),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "get_robust_list": (274, 100),
    "init_module": (175, 105),
    "inotify_add_watch": (254, 27),
    "inotify_init1": (294, 26),
    "io_uring_setup": (425, 425),
    "ioperm": (173, -1),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mlock": (149, 228),
    "modify_ldt": (154, -1),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "mq_timedreceive": (243, 183),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setattr": (314, 274),
    "semctl": (66, 191),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmat": (30, 196),
    "shmget": (29, 194),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_X86: Final = os.uname().machine == "x86_64"
_CLONE_SPACES: Final = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
}
_NETLINK: Final = {"route": 0, "sock_diag": 4, "audit": 9, "uevent": 15}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_first_descriptors: list[int] | None = None
_held: list[Any] = []  # what an action leaves in place, for the server's side to see


@dataclass(frozen=True)
class World:
    """Aims of the actions, all of them the server's unless stated otherwise. Secrets are known by their SHA-256 alone.

    Attributes:
        address, canary_address: where a secret and a text that may be overwritten lie in its memory.
        blob, handed: files of another tenant: a stored one, and one that a child has read before.
        canary: a file that may be changed; canary_fd: its descriptor in the server.
        source: a file of the libraries that server and child share.
        places: folders in which files may be made.
        marker: the name that made files, processes and texts bear.
    """

    digests: tuple[str, ...] = ()
    marker: str = "marker"
    pid: int = 0
    address: int = 0
    canary_address: int = 0
    folder: str = ""
    database: str = ""
    wal: str = ""
    blob: str = ""
    handed: str = ""
    config: str = ""
    canary: str = ""
    home: str = ""
    source: str = ""
    places: tuple[str, ...] = ()
    database_fd: int = -1
    canary_fd: int = -1
    socket_fd: int = -1
    tcp: int = 0
    other_tcp: int = 0
    udp: int = 0
    free_tcp: int = 0
    unix: str = ""
    abstract: str = ""
    datagrams: str = ""
    sysv_key: int = 0
    queue: str = ""
    shared: str = ""
    tty: str = ""
    call_fd: int = -1

    @classmethod
    def of(cls, text: str) -> World:
        """Returns the world in a JSON text."""
        told: dict[str, Any] = json.loads(text)
        lists = {one.name for one in fields(cls) if str(one.type).startswith("tuple")}
        values: dict[str, Any] = {name: tuple(told[name]) if name in lists else told[name] for name in told}
        return cls(**values)


Attempt = Callable[[World], "bool | None"]


@dataclass(frozen=True)
class Action:
    """An action. `ends`: the process is likely to end by it."""

    name: str
    group: str
    attempt: Attempt
    ends: bool = False


_table: list[Action] = []


def _action(group: str, *, ends: bool = False, name: str = "") -> Callable[[Attempt], Attempt]:
    def add(attempt: Attempt) -> Attempt:
        _table.append(Action(name or attempt.__name__.strip("_"), group, attempt, ends))
        return attempt

    return add


def attempt(name: str, world: World) -> str:
    """Returns the outcome of an action: "reached", "refused(ERRNO)", "not reached", "done" or "error(...)".

    "done" means that the server's side has to tell.
    """
    global _first_descriptors
    if _first_descriptors is None:
        _first_descriptors = _open_descriptors()
    action = ACTIONS[name]
    try:
        found = action.attempt(world)
    except OSError as error:
        return f"refused({errno.errorcode.get(error.errno or 0, str(error))})"
    except MemoryError:
        return "refused(MemoryError)"
    except BaseException as error:
        return f"error({type(error).__name__}: {str(error)[:100]})"
    return {True: REACHED, False: "not reached", None: "done"}[found]


def run(world: World, say: Callable[[str, str], None] | None = None) -> dict[str, str]:
    """Tries all actions, those that may end this process last, and returns their outcomes.

    Args:
        say: told each name and outcome at once; before an action that may end this process, the outcome is "begun".
    """
    found: dict[str, str] = {}
    for action in ACTIONS.values():
        if say is not None and action.ends:
            say(action.name, "begun")
        found[action.name] = attempt(action.name, world)
        if say is not None:
            say(action.name, found[action.name])
    return found


def _call(name: str, *arguments: Any) -> int:
    number = _NUMBERS[name][not _X86]
    if number < 0:
        raise OSError(errno.ENOSYS, name)
    given = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    result = _libc.syscall(ctypes.c_long(number), *given)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return int(result)


def _holds_secret(world: World, data: bytes) -> bool:
    return any(hashlib.sha256(one).hexdigest() in world.digests for one in _SECRET.findall(data))


def _read(path: str, most: int = 1 << 20, flags: int = 0) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def _write(path: str, data: bytes, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o666)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _opens(path: str, flags: int) -> bool:
    os.close(os.open(path, flags))
    return True


def _first(attempts: Iterator[Callable[[], bool | None]]) -> bool:
    """Returns whether one of several attempts reaches; raises the last refusal if none does."""
    last: OSError | None = None
    for one in attempts:
        try:
            if one():
                return True
        except OSError as error:
            last = error
    if last is not None:
        raise last
    return False


# Files of the server.


def _reader(name: str, path: Callable[[World], str]) -> None:
    def look(world: World) -> bool:
        return bool(_read(path(world)))

    _action("files", name=name)(look)


for _name, _path in {
    "read_database": lambda world: world.database,
    "read_wal": lambda world: world.wal,
    "read_config": lambda world: world.config,
    "read_shadow": lambda _: "/etc/shadow",
    "read_ssh_key": lambda world: f"{world.home}/.ssh/id_ed25519",
    "read_posix_shared_memory": lambda world: f"/dev/shm{world.shared}",
    "read_through_proc_root": lambda world: f"/proc/{world.pid}/root{world.config}",
    "read_through_proc_one": lambda world: f"/proc/1/root{world.config}",
    "read_through_own_root": lambda world: f"/proc/self/root{world.config}",
    "read_through_cwd": lambda world: f"/proc/self/cwd/{'../' * 30}{world.config}",
    "read_relative": lambda world: f"{'../' * 30}{world.config}",
}.items():
    _reader(_name, _path)


@_action("files")
def _list_data_folder(world: World) -> bool:
    return bool(os.listdir(world.folder))


@_action("files")
def _stat_database(world: World) -> bool:
    return os.stat(world.database).st_size > 0


@_action("files")
def _open_path_only(world: World) -> bool:
    descriptor = os.open(world.config, os.O_PATH)
    _held.append(descriptor)
    return _holds_secret(world, _read(f"/proc/self/fd/{descriptor}"))


@_action("files")
def _openat2(world: World) -> bool:
    how = struct.pack("QQQ", os.O_RDONLY, 0, 0)
    descriptor = _call("openat2", _AT_FDCWD, world.config.encode(), how, len(how))
    return _holds_secret(world, os.read(descriptor, 4096))


@_action("files")
def _write_in_place(world: World) -> None:
    _write(world.canary, b"written")


@_action("files")
def _append(world: World) -> None:
    _write(world.canary, b"written", os.O_APPEND)


@_action("files")
def _truncate(world: World) -> None:
    os.truncate(world.canary, 0)


@_action("files")
def _open_truncating(world: World) -> None:
    # Truncated by an open that only reads, which some filters let pass.
    os.close(os.open(world.canary, os.O_RDONLY | os.O_TRUNC))


@_action("files")
def _unlink(world: World) -> None:
    os.unlink(world.canary)


@_action("files")
def _rename(world: World) -> None:
    os.rename(world.canary, f"{world.canary}-{world.marker}")


@_action("files")
def _rename_over(world: World) -> None:
    for place in world.places:
        with suppress(OSError):
            name = f"{place}/{world.marker}-over"
            _write(name, b"written", os.O_CREAT)
            os.rename(name, world.canary)
            return
    os.rename(world.config, world.canary)


@_action("files")
def _chmod(world: World) -> None:
    os.chmod(world.canary, 0o777)


@_action("files")
def _fchmod(world: World) -> None:
    # A descriptor that may only read is enough.
    descriptor = os.open(world.canary, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o777)
    finally:
        os.close(descriptor)


@_action("files")
def _chown(world: World) -> None:
    os.chown(world.canary, 12345, 12345)


@_action("files")
def _fchown(world: World) -> None:
    descriptor = os.open(world.canary, os.O_RDONLY)
    try:
        os.fchown(descriptor, 12345, 12345)
    finally:
        os.close(descriptor)


@_action("files")
def _hard_link(world: World) -> None:
    os.link(world.config, f"{world.folder}/{world.marker}-link")


@_action("files")
def _symbolic_link(world: World) -> None:
    os.symlink(world.config, f"{world.folder}/{world.marker}-symlink")


@_action("files")
def _set_attribute(world: World) -> None:
    os.setxattr(world.canary, "user.marker", b"written")


@_action("files")
def _fset_attribute(world: World) -> None:
    descriptor = os.open(world.canary, os.O_RDONLY)
    try:
        os.setxattr(descriptor, "user.marker", b"written")
    finally:
        os.close(descriptor)


@_action("files")
def _set_times(world: World) -> None:
    os.utime(world.canary, (1, 1))


@_action("files")
def _set_flags(world: World) -> bool:
    # FS_IOC_SETFLAGS with FS_NODUMP_FL, on a descriptor that only reads.
    descriptor = os.open(world.canary, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, 0x40086602, struct.pack("l", 0x40))
    finally:
        os.close(descriptor)
    return True


@_action("files")
def _lock_database(world: World) -> bool:
    # A lock that a reader may take stops every writer of the database.
    descriptor = os.open(world.database, os.O_RDONLY)
    _held.append(descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


@_action("files")
def _make_folder(world: World) -> None:
    os.mkdir(f"{world.folder}/{world.marker}-folder")


@_action("files")
def _make_pipe(world: World) -> None:
    os.mkfifo(f"{world.folder}/{world.marker}-pipe")


@_action("files")
def _make_unix_socket(world: World) -> None:
    one = socket.socket(socket.AF_UNIX)
    _held.append(one)
    one.bind(f"{world.folder}/{world.marker}-socket")


@_action("files")
def _write_library(world: World) -> bool:
    return _opens(world.source, os.O_WRONLY | os.O_APPEND)


@_action("files")
def _write_interpreter(_: World) -> bool:
    return _opens(os.path.realpath(sys.executable), os.O_WRONLY)


@_action("files")
def _handle_to_descriptor(world: World) -> bool:
    room = ctypes.create_string_buffer(8 + 128)
    struct.pack_into("Ii", room, 0, 128, 0)
    mount = ctypes.c_int()
    _call("name_to_handle_at", _AT_FDCWD, world.config.encode(), room, ctypes.byref(mount), 0)
    return True


@_action("files")
def _open_by_handle(world: World) -> bool:
    # Inode 2 is the root folder of ext4, whose handle can be guessed: the way out of a container that has the right.
    anchor = os.open("/", os.O_RDONLY)
    room = ctypes.create_string_buffer(struct.pack("IiII", 8, 1, 2, 0))
    try:
        descriptor = _call("open_by_handle_at", anchor, room, os.O_RDONLY)
    except OSError as error:
        if error.errno == errno.ESTALE:  # the right is there
            return True
        raise
    _held.append(descriptor)
    return True


@_action("files")
def _fanotify(world: World) -> bool:
    watch = _call("fanotify_init", 0, os.O_RDONLY)
    _held.append(watch)
    _call("fanotify_mark", watch, 1, 0x20, _AT_FDCWD, world.config.encode())
    return True


@_action("files")
def _inotify(world: World) -> bool:
    watch = _call("inotify_init1", os.O_CLOEXEC)
    _held.append(watch)
    return _call("inotify_add_watch", watch, world.folder.encode(), 0xFFF) >= 0


def _maker(name: str, place: Callable[[World], str]) -> None:
    def make(world: World) -> None:
        _write(f"{place(world)}/{world.marker}-{name}", b"made", os.O_CREAT | os.O_EXCL)

    _action("files", name=name)(make)


for _name, _path in {
    "make_in_tmp": lambda _: "/tmp",
    "make_in_var_tmp": lambda _: "/var/tmp",
    "make_in_shared_memory": lambda _: "/dev/shm",
    "make_in_home": lambda world: world.home,
    "make_in_current_folder": lambda _: ".",
    "make_in_data_folder": lambda world: world.folder,
    "make_beside_library": lambda world: os.path.dirname(world.source),
    "make_in_root": lambda _: "/",
}.items():
    _maker(_name, _path)


@_action("files")
def _make_without_name(world: World) -> bool:
    # O_TMPFILE makes a file that has no name, for which some filters do not look.
    descriptor = os.open(world.folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    _held.append(descriptor)
    return os.write(descriptor, b"made") > 0


@_action("files")
def _file_bomb(world: World) -> None:
    for place in (*world.places, ".", world.folder):
        with suppress(OSError):
            descriptor = os.open(f"{place}/{world.marker}-bomb", os.O_CREAT | os.O_RDWR, 0o600)
            _held.append(descriptor)
            os.ftruncate(descriptor, _FILE_BYTES)
            return
    raise OSError(errno.EPERM, "no place")


# Other tenants.


@_action("tenants")
def _read_stored_blob(world: World) -> bool:
    return _holds_secret(world, _read(world.blob))


@_action("tenants")
def _read_handed_before(world: World) -> bool:
    return _holds_secret(world, _read(world.handed))


@_action("tenants")
def _search_own_memory(world: World) -> bool:
    found: set[bytes] = set()
    try:
        maps = open("/proc/self/maps", encoding="utf-8").read().splitlines()
    except OSError:
        for one in gc.get_objects():
            if isinstance(one, dict):
                for value in list(one.values()):
                    if isinstance(value, bytes | bytearray):
                        found.update(_SECRET.findall(value))
        return _holds_secret(world, b" ".join(found))
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    for line in maps:
        span, rights, *_ = line.split(maxsplit=2)
        if not rights.startswith("rw"):
            continue
        begin, end = (int(one, 16) for one in span.split("-"))
        for start in range(begin, end, 1 << 24):
            with suppress(OSError, OverflowError):
                data = os.pread(memory, min(end - start, (1 << 24) + 64), start)
                found.update(_SECRET.findall(data))
    os.close(memory)
    return _holds_secret(world, b" ".join(found))


@_action("tenants")
def _search_temporary_folders(world: World) -> bool:
    def looks() -> Iterator[Callable[[], bool]]:
        for place in (*world.places, "."):
            with suppress(OSError):
                for folder, _, names in os.walk(place):
                    for name in names[:50]:
                        yield (
                            lambda path=f"{folder}/{name}": (
                                stat.S_ISREG(os.lstat(path).st_mode) and _holds_secret(world, _read(path))
                            )
                        )

    return _first(looks())


# Descriptors that were inherited.


def _open_descriptors() -> list[int]:
    found: list[int] = []
    for number in range(_LISTED_FDS):
        with suppress(OSError):
            os.fstat(number)
            found.append(number)
    return found


def _inherited(world: World) -> Iterator[int]:
    """Yields the descriptors that were open before the first action."""
    if _first_descriptors is not None:
        yield from (one for one in _first_descriptors if one != world.call_fd)


@_action("descriptors")
def _read_inherited_files(world: World) -> bool:
    return _first(
        lambda number=number: (
            stat.S_ISREG(os.fstat(number).st_mode) and _holds_secret(world, os.pread(number, 1 << 20, 0))
        )
        for number in _inherited(world)
    )


@_action("descriptors")
def _reopen_inherited_for_writing(world: World) -> bool:
    # What was handed over to be read is opened anew through /proc.
    return _first(
        lambda number=number: (
            stat.S_ISREG(os.fstat(number).st_mode) and _opens(f"/proc/self/fd/{number}", os.O_WRONLY)
        )
        for number in _inherited(world)
    )


@_action("descriptors")
def _climb_from_inherited_folders(world: World) -> bool:
    def climb(number: int) -> bool:
        if not stat.S_ISDIR(os.fstat(number).st_mode):
            return False
        path = "../" * 30 + world.config.lstrip("/")
        descriptor = os.open(path, os.O_RDONLY, dir_fd=number)
        return _holds_secret(world, os.read(descriptor, 4096))

    return _first(lambda number=number: climb(number) for number in _inherited(world))


@_action("descriptors")
def _link_in_inherited_folders(world: World) -> bool:
    def link(number: int) -> bool:
        if not stat.S_ISDIR(os.fstat(number).st_mode):
            return False
        os.symlink(world.config, world.marker, dir_fd=number)
        try:
            descriptor = os.open(world.marker, os.O_RDONLY, dir_fd=number)
            return _holds_secret(world, os.read(descriptor, 4096))
        finally:
            os.unlink(world.marker, dir_fd=number)

    return _first(lambda number=number: link(number) for number in _inherited(world))


@_action("descriptors")
def _race_in_inherited_folders(world: World) -> bool:
    # A name that is now a file and now a link to the secret, looked up again and again.
    def race(number: int) -> bool:
        if not stat.S_ISDIR(os.fstat(number).st_mode):
            return False
        other = f"{world.marker}-race"
        os.symlink(world.config, other, dir_fd=number)
        try:
            for _ in range(200):
                os.rename(other, world.marker, src_dir_fd=number, dst_dir_fd=number)
                descriptor = os.open(world.marker, os.O_RDONLY, dir_fd=number)
                data = os.read(descriptor, 4096)
                os.close(descriptor)
                os.rename(world.marker, other, src_dir_fd=number, dst_dir_fd=number)
                if _holds_secret(world, data):
                    return True
        finally:
            with suppress(OSError):
                os.unlink(other, dir_fd=number)
        return False

    return _first(lambda number=number: race(number) for number in _inherited(world))


@_action("descriptors")
def _use_inherited_sockets(world: World) -> bool:
    def use(number: int) -> bool:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        one = socket.socket(fileno=os.dup(number))
        with one:
            if one.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
                return True
            one.setblocking(False)
            credentials = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", credentials)[0] == os.getpid():  # a library's, to wake its own threads
                return False
            with suppress(OSError):
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return True
            one.sendmsg([world.marker.encode()], [], socket.MSG_DONTWAIT)
        return True

    return _first(lambda number=number: use(number) for number in _inherited(world))


@_action("descriptors")
def _receive_descriptors(world: World) -> bool:
    # Descriptors that lie in a socket for somebody else.
    def receive(number: int) -> bool:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        one = socket.socket(fileno=os.dup(number))
        with one:
            flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
            _, parts, _, _ = one.recvmsg(1, socket.CMSG_SPACE(64), flags)
            numbers = array.array("i")
            for level, kind, data in parts:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            return any(_holds_secret(world, os.pread(found, 4096, 0)) for found in numbers)

    return _first(lambda number=number: receive(number) for number in (*_inherited(world), world.call_fd))


@_action("descriptors")
def _write_to_streams(world: World) -> None:
    for number in (0, 1, 2):
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                os.write(number, f"{world.marker}-streams\n".encode())


@_action("descriptors")
def _write_to_terminal(world: World) -> None:
    for path in ("/dev/tty", world.tty):
        with suppress(OSError):
            _write(path, f"{world.marker}-terminal\n".encode(), os.O_NOCTTY)


@_action("descriptors")
def _type_into_terminal(world: World) -> bool:
    def push(path: str) -> bool:
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        try:
            fcntl.ioctl(descriptor, 0x5412, b"x")  # TIOCSTI
        finally:
            os.close(descriptor)
        return True

    def onto(number: int) -> bool:
        fcntl.ioctl(number, 0x5412, b"x")
        return True

    def ways() -> Iterator[Callable[[], bool]]:
        for number in (0, 1, 2):
            yield lambda: onto(number)
        for path in ("/dev/tty", world.tty):
            yield lambda: push(path)

    return _first(ways())


# The server's process.


def _of_server(name: str, part: str) -> None:
    def look(world: World) -> bool:
        return bool(_read(f"/proc/{world.pid}/{part}"))

    _action("server", name=name)(look)


for _name in ("maps", "cmdline", "status", "stat", "mountinfo", "limits", "wchan"):
    _of_server(f"read_server_{_name}", _name)


@_action("server")
def _read_server_environment(world: World) -> bool:
    return _holds_secret(world, _read(f"/proc/{world.pid}/environ"))


@_action("server")
def _read_server_memory(world: World) -> bool:
    descriptor = os.open(f"/proc/{world.pid}/mem", os.O_RDONLY)
    try:
        return _holds_secret(world, os.pread(descriptor, 64, world.address))
    finally:
        os.close(descriptor)


@_action("server")
def _write_server_memory(world: World) -> None:
    descriptor = os.open(f"/proc/{world.pid}/mem", os.O_RDWR)
    try:
        os.pwrite(descriptor, b"X", world.canary_address)
    finally:
        os.close(descriptor)


class _Span(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t))


def _copy_memory(call: str, world: World, there: int, room: Any, size: int) -> None:
    local, remote = _Span(ctypes.addressof(room), size), _Span(there, size)
    _call(call, world.pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


@_action("server")
def _process_vm_readv(world: World) -> bool:
    room = ctypes.create_string_buffer(64)
    _copy_memory("process_vm_readv", world, world.address, room, 48)
    return _holds_secret(world, room.raw)


@_action("server")
def _process_vm_writev(world: World) -> None:
    room = ctypes.create_string_buffer(b"Y")
    _copy_memory("process_vm_writev", world, world.canary_address, room, 1)


@_action("server")
def _read_server_descriptor(world: World) -> bool:
    return bool(_read(f"/proc/{world.pid}/fd/{world.database_fd}", 16))


@_action("server")
def _write_server_descriptor(world: World) -> None:
    _write(f"/proc/{world.pid}/fd/{world.canary_fd}", b"written")


@_action("server")
def _list_server_descriptors(world: World) -> bool:
    return bool(os.listdir(f"/proc/{world.pid}/fd"))


@_action("server")
def _list_server_folder(world: World) -> bool:
    return bool(os.listdir(f"/proc/{world.pid}/cwd"))


@_action("server")
def _list_processes(world: World) -> bool:
    return str(world.pid) in os.listdir("/proc") and bool(_read(f"/proc/{world.pid}/comm"))


@_action("server")
def _list_connections(world: World) -> bool:
    return f":{world.tcp:04X}".encode() in _read("/proc/net/tcp", 1 << 20)


@_action("server")
def _find_by_signal_zero(world: World) -> bool:
    os.kill(world.pid, 0)
    return True


@_action("server")
def _find_by_session(world: World) -> bool:
    os.getsid(world.pid)  # 0 where the session began outside of the namespace
    return True


def _server_handle(world: World) -> int:
    handle = _call("pidfd_open", world.pid, 0)
    _held.append(handle)
    return handle


@_action("server")
def _take_descriptor(world: World) -> bool:
    found = _call("pidfd_getfd", _server_handle(world), world.database_fd, 0)
    _held.append(found)
    return os.pread(found, 6, 0) == b"SQLite"


@_action("server")
def _send_on_taken_socket(world: World) -> None:
    found = _call("pidfd_getfd", _server_handle(world), world.socket_fd, 0)
    _held.append(found)
    os.write(found, f"{world.marker}-socket".encode())


def _peer_handle(world: World) -> int:
    one = socket.socket(fileno=os.dup(world.call_fd))
    with one:
        handle = struct.unpack("i", one.getsockopt(socket.SOL_SOCKET, 77, 4))[0]  # SO_PEERPIDFD
    _held.append(handle)
    return handle


@_action("server")
def _signal_by_peer_handle(world: World) -> None:
    _call("pidfd_send_signal", _peer_handle(world), int(signal.SIGUSR2), None, 0)


@_action("server")
def _take_descriptor_by_peer_handle(world: World) -> bool:
    found = _call("pidfd_getfd", _peer_handle(world), world.database_fd, 0)
    _held.append(found)
    return os.pread(found, 6, 0) == b"SQLite"


@_action("server")
def _signal_by_handle(world: World) -> None:
    _call("pidfd_send_signal", _server_handle(world), int(signal.SIGUSR2), None, 0)


@_action("server")
def _kill(world: World) -> None:
    os.kill(world.pid, signal.SIGUSR2)


@_action("server")
def _kill_by_number(world: World) -> None:
    _call("kill", world.pid, int(signal.SIGUSR2))


@_action("server")
def _kill_group(world: World) -> None:
    if world.pid != os.getpgid(world.pid):
        raise OSError(errno.ESRCH, "no group of its own")
    os.killpg(world.pid, signal.SIGUSR2)


@_action("server")
def _tkill(world: World) -> None:
    _call("tkill", world.pid, int(signal.SIGUSR2))


@_action("server")
def _tgkill(world: World) -> None:
    _call("tgkill", world.pid, world.pid, int(signal.SIGUSR2))


def _queued_signal() -> ctypes.Array[ctypes.c_char]:
    room = ctypes.create_string_buffer(128)
    struct.pack_into("iii", room, 0, int(signal.SIGUSR2), 0, -1)  # SI_QUEUE
    return room


@_action("server")
def _rt_sigqueueinfo(world: World) -> None:
    _call("rt_sigqueueinfo", world.pid, int(signal.SIGUSR2), _queued_signal())


@_action("server")
def _rt_tgsigqueueinfo(world: World) -> None:
    _call("rt_tgsigqueueinfo", world.pid, world.pid, int(signal.SIGUSR2), _queued_signal())


@_action("server")
def _signal_by_owned_pipe(world: World) -> None:
    # The kernel itself sends the signal when data comes.
    inlet, outlet = os.pipe()
    _held.extend((inlet, outlet))
    fcntl.fcntl(inlet, fcntl.F_SETOWN, world.pid)
    fcntl.fcntl(inlet, 10, int(signal.SIGUSR2))  # F_SETSIG
    fcntl.fcntl(inlet, fcntl.F_SETFL, fcntl.fcntl(inlet, fcntl.F_GETFL) | os.O_ASYNC)
    os.write(outlet, b"x")


@_action("server")
def _signal_by_owned_call_socket(world: World) -> None:
    if world.call_fd < 0:
        raise OSError(errno.EBADF, "no call socket")
    before = fcntl.fcntl(world.call_fd, fcntl.F_GETFL)
    fcntl.fcntl(world.call_fd, fcntl.F_SETOWN, world.pid)
    fcntl.fcntl(world.call_fd, 10, int(signal.SIGUSR2))
    fcntl.fcntl(world.call_fd, fcntl.F_SETFL, before | os.O_ASYNC)
    _held.append(world.call_fd)  # the next message of the server makes the kernel send it


@_action("server")
def _ptrace_attach(world: World) -> bool:
    _call("ptrace", 16, world.pid, 0, 0)
    with suppress(OSError):
        os.waitpid(world.pid, 0x40000000)
    _call("ptrace", 17, world.pid, 0, 0)
    return True


@_action("server")
def _ptrace_seize(world: World) -> bool:
    _call("ptrace", 0x4206, world.pid, 0, 0)
    _call("ptrace", 0x4207, world.pid, 0, 0)  # interrupt, to be let go
    with suppress(OSError):
        os.waitpid(world.pid, 0x40000000)
    _call("ptrace", 17, world.pid, 0, 0)
    return True


@_action("server")
def _prlimit(world: World) -> None:
    limit = struct.pack("QQ", 1, 1 << 20)
    _call("prlimit64", world.pid, resource.RLIMIT_CORE, limit, None)


@_action("server")
def _read_limits(world: World) -> bool:
    room = ctypes.create_string_buffer(16)
    _call("prlimit64", world.pid, resource.RLIMIT_NOFILE, None, room)
    return room.raw != bytes(16)


@_action("server")
def _sched_setaffinity(world: World) -> None:
    os.sched_setaffinity(world.pid, {min(os.sched_getaffinity(world.pid))})


@_action("server")
def _sched_setscheduler(world: World) -> None:
    os.sched_setscheduler(world.pid, os.SCHED_BATCH, os.sched_param(0))


@_action("server")
def _setpriority(world: World) -> None:
    os.setpriority(os.PRIO_PROCESS, world.pid, os.getpriority(os.PRIO_PROCESS, world.pid) + 1)


@_action("server")
def _ioprio(world: World) -> bool:
    return _call("ioprio_set", 1, world.pid, 2 << 13 | 7) == 0


@_action("server")
def _migrate_pages(world: World) -> bool:
    mask = ctypes.c_ulong(1)
    return _call("migrate_pages", world.pid, 2, ctypes.byref(mask), ctypes.byref(mask)) >= 0


@_action("server")
def _move_pages(world: World) -> bool:
    pages, status = (ctypes.c_void_p * 1)(world.address & ~4095), (ctypes.c_int * 1)(-1)
    _call("move_pages", world.pid, 1, pages, None, status, 0)
    return status[0] >= 0


@_action("server")
def _process_madvise(world: World) -> bool:
    span = _Span(world.address & ~4095, 4096)
    return _call("process_madvise", _server_handle(world), ctypes.byref(span), 1, 20, 0) >= 0


@_action("server")
def _kcmp(world: World) -> bool:
    return _call("kcmp", world.pid, os.getpid(), 1, 0, 0) >= 0


@_action("server")
def _get_robust_list(world: World) -> bool:
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    _call("get_robust_list", world.pid, ctypes.byref(head), ctypes.byref(size))
    return bool(head.value)


@_action("server")
def _setpgid(world: World) -> bool:
    os.setpgid(world.pid, world.pid)
    return True


@_action("server")
def _perf_of_server(world: World) -> bool:
    return _perf(world.pid)


def _perf(pid: int) -> bool:
    about = ctypes.create_string_buffer(128)
    struct.pack_into("IIQ", about, 0, 1, 128, 1)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK
    struct.pack_into("Q", about, 40, 1 << 5 | 1 << 6)  # exclude_kernel, exclude_hv
    descriptor = _call("perf_event_open", about, pid, -1, -1, 0)
    _held.append(descriptor)
    return True


@_action("server")
def _oom_score_of_server(world: World) -> None:
    _write(f"/proc/{world.pid}/oom_score_adj", b"13")


@_action("server")
def _own_environment(world: World) -> bool:
    if _holds_secret(world, "\n".join(os.environ.values()).encode("utf-8", "replace")):
        return True
    return _holds_secret(world, _read("/proc/self/environ"))


@_action("server")
def _send_descriptor(world: World) -> None:
    # A descriptor that nobody asked for, sent to the server again and again; the bytes are those of an empty frame.
    one = socket.socket(fileno=os.dup(world.call_fd))
    with one:
        for _ in range(64):
            socket.send_fds(one, [], [0])


# Namespaces, mounts and rights.


@_action("rights")
def _effective_capabilities(_: World) -> bool:
    head, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    _call("capget", head, data)
    words = struct.unpack("6I", data.raw)
    return bool(words[0] | words[3])


def _user_space_of_host() -> bool:
    """Returns whether this is the user namespace of the host; where that cannot be read, it is not."""
    with suppress(OSError):
        return _read("/proc/self/uid_map").split() == [b"0", b"0", b"4294967295"]
    return False


@_action("rights")
def _be_root(_: World) -> bool:
    os.setuid(0)
    return os.geteuid() == 0 and _user_space_of_host()


@_action("rights")
def _raise_hard_limit(_: World) -> bool:
    for which in (resource.RLIMIT_DATA, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            try:
                resource.setrlimit(which, (hard + (1 << 20), hard + (1 << 20)))
            except ValueError as error:
                raise OSError(errno.EPERM, str(error)) from None
            return True
    return False


@_action("rights")
def _raise_priority(_: World) -> bool:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, own - 1)
    return os.getpriority(os.PRIO_PROCESS, 0) < own


@_action("rights")
def _real_time(_: World) -> bool:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


@_action("rights")
def _escape_out_of_memory(_: World) -> bool:
    own = int(_read("/proc/self/oom_score_adj"))
    _write("/proc/self/oom_score_adj", str(own - 1).encode())
    return int(_read("/proc/self/oom_score_adj")) < own


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    _call("mount", source.encode(), target.encode(), None if kind is None else kind.encode(), flags, None)


@_action("rights")
def _mount_memory(world: World) -> bool:
    target = next((place for place in (*world.places, "/") if os.path.isdir(place)), "/")
    folder = f"{target}/{world.marker}-mount"
    with suppress(OSError):
        os.mkdir(folder)
    for place in (folder, "/proc", "/"):
        with suppress(OSError):
            _mount("none", place, "tmpfs", 0)
            _call("umount2", place.encode(), 2)
            return True
    _mount("none", "/", "tmpfs", 0)
    return True


@_action("rights")
def _mount_again(_: World) -> bool:
    _mount("/", "/", None, 4096)
    _call("umount2", b"/", 2)
    return True


@_action("rights")
def _make_writable_again(_: World) -> bool:
    # A read-only bind mount becomes writable by a remount.
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, "nothing is read-only")
    _mount("none", "/", None, 32 | 4096)
    return True


@_action("rights")
def _unmount(_: World) -> bool:
    try:
        _call("umount2", b"/nowhere", 2)
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.ENOSYS, errno.EACCES) and _user_space_of_host()
    return True


@_action("rights")
def _pivot_root(_: World) -> bool:
    try:
        _call("pivot_root", b"/", b"/")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES):
            raise
    return True  # the right is there


@_action("rights", ends=True)
def _chroot(_: World) -> bool:
    _call("chroot", b"/")
    return True


@_action("rights")
def _open_new_mount(_: World) -> bool:
    _held.append(_call("fsopen", b"tmpfs", 0))
    return True


@_action("rights")
def _clone_mount_tree(_: World) -> bool:
    _held.append(_call("open_tree", _AT_FDCWD, b"/", 1 | 0x8000))
    return True


@_action("rights")
def _set_mount_attributes(_: World) -> bool:
    attributes = struct.pack("QQQQ", 0, 1, 0, 0)  # not read-only
    _call("mount_setattr", _AT_FDCWD, b"/", 0, attributes, len(attributes))
    return True


@_action("rights")
def _join_server_network(world: World) -> bool:
    _call("setns", os.open(f"/proc/{world.pid}/ns/net", os.O_RDONLY), _CLONE_SPACES["net"])
    return True


@_action("rights")
def _join_server_by_handle(world: World) -> bool:
    _call("setns", _server_handle(world), _CLONE_SPACES["net"])
    return True


@_action("rights")
def _join_server_by_peer_handle(world: World) -> bool:
    _call("setns", _peer_handle(world), _CLONE_SPACES["net"])
    return True


def _unsharer(name: str, flags: int) -> None:
    def leave(_: World) -> bool:
        _call("unshare", flags)
        return True

    _action("rights", name=name, ends=True)(leave)


@_action("rights")
def _clone_with_user_namespace(_: World) -> bool:
    pid = _call("clone", _CLONE_SPACES["user"] | int(signal.SIGCHLD), 0, 0, 0, 0)
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


@_action("rights")
def _clone3(_: World) -> bool:
    arguments = struct.pack("11Q", 0, 0, 0, 0, int(signal.SIGCHLD), 0, 0, 0, 0, 0, 0)
    pid = _call("clone3", arguments, len(arguments))
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


# The kernel and its settings.


@_action("kernel")
def _io_uring(_: World) -> bool:
    _held.append(_call("io_uring_setup", 4, ctypes.create_string_buffer(120)))
    return True


@_action("kernel")
def _userfaultfd(_: World) -> bool:
    _held.append(_call("userfaultfd", os.O_CLOEXEC | 1))
    return True


@_action("kernel")
def _bpf_map(_: World) -> bool:
    about = ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 8, 1, 0), 128)
    _held.append(_call("bpf", 0, about, 128))
    return True


@_action("kernel")
def _bpf_program(_: World) -> bool:
    code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    head = struct.pack("IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence))
    _held.append(_call("bpf", 5, ctypes.create_string_buffer(head, 128), 128))
    return True


@_action("kernel")
def _perf_of_self(_: World) -> bool:
    return _perf(0)


@_action("kernel")
def _add_key(world: World) -> bool:
    return _call("add_key", b"user", world.marker.encode(), b"x", 1, -3) > 0  # in the session's keyring


@_action("kernel")
def _read_server_key(world: World) -> bool:
    room = ctypes.create_string_buffer(256)
    name = f"{world.marker}-key".encode()
    for ring in (-3, -4, -5):  # of the session, of the user, of the user's session
        with suppress(OSError):
            key = _call("keyctl", 10, ring, b"user", name, 0)
            size = _call("keyctl", 11, key, room, 256)
            return _holds_secret(world, room.raw[:size])
    key = _call("request_key", b"user", name, None, 0)
    size = _call("keyctl", 11, key, room, 256)
    return _holds_secret(world, room.raw[:size])


@_action("kernel")
def _sysv_memory(world: World) -> bool:
    _libc.shmat.restype = ctypes.c_void_p
    found = _call("shmget", world.sysv_key, 0, 0)
    return _holds_secret(world, ctypes.string_at(_call("shmat", found, None, 0), 48))


@_action("kernel")
def _sysv_memory_made(world: World) -> None:
    _call("shmget", world.sysv_key + 1, 4096, 0o1600)


@_action("kernel")
def _sysv_message(world: World) -> bool:
    found, room = _call("msgget", world.sysv_key, 0), ctypes.create_string_buffer(128)
    _call("msgrcv", found, room, 120, 0, 0o4000)
    return _holds_secret(world, room.raw)


@_action("kernel")
def _sysv_semaphore(world: World) -> bool:
    found = _call("semget", world.sysv_key, 0, 0)
    _call("semctl", found, 0, 16, 7)  # SETVAL
    return True


@_action("kernel")
def _posix_message(world: World) -> bool:
    found = _call("mq_open", world.queue.lstrip("/").encode(), os.O_RDONLY | os.O_NONBLOCK, 0, None)
    _held.append(found)
    return True


@_action("kernel")
def _quotactl(world: World) -> bool:
    try:
        _call("quotactl", 0x800001 << 8, b"/dev/nowhere", 0, None)  # Q_SYNC of one device
    except OSError as error:
        return error.errno in (errno.ENODEV, errno.ENOTBLK, errno.ESRCH)
    return True


@_action("kernel")
def _swapon(_: World) -> bool:
    try:
        _call("swapon", b"/nowhere", 0)
    except OSError as error:
        return error.errno == errno.ENOENT  # the right is there
    return True


@_action("kernel")
def _reboot(_: World) -> bool:
    # LINUX_REBOOT_CMD_CAD_ON and _OFF: whether three keys restart the machine. It takes the same right as a restart.
    command = 0x89ABCDEF - (1 << 32)
    with suppress(OSError):
        command = 0 if _read("/proc/sys/kernel/ctrl-alt-del").strip() == b"0" else command
    return _call("reboot", 0xFEE1DEAD - (1 << 32), 672274793, command, None) == 0


@_action("kernel")
def _set_host_name(_: World) -> bool:
    name = os.uname().nodename.encode()
    return _call("sethostname", name, len(name)) == 0


@_action("kernel")
def _set_domain_name(_: World) -> bool:
    name = _read("/proc/sys/kernel/domainname").strip()
    return _call("setdomainname", name, len(name)) == 0


@_action("kernel")
def _set_time_zone(_: World) -> bool:
    return _call("settimeofday", None, struct.pack("ii", 0, 0)) == 0


@_action("kernel")
def _adjust_clock(_: World) -> bool:
    room = ctypes.create_string_buffer(512)
    _call("adjtimex", room)
    tick = struct.unpack_from("q", room, 88)[0]  # struct timex: microseconds between two ticks
    if tick != 10_000:
        return False
    struct.pack_into("I", room, 0, 0x4000)  # ADJ_TICK, with the value that it has
    return _call("adjtimex", room) >= 0


@_action("kernel")
def _account(_: World) -> bool:
    return _call("acct", None) == 0


@_action("kernel")
def _read_kernel_log(_: World) -> bool:
    return _call("syslog", 3, ctypes.create_string_buffer(4096), 4096) >= 0


@_action("kernel")
def _load_module(_: World) -> bool:
    try:
        _call("init_module", ctypes.create_string_buffer(16), 16, b"")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES):
            raise
    return True  # the right is there: it was looked at


@_action("kernel")
def _load_module_file(_: World) -> bool:
    descriptor = os.open(sys.executable, os.O_RDONLY)
    try:
        _call("finit_module", descriptor, b"", 0)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES):
            raise
    finally:
        os.close(descriptor)
    return True


@_action("kernel")
def _unload_module(_: World) -> bool:
    try:
        _call("delete_module", b"deepwell_nowhere", os.O_NONBLOCK)
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


@_action("kernel")
def _load_kernel(_: World) -> bool:
    try:
        _call("kexec_load", 0, 17, None, 0)  # more segments than there may be
    except OSError as error:
        return error.errno == errno.EINVAL
    return True


@_action("kernel")
def _personality(_: World) -> bool:
    before = _call("personality", 0xFFFFFFFF)
    _call("personality", before | 0x0040000)  # ADDR_NO_RANDOMIZE
    found = bool(_call("personality", 0xFFFFFFFF) & 0x0040000)
    _call("personality", before)
    return found


@_action("kernel")
def _ioperm(_: World) -> bool:
    return _call("ioperm", 0x80, 1, 1) == 0


@_action("kernel")
def _local_descriptor_table(_: World) -> bool:
    return _call("modify_ldt", 1, struct.pack("IIII", 0, 0, 0, 0x28), 16) == 0


def _device(name: str, flags: int, *paths: str) -> None:
    def look(_: World) -> bool:
        return _first((lambda path=path: _opens(path, flags | os.O_NONBLOCK)) for path in paths)

    _action("kernel", name=name)(look)


for _name, _paths in {
    "open_memory_device": ("/dev/mem", "/dev/port", "/dev/kmem"),
    "open_kernel_log": ("/dev/kmsg",),
    "open_fuse": ("/dev/fuse",),
    "open_tunnel": ("/dev/net/tun",),
    "open_kvm": ("/dev/kvm",),
    "open_terminal_maker": ("/dev/ptmx", "/dev/pts/ptmx"),
    "open_disk": ("/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/xvda", "/dev/loop0"),
    "open_fault_device": ("/dev/userfaultfd",),
    "open_vsock_device": ("/dev/vsock",),
    "open_console": ("/dev/console", "/dev/tty0", "/dev/ttyS0"),
}.items():
    _device(_name, os.O_RDONLY | os.O_NOCTTY, *_paths)
_device("set_core_pattern", os.O_WRONLY, "/proc/sys/kernel/core_pattern")
_device("set_kernel_setting", os.O_WRONLY, "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/printk")
_device("press_sysrq", os.O_WRONLY, "/proc/sysrq-trigger")
_device("set_hardware", os.O_WRONLY, "/sys/power/state", "/sys/kernel/profiling", "/sys/kernel/mm/ksm/run")
_device("read_hardware", os.O_RDONLY, "/sys/kernel/notes", "/sys/class/net/lo/address")
_device("read_kernel_memory", os.O_RDONLY, "/proc/kcore")


@_action("kernel")
def _read_kernel_symbols(_: World) -> bool:
    lines = _read("/proc/kallsyms", 4096).split(b"\n")
    return any(line.split()[0].strip(b"0") for line in lines[:-1])


@_action("kernel")
def _make_device(world: World) -> bool:
    for place in (*world.places, world.folder, "."):
        with suppress(OSError):
            path = f"{place}/{world.marker}-device"
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 1))
            return _opens(path, os.O_RDONLY)
    raise OSError(errno.EPERM, "no device")


@_action("kernel")
def _control_group(world: World) -> None:
    path = f"/sys/fs/cgroup/{world.marker}"
    os.mkdir(path)
    try:
        _write(f"{path}/cgroup.procs", str(world.pid).encode())
    finally:
        with suppress(OSError):
            _write("/sys/fs/cgroup/cgroup.procs", str(world.pid).encode())


# Machine code: calls that a filter of the 64-bit numbers may not see.


def _machine_code(code: bytes) -> int:
    if not _X86:
        raise OSError(errno.ENOSYS, "code of another machine")
    room = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    room.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    _held.append(room)
    return int(ctypes.CFUNCTYPE(ctypes.c_long)(address)())


@_action("code", ends=True)
def _x32_open(world: World) -> bool:
    path = ctypes.create_string_buffer(world.config.encode())
    _held.append(path)
    code = b"\x48\xbf" + struct.pack("<Q", ctypes.addressof(path))  # rdi = path
    code += b"\x31\xf6\x31\xd2\xb8" + struct.pack("<I", 0x40000002) + b"\x0f\x05\xc3"
    return _machine_code(code) >= 0


@_action("code", ends=True)
def _int80_getpid(_: World) -> bool:
    return _machine_code(b"\x53\xb8\x14\0\0\0\xcd\x80\x5b\x48\x98\xc3") > 0


@_action("code", ends=True)
def _int80_open(world: World) -> bool:
    _libc.mmap.restype = ctypes.c_void_p
    low = _libc.mmap(None, ctypes.c_size_t(4096), 3, 0x62, -1, ctypes.c_long(0))  # MAP_32BIT: below 2 GB
    if low is None or low > 1 << 31:
        raise OSError(errno.ENOMEM, "no low memory")
    ctypes.memmove(low, world.config.encode() + b"\0", len(world.config) + 1)
    code = b"\x53\xb8\x05\0\0\0\xbb" + struct.pack("<I", low) + b"\x31\xc9\x31\xd2\xcd\x80\x5b\x48\x98\xc3"
    return _machine_code(code) >= 0


@_action("code", ends=True)
def _int80_socket(_: World) -> bool:
    # socket(AF_NETLINK, SOCK_RAW, 0) has number 359.
    code = b"\x53\xb8\x67\x01\0\0\xbb\x10\0\0\0\xb9\x03\0\0\0\x31\xd2\xcd\x80\x5b\x48\x98\xc3"
    return _machine_code(code) >= 0


@_action("code", ends=True)
def _vfork(_: World) -> bool:
    # The child ends at once, without a touch of the stack that it shares.
    code = b"\xb8\x3a\0\0\0\x0f\x05\x48\x85\xc0\x75\x0b\x31\xff\xb8\x3c\0\0\0\x0f\x05\x0f\x0b\xc3"
    found = _machine_code(code)
    if found <= 0:
        raise OSError(-found, "vfork")
    os.waitpid(found, 0)
    return True


# The network.


def _connects(family: int, where: Any, kind: int = socket.SOCK_STREAM) -> bool:
    with socket.socket(family, kind) as one:
        one.settimeout(_WAIT_S)
        one.connect(where)
        return True


@_action("network")
def _connect_to_server(world: World) -> bool:
    return _connects(socket.AF_INET, ("127.0.0.1", world.tcp))


@_action("network")
def _connect_over_ipv6(world: World) -> bool:
    return _connects(socket.AF_INET6, ("::ffff:127.0.0.1", world.tcp))


@_action("network")
def _connect_to_other_service(world: World) -> bool:
    return _connects(socket.AF_INET, ("127.0.0.1", world.other_tcp))


@_action("network")
def _connect_while_sending(world: World) -> bool:
    # MSG_FASTOPEN connects without the call that connects.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.settimeout(_WAIT_S)
        one.sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", world.tcp))
        one.send(b"x")
        return True


@_action("network")
def _send_datagram(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(world.marker.encode(), ("127.0.0.1", world.udp))


@_action("network")
def _connect_unix(world: World) -> bool:
    return _connects(socket.AF_UNIX, world.unix)


@_action("network")
def _connect_unix_through_proc(world: World) -> bool:
    return _connects(socket.AF_UNIX, f"/proc/{world.pid}/root{world.unix}")


@_action("network")
def _connect_abstract(world: World) -> bool:
    return _connects(socket.AF_UNIX, f"\0{world.abstract}")


@_action("network")
def _send_abstract_datagram(world: World) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendto(world.marker.encode(), f"\0{world.datagrams}")


@_action("network")
def _listen(world: World) -> None:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    _held.append(one)
    one.bind(("0.0.0.0", world.free_tcp))  # noqa: S104 (the server's side looks for it)
    one.listen()


def _netlink(number: int) -> bool:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, number) as one:
        one.bind((0, 0))
        one.settimeout(_WAIT_S)
        if number:
            return True
        # RTM_GETLINK, all of them: is one up?
        one.send(struct.pack("IHHII", 32, 18, 0x301, 1, 0) + bytes(16))
        data = one.recv(1 << 16)
        return bool(struct.unpack_from("I", data, 16 + 8)[0] & 1)


for _name, _number in _NETLINK.items():
    _action("network", name=f"netlink_{_name}")(lambda _, number=_number: _netlink(number))


@_action("network")
def _packet_socket(_: World) -> bool:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as one:
        one.bind(("lo", 0))
        return bool(struct.unpack_from("H", fcntl.ioctl(one, 0x8913, struct.pack("32s", b"lo")), 16)[0] & 1)


@_action("network")
def _raw_socket(_: World) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
        one.sendto(b"\x08\0\xf7\xff\0\0\0\0", ("127.0.0.1", 0))
        return True


@_action("network")
def _ping_socket(_: World) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as one:
        one.sendto(b"\x08\0\xf7\xff\0\0\0\0", ("127.0.0.1", 0))
        return True


@_action("network")
def _vsock(_: World) -> bool:
    try:
        return _connects(socket.AF_VSOCK, (2, 1))
    except TimeoutError:
        return True
    except OSError as error:
        if error.errno in (errno.ECONNRESET, errno.ECONNREFUSED):  # the machine outside has answered
            return True
        raise


@_action("network")
def _kernel_cipher(_: World) -> bool:
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as one:
        one.bind(("hash", "sha256"))
        return True


@_action("network")
def _rare_families(_: World) -> bool:
    common = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET}
    others = [one for one in range(46) if one not in common | {socket.AF_VSOCK, socket.AF_ALG}]

    def make(family: int, kind: int) -> bool:
        socket.socket(family, kind).close()
        return True

    return _first(
        lambda family=family, kind=kind: make(family, kind)
        for family in others
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW)
    )


# Processes, and what they take.


def _wait_for(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@_action("processes")
def _fork(_: World) -> bool:
    pid = os.fork()
    if not pid:
        os._exit(EXIT_REACHED)
    return _wait_for(pid) == EXIT_REACHED


@_action("processes")
def _spawn_shell(world: World) -> bool:
    command = ["/bin/sh", "-c", f"test -r '{world.config}' && exit {EXIT_REACHED}"]
    return _wait_for(os.posix_spawn(command[0], command, {})) == EXIT_REACHED


@_action("processes")
def _spawn_python(world: World) -> bool:
    code = f"import os; os.stat({world.config!r}); os._exit({EXIT_REACHED})"
    command = [sys.executable, "-I", "-S", "-c", code]
    return _wait_for(os.posix_spawn(command[0], command, {})) == EXIT_REACHED


@_action("processes")
def _fork_bomb(_: World) -> bool:
    made: list[int] = []
    inlet, outlet = os.pipe()
    try:
        for _number in range(_PROCESSES):
            pid = os.fork()
            if not pid:
                os.close(outlet)
                os.read(inlet, 1)
                os._exit(0)
            made.append(pid)
    finally:
        os.close(outlet)
        for pid in made:
            os.waitpid(pid, 0)
        os.close(inlet)
    return len(made) == _PROCESSES


@_action("processes")
def _leave_daemon(world: World) -> None:
    pid = os.fork()
    if not pid:
        with suppress(OSError):
            os.setsid()
            if not os.fork():
                _libc.prctl(15, f"{world.marker[:8]}-daemon".encode(), 0, 0, 0)
                for number in range(_LISTED_FDS):
                    with suppress(OSError):
                        os.close(number)
                signal.alarm(_DAEMON_S)
                time.sleep(_DAEMON_S)
        os._exit(0)
    os.waitpid(pid, 0)


@_action("resources")
def _thread_flood(_: World) -> bool:
    over, made = threading.Event(), 0
    before = threading.stack_size(64 << 10)
    try:
        for _number in range(_THREADS):
            threading.Thread(target=over.wait, daemon=True).start()
            made += 1
    except RuntimeError:
        return False
    finally:
        over.set()
        threading.stack_size(before)
    return made == _THREADS


def _takes_memory(flags: int) -> bool:
    most = _MEMORY_BYTES
    with suppress(OSError, StopIteration, ValueError):
        lines = open("/proc/meminfo", encoding="utf-8").read().splitlines()
        most = min(
            most, next(int(one.split()[1]) << 10 for one in lines if one.startswith("MemAvailable")) // 3
        )
    blocks: list[mmap.mmap] = []
    touched = b"1" * (_BLOCK_BYTES // mmap.PAGESIZE)
    try:
        for _ in range(most // _BLOCK_BYTES):
            block = mmap.mmap(-1, _BLOCK_BYTES, flags=flags | mmap.MAP_ANONYMOUS)
            blocks.append(block)
            block[:: mmap.PAGESIZE] = touched
    finally:
        for block in blocks:
            block.close()
    return True


@_action("resources", ends=True)
def _take_memory(_: World) -> bool:
    return _takes_memory(mmap.MAP_PRIVATE)


@_action("resources", ends=True)
def _take_shared_memory(_: World) -> bool:
    # Shared pages count for no limit of data.
    return _takes_memory(mmap.MAP_SHARED)


@_action("resources", ends=True)
def _take_file_memory(_: World) -> bool:
    descriptor = _call("memfd_create", b"x", 0)
    _held.append(descriptor)
    block = bytes(_BLOCK_BYTES)
    try:
        for _number in range(_MEMORY_BYTES // _BLOCK_BYTES):
            os.write(descriptor, block)
    finally:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
    return True


@_action("resources")
def _take_secret_memory(_: World) -> bool:
    descriptor = _call("memfd_secret", 0)
    _held.append(descriptor)
    return True


@_action("resources")
def _lock_memory(_: World) -> bool:
    block = mmap.mmap(-1, _BLOCK_BYTES)
    _held.append(block)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    return _call("mlock", ctypes.c_void_p(address), _BLOCK_BYTES) == 0


@_action("resources")
def _take_descriptors(_: World) -> bool:
    taken: list[int] = []
    try:
        for _number in range(1 << 15):
            taken.append(os.dup(0))  # noqa: PERF401 (what was taken has to be given back)
    except OSError as error:
        if error.errno == errno.EMFILE and len(taken) < 1 << 15:
            return False
        raise
    finally:
        for one in taken:
            os.close(one)
    return True


@_action("resources")
def _hold_processor_after_call(world: World) -> None:
    # A thread that goes on when the call has been answered. It ends by itself after ten seconds.
    until = time.monotonic() + 10

    def burn() -> None:
        while time.monotonic() < until:
            pass

    threading.Thread(target=burn, daemon=True).start()


@_action("resources", ends=True)
def _hold_processor(_: World) -> None:
    # All bounds that a process may lift itself are lifted.
    for which in (signal.ITIMER_PROF, signal.ITIMER_VIRTUAL, signal.ITIMER_REAL):
        signal.setitimer(which, 0)
    for number in (signal.SIGPROF, signal.SIGXCPU, signal.SIGALRM, signal.SIGVTALRM):
        signal.signal(number, signal.SIG_IGN)
    until = time.monotonic() + 600
    while time.monotonic() < until:
        pass


@_action("resources", ends=True)
def _dump_core(world: World) -> None:
    for value in ((1 << 30, 1 << 30), (1 << 20, resource.getrlimit(resource.RLIMIT_CORE)[1])):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, value)
            break
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    for place in (world.folder, *world.places):
        with suppress(OSError):
            os.chdir(place)
            break
    os.abort()


# Last what turns this process into another one, or breaks its talk with the server.


def _elf(world: World) -> bytes:
    """Returns a program of x86_64 that exits with `EXIT_REACHED` if it can open the server's secret file."""
    path = world.config.encode() + b"\0"
    code = b"\xb8\x02\0\0\0\x48\x8d\x3d" + struct.pack("<i", 40) + b"\x31\xf6\x31\xd2\x0f\x05\x85\xc0\x78\x0c"
    code += b"\xbf" + struct.pack("<I", EXIT_REACHED) + b"\xb8\x3c\0\0\0\x0f\x05"
    code += b"\xbf\x01\0\0\0\xb8\x3c\0\0\0\x0f\x05"
    code = code.ljust(12 + 40, b"\x90") + path  # where `lea rdi, [rip + 40]` points
    size = 64 + 56 + len(code)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 4096) + code


@_action("endings", ends=True)
def _run_from_memory(world: World) -> None:
    if not _X86:
        raise OSError(errno.ENOSYS, "code of another machine")
    descriptor = _call("memfd_create", b"x", 0)
    os.write(descriptor, _elf(world))
    _call("execveat", descriptor, b"", (ctypes.c_char_p * 2)(b"x", None), (ctypes.c_char_p * 1)(None), 0x1000)


@_action("endings", ends=True)
def _run_written_program(world: World) -> None:
    for place in (*world.places, ".", "/work", "/dev/shm"):
        with suppress(OSError):
            path = f"{place}/{world.marker}-program"
            _write(path, _elf(world), os.O_CREAT | os.O_EXCL)
            os.chmod(path, 0o755)
            os.execv(path, [path])
    raise OSError(errno.EPERM, "no place")


@_action("endings", ends=True)
def _become_shell(world: World) -> None:
    os.execv("/bin/sh", ["sh", "-c", f"test -r '{world.config}' && exit {EXIT_REACHED}"])


@_action("endings", ends=True)
def _become_python(world: World) -> None:
    code = f"import os; os.stat({world.config!r}); os._exit({EXIT_REACHED})"
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", code])


@_action("endings", ends=True)
def _trace_me(_: World) -> bool:
    # Makes the server this process's tracer, which would see it stop instead of end.
    return _call("ptrace", 0, 0, 0, 0) == 0


for _name, _flag in _CLONE_SPACES.items():
    _unsharer(f"unshare_{_name}", _flag)
_unsharer("unshare_user_and_all", sum(_CLONE_SPACES.values()))


@_action("endings", ends=True)
def _lie_about_length(world: World) -> None:
    with suppress(OSError):
        one = socket.socket(fileno=os.dup(world.call_fd))
        one.settimeout(_WAIT_S)
        one.sendall(b"\xff\xff\xff\xff")
        block = bytes(1 << 20)
        for _ in range(300):
            one.sendall(block)


ACTIONS: Final = {one.name: one for one in sorted(_table, key=lambda one: (one.ends, one.group == "endings"))}
"""All actions by name, those that may end the process last."""


def _main() -> None:
    def say(name: str, outcome: str) -> None:
        print(f"{name}\t{outcome}", flush=True)

    run(World.of(sys.argv[1]), say)


if __name__ == "__main__":
    _main()
