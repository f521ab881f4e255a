"""Enters a confinement and becomes a program there: `python -I -S enter.py PLAN`.

It is run by its path, without the package. PLAN is the JSON of `launch.Plan`.

With a `root`, root enters the mount, process, network, IPC, UTS and control group namespaces by its own right and becomes a
user id that nobody has. Anyone else, and root of a container without that right, enters a user namespace first. In the new root
the process is user 1000 without capabilities, and whatever is started there ends with its parent. Without a `root`, the walls
are the user id, Landlock and the filter of system calls alone.
"""

# The import of pathlib would be a tenth of the start.
# ruff: noqa: PTH102, PTH103, PTH112, PTH120, PTH123, PTH211

from __future__ import annotations

import base64
import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_SPACES = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = (
    1,
    4,
    22,
    24,
    38,
)
_SECCOMP_FILTER = 2
_MOUNT_SETATTR, _AT_RECURSIVE, _AT_FDCWD = 442, 0x8000, -100
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _PATH_BENEATH = 1, 1
# LANDLOCK_ACCESS_FS_*: the number of rights of each version of Landlock, from version 1 (linux/landlock.h).
_RIGHTS = (13, 14, 15, 15, 16)
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15
_TCP, _SCOPES = 3, 3  # binding and connecting; abstract sockets and signals
_INSIDE_ID = 1000
# First of 60,000 user ids that nobody has; first of 1,000 that a container's map of ids has; what the smallest maps have.
_STRANGE_ID, _SMALL_ID, _NOBODY = 2_130_000_000, 60_100, 65_534
_LAST_CAPABILITY = 63
_OUT_OF_MEMORY_SCORE = "800"
_DESCRIPTORS = 1 << 16
_SIGNALLED = 128  # exit codes above it tell the signal that ended a program, as in a shell

_libc = ctypes.CDLL(None, use_errno=True)
_pivot_root = {"x86_64": 155, "aarch64": 41}


