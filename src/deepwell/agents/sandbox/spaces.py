"""Becomes a program in namespaces of its own, with a root that holds a few read-only parts: `python -I -S spaces.py PLAN`.

It is run by its path, without the package. PLAN is JSON: `binds` (source, target), `devices`, `hidden` (folders of the new root
to cover), `folder` (target, bytes, files) of the writable folder in memory, `command`, `environ`.

root enters the mount, process, network, IPC, UTS and control group namespaces by its own right and becomes a user id that
nobody has; anyone else, and root of a container without that right, enters a user namespace first. In the new root the process
is user 1000 without capabilities and number 1 of its process namespace: what is started there ends with it, and it ends with
its parent.
"""

# The import of pathlib would be a tenth of the start.
# ruff: noqa: PTH102, PTH103, PTH112, PTH120, PTH123

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_SPACES = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 4, 38, 24
_MOUNT_SETATTR, _AT_RECURSIVE, _AT_FDCWD = 442, 0x8000, -100
_INSIDE_ID = 1000
_STRANGE_ID, _NOBODY = (
    2_130_000_000,
    65_534,
)  # first of 60,000 ids that nobody has; what a small map of ids has
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)
_pivot_root = {"x86_64": 155, "aarch64": 41}


class _Attributes(ctypes.Structure):
    """struct mount_attr (man 2 mount_setattr)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "space"))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


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


def _enter(number: int) -> bool:
    """Enters the namespaces. Returns whether it took a user namespace to do so.

    Args:
        number: user id that root takes if it must: the kernel does not count the threads of its own.
    """
    if os.geteuid() == 0:
        if _libc.unshare(_SPACES) == 0:
            _libc.unshare(_NEWCGROUP)  # hides names only, and old kernels have none
            return False
        if number != _NOBODY:
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


def _build_root(plan: dict[str, Any], owner: tuple[int, int]) -> None:
    """Makes the new root of a few parts of the old one, and moves there."""
    _mount(None, "/", None, _REC | _PRIVATE)
    base = "/tmp"  # noqa: S108 (any folder serves: what is mounted there is seen by this process alone)
    _mount("tmpfs", base, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    os.mkdir(f"{base}/old")
    os.mkdir(f"{base}/new")
    _pivot(base, f"{base}/old")
    os.chdir("/")
    _mount("tmpfs", "/new", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    for source, target in plan["binds"]:
        _make_target(f"/old{source}", f"/new{target}")
        _mount(f"/old{source}", f"/new{target}", None, _BIND | _REC)
        _protect(f"/new{target}", _RDONLY | _NOSUID | _NODEV)
    for device in plan["devices"]:
        _make_target(f"/old{device}", f"/new{device}")
        _mount(f"/old{device}", f"/new{device}", None, _BIND)
    for target in plan["hidden"]:
        _mount("tmpfs", f"/new{target}", "tmpfs", _RDONLY | _NOSUID | _NODEV, "size=4k,mode=0755")
    target, size, files = plan["folder"]
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
    """Returns a user id that is not used on this machine, where the map of ids has room for one."""
    with suppress(OSError, ValueError):
        for line in open("/proc/self/uid_map"):  # noqa: SIM115 (the process is replaced soon)
            first, _, count = map(int, line.split())
            if first <= _STRANGE_ID and first + count > _STRANGE_ID + 60_000:
                return _STRANGE_ID + os.getpid() % 60_000
    return _NOBODY


def _become_stranger(number: int, own: int | None) -> None:
    """Gives up root: becomes a user without rights, in a user namespace where the kernel lets users make one."""
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    if own is None:
        return
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the map of its ids is root's
    with suppress(OSError):
        _check(_libc.unshare(_NEWUSER), "user namespaces")
        _map_ids("", number, number, own)


def _main(plan: dict[str, Any], command: Sequence[str]) -> None:
    parent = os.getppid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    number = _strange_id()
    null = os.open("/dev/null", os.O_RDWR)  # before the other process changes the root of both
    has_user_space = _enter(number)
    child = os.fork()
    if child:
        os.dup2(null, 0)
        os.dup2(null, 1)  # the parent sees the end of its answer when the other process ends
        _, status = os.waitpid(child, 0)
        os._exit(0 if status == 0 else 1)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    owner = _INSIDE_ID if has_user_space else number
    own = None
    with suppress(OSError):
        own = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    _build_root(plan, (owner, owner))
    if not has_user_space:
        _become_stranger(number, own)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of the user has taken it back
    os.closerange(3, 1 << 16)
    os.execve(command[0], list(command), plan["environ"])  # noqa: S606


if __name__ == "__main__":
    PLAN = json.loads(sys.argv[1])
    try:
        _main(PLAN, PLAN["command"])
    except OSError as error:
        sys.stderr.write(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        sys.stderr.flush()
        os._exit(1)