class _Attributes(ctypes.Structure):
    """struct mount_attr (man 2 mount_setattr)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "space"))


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    named = [None if one is None else os.fsencode(one) for one in (source, target, kind, data)]
    flagged = ctypes.c_ulong(flags)
    _check(_libc.mount(named[0], named[1], named[2], flagged, named[3]), f"mount {target}")


def _pivot(new: str, old: str) -> None:
    number = ctypes.c_long(_pivot_root[os.uname().machine])
    _check(_libc.syscall(number, os.fsencode(new), os.fsencode(old)), "pivot_root")


def _detach(target: str) -> None:
    _check(_libc.umount2(os.fsencode(target), _DETACH), f"umount {target}")


def _protect(target: str, flags: int) -> None:
    """Makes a mount and all that lies in it read-only."""
    attributes = _Attributes(flags, 0, 0, 0)  # the bits MOUNT_ATTR_RDONLY to NOEXEC are those of mount(2)
    path, size = os.fsencode(target), ctypes.c_size_t(ctypes.sizeof(attributes))
    call = (ctypes.c_long(_MOUNT_SETATTR), ctypes.c_long(_AT_FDCWD), path)
    if _libc.syscall(*call, ctypes.c_long(_AT_RECURSIVE), ctypes.byref(attributes), size) == 0:
        return
    kept = os.statvfs(target).f_flag & (
        _NOSUID | _NODEV | _NOEXEC | 1024 | 2048 | 4096
    )  # and the times of access
    flags |= kept & 0xF | (kept & 1024 and 1024) | (kept & 2048 and 2048) | (kept & 4096 and 1 << 21)
    _mount(None, target, None, _REMOUNT | _BIND | flags)


def _enter(number: int, *, keep_user: bool) -> bool:
    """Enters the namespaces. Returns whether it took a user namespace to do so.

    Args:
        number: user id that root takes if it must: the kernel does not count the threads of its own.
        keep_user: whether root stays the owner of its files, in a user namespace, because no other user may read them.
    """
    if os.geteuid() == 0 and not keep_user:
        if _libc.unshare(_SPACES) == 0:
            _libc.unshare(_NEWCGROUP)  # hides names only, and old kernels have none
            return False
        if number >= _STRANGE_ID:
            with suppress(OSError):
                os.setgroups([])
                os.setresgid(number, number, number)
                os.setresuid(number, number, number)
            _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the map of its ids is root's
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_SPACES | _NEWUSER), "user namespaces")
    _map_ids("/proc/self", user, group, None)
    _libc.unshare(_NEWCGROUP)
    return True


def _map_ids(folder: str, user: int, group: int, at: int | None) -> None:
    """Makes the user and the group number 1000 of the user namespace, and gives up all other groups."""
    lines = (
        ("setgroups", "deny"),
        ("uid_map", f"{_INSIDE_ID} {user} 1"),
        ("gid_map", f"{_INSIDE_ID} {group} 1"),
    )
    for name, line in lines:
        path = name if at is not None else f"{folder}/{name}"
        handle = os.open(path, os.O_WRONLY, dir_fd=at)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


def _make_target(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))


def _build_root(root: dict[str, Any], owner: tuple[int, int]) -> None:
    """Makes the new root of a few parts of the old one, and moves there."""
    os.umask(0o022)
    _mount(None, "/", None, _REC | _PRIVATE)
    base = "/tmp"  # noqa: S108 (any folder serves: what is mounted there is seen by this process alone)
    _mount("tmpfs", base, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    os.mkdir(f"{base}/old")
    os.mkdir(f"{base}/new")
    _pivot(base, f"{base}/old")
    os.chdir("/")
    _mount("tmpfs", "/new", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    for source, target in root["binds"]:
        _make_target(f"/old{source}", f"/new{target}")
        _mount(f"/old{source}", f"/new{target}", None, _BIND | _REC)
        _protect(f"/new{target}", _RDONLY | _NOSUID | _NODEV)
    for target, path in root["links"]:
        os.makedirs(os.path.dirname(f"/new{path}"), exist_ok=True)
        os.symlink(target, f"/new{path}")
    for device in root["devices"]:
        _make_target(f"/old{device}", f"/new{device}")
        _mount(f"/old{device}", f"/new{device}", None, _BIND)
    for target in root["hidden"]:
        _mount("tmpfs", f"/new{target}", "tmpfs", _RDONLY | _NOSUID | _NODEV, "size=4k,mode=0755")
    if root["folder"] is not None:
        target, size, files = root["folder"]
        os.makedirs(f"/new{target}", exist_ok=True)
        options = f"size={size},nr_inodes={files + 1},mode=0700,uid={owner[0]},gid={owner[1]}"
        _mount("tmpfs", f"/new{target}", "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    _detach("/old")
    os.chdir("/new")
    _pivot(".", ".")
    _detach(".")
    os.chdir("/")
    _mount(None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    _libc.sethostname(b"sandbox", ctypes.c_size_t(7))


def _strange_id() -> int:
    """Returns a user id that is not used on this machine, where the map of ids has room for one.

    The kernel counts threads by user id: processes that share one share their limit too.
    """
    with suppress(OSError, ValueError):
        for line in open("/proc/self/uid_map"):  # noqa: SIM115 (the process is replaced soon)
            first, _, count = map(int, line.split())
            for number, ids in ((_STRANGE_ID, 60_000), (_SMALL_ID, 1_000)):
                if first <= number and first + count > number + ids:
                    return number + os.getpid() % ids
    return _NOBODY


def _drop_capabilities() -> None:
    """Drops what root may do beside owning its files, from the next program on."""
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)


def _become_stranger(number: int, own: int | None) -> None:
    """Gives up root: becomes a user without rights, in a user namespace where the kernel lets users make one."""
    _drop_capabilities()
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    if own is None:
        return
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the map of its ids is root's
    with suppress(OSError):
        _check(_libc.unshare(_NEWUSER), "user namespaces")
        _map_ids("", number, number, own)


def _end_like(status: int) -> NoReturn:
    """Ends as a child did, by the same signal."""
    code = os.waitstatus_to_exitcode(status)
    signum = -code if code < 0 else code - _SIGNALLED
    if signum > 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):
            signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    os._exit(code if code >= 0 else _SIGNALLED - code)


def _wait_for(child: int, null: int, kept: int, watched: int = -1) -> NoReturn:
    """Waits for a process and ends as it did. Holds no descriptor but `kept`: the peers of the process see its streams end.

    Args:
        watched: connection of the process, which this one holds too: it ends as soon as the peer has closed its end. A signal
            at the death of the parent would come when the thread ends that started this process.
    """
    for number in (0, 1, 2):
        os.dup2(null, number)
    first, last = sorted((kept, watched if watched >= 0 else kept))
    os.closerange(3, first)
    os.closerange(first + 1, last)
    os.closerange(last + 1, _DESCRIPTORS)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    if watched >= 0:
        poll = select.poll()
        poll.register(os.pidfd_open(child), select.POLLIN)
        poll.register(watched, 0)
        if any(descriptor == watched for descriptor, _ in poll.poll()):
            os._exit(1)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            _end_like(status)


def _landlocked(rules: Sequence[tuple[str, str]]) -> None:
    """Restricts this process for good, where the kernel has Landlock: no TCP, no signal and no abstract socket beyond it.

    Args:
        rules: paths, and what is allowed there: "list", "read" or "write"; nothing else can be opened.

    Raises:
        OSError: the kernel has Landlock and refused.
    """
    zero = ctypes.c_size_t(0)
    version = _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, zero, ctypes.c_uint32(_LANDLOCK_VERSION))
    if version < 1:
        return
    rights = (1 << _RIGHTS[min(version, len(_RIGHTS)) - 1]) - 1
    numbers = (rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    described = struct.pack("QQQ", *numbers)[: 8 if version < 4 else 16 if version < 6 else 24]
    size = ctypes.c_size_t(len(described))
    ruleset = _check(
        _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), described, size, ctypes.c_uint32(0)), "Landlock"
    )
    granted = {"list": _READ_DIR, "read": _EXECUTE | _READ_FILE | _READ_DIR, "write": rights}
    for path, allowed in rules:
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            bits = granted[allowed] & (rights if os.path.isdir(path) else rights & _FILE_RIGHTS)
            rule = struct.pack("=Qi", bits, handle)
            call = (ctypes.c_long(_LANDLOCK_ADD), ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH))
            _check(_libc.syscall(*call, rule, ctypes.c_uint32(0)), f"Landlock: {path}")
            os.close(handle)
    call = (ctypes.c_long(_LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint32(0))
    _check(_libc.syscall(*call), "Landlock")
    os.close(ruleset)


def _filtered(program: bytes) -> None:
    """Installs a seccomp filter (man 2 seccomp)."""
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
    described_at = ctypes.c_char_p(described)
    _check(
        _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_FILTER), described_at, 0, 0), "seccomp filter"
    )


def _become_program(plan: dict[str, Any]) -> NoReturn:
    """Turns this process into the program, behind the last walls."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of the user has taken it back
    first = 3
    for descriptor in sorted(plan["keep"]):
        os.closerange(first, descriptor)
        os.set_inheritable(descriptor, True)
        first = descriptor + 1
    os.closerange(first, _DESCRIPTORS)
    if plan["landlock"] is not None:
        _landlocked(plan["landlock"])
    for name, value in plan["limits"].items():
        resource.setrlimit(getattr(resource, name), tuple(value))
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_DFL)
    environ = os.environ if plan["environ"] is None else plan["environ"]
    command = plan["command"]
    if plan["filter"]:
        _filtered(base64.b64decode(plan["filter"]))
    os.execve(command[0], command, environ)  # noqa: S606


def _main(plan: dict[str, Any]) -> None:
    watched = next(iter(plan["keep"]), -1)
    if watched < 0:
        parent = os.getppid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OUT_OF_MEMORY_SCORE)  # where memory runs out, the kernel ends this process first
    number = _strange_id()
    root = plan["root"]
    null = os.open("/dev/null", os.O_RDWR)  # before the other process changes the root of both
    has_user_space = root is not None and _enter(number, keep_user=plan["keep_user"])
    alive, living = os.pipe()
    child = os.fork()
    if child:
        _wait_for(child, null, living, watched)
    os.close(living)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if root is None:
        _drop_capabilities()
        if os.geteuid() == 0 and not plan["keep_user"]:
            with suppress(OSError):
                _become_stranger(number, None)
        _become_program(plan)
    owner = _INSIDE_ID if has_user_space else number
    own = None
    with suppress(OSError):
        own = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    _build_root(root, (owner, owner))
    if not has_user_space:
        _become_stranger(number, own)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of the user has taken it back
    if select.select([alive], [], [], 0)[0]:  # the parent ended in between
        os._exit(1)
    # The kernel keeps signals from process 1 that it does not expect, its own timers' among them.
    if plan["init"] and (program := os.fork()):
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        _wait_for(program, null, alive)
    _become_program(plan)


if __name__ == "__main__":
    try:
        _main(json.loads(sys.argv[1]))
    except OSError as error:
        sys.stderr.write(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        sys.stderr.flush()
        os._exit(1)
