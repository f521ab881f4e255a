"""Environments of the attacked server: `python -m deepwell_bench.workers.confinement.environment NAME NEEDED -- COMMAND`.

`root` and `user` are those of this machine. `container-root` and `container-user` are what Docker's default profile leaves: its
fourteen capabilities, and no call that makes or enters a namespace or mounts. NEEDED is a JSON list of folders that the command
reads; a user has to be able to reach them, and in a container they lie where everybody reaches them, as in an image.

It is run by root, and everything in it happens in a mount namespace of its own.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["ENVIRONMENTS", "USER", "command_in"]

ENVIRONMENTS: Final = ("root", "user", "container-root", "container-user")
USER: Final = 61_234
"""User id of the ordinary user; no account has it."""

_NEWNS, _PRIVATE, _REC, _BIND = 0x00020000, 1 << 18, 16384, 4096
_PR_CAPBSET_DROP, _PR_SET_SECCOMP, _FILTER = 24, 22, 2
# CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
# AUDIT_WRITE and SETFCAP (docs.docker.com/engine/containers/run).
_DOCKER_CAPABILITIES: Final = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
_LAST_CAPABILITY: Final = 63
_NEW_SPACES: Final = 0x7E020000
# unshare, setns, mount, umount2, pivot_root; numbers from 428 are the same everywhere: open_tree, move_mount, fsopen, fsconfig,
# fsmount, fspick, mount_setattr.
_REFUSED: Final = {
    "x86_64": (0xC000003E, 56, (272, 308, 165, 166, 155, 428, 429, 430, 431, 432, 433, 442)),
    "aarch64": (0xC00000B7, 220, (97, 268, 40, 39, 41, 428, 429, 430, 431, 432, 433, 442)),
}
_CLONE3: Final = 435

_libc = ctypes.CDLL(None, use_errno=True)


def command_in(environment: str, needed: Sequence[Path], command: Sequence[str]) -> list[str]:
    """Returns the command that runs another one in an environment."""
    module = __spec__.name if __spec__ is not None else __name__
    folders = json.dumps([str(one) for one in needed])
    return [sys.executable, "-m", module, environment, folders, "--", *command]


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    named = [None if one is None else one.encode() for one in (source, target, kind, data)]
    _check(_libc.mount(named[0], named[1], named[2], ctypes.c_ulong(flags), named[3]), f"mount {target}")


def _closed_folder(path: Path) -> Path | None:
    """Returns the first folder on the way to a path that others cannot enter."""
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)


def _open_to_all(needed: Sequence[Path]) -> None:
    """Shows what lies in a folder that others cannot enter in one that they can, at the same paths."""
    hidden: dict[Path, list[tuple[Path, int]]] = {}
    for path in needed:
        closed = _closed_folder(path) if path.exists() else None
        if closed is not None:
            hidden.setdefault(closed, []).append((path, os.open(path, os.O_PATH)))
    for closed, paths in hidden.items():
        _mount("none", str(closed), "tmpfs", 0, "mode=0755,size=1m")
        for path, descriptor in paths:
            path.mkdir(parents=True, exist_ok=True)
            _mount(f"/proc/self/fd/{descriptor}", str(path), None, _BIND | _REC)
            os.close(descriptor)


def _container_filter() -> bytes:
    audit, clone, refused = _REFUSED[platform.machine()]
    deny, unknown, allow = (
        (6, 0, 0, 0x50000 | errno.EPERM),
        (6, 0, 0, 0x50000 | errno.ENOSYS),
        (6, 0, 0, 0x7FFF0000),
    )
    lines = [(0x20, 0, 0, 4), (0x15, 1, 0, audit), deny, (0x20, 0, 0, 0)]
    for number in refused:
        lines += [(0x15, 0, 1, number), deny]
    lines += [(0x15, 0, 1, _CLONE3), unknown, (0x15, 1, 0, clone), allow]
    lines += [(0x20, 0, 0, 16), (0x45, 0, 1, _NEW_SPACES), deny, allow]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def _enter(environment: str, needed: Sequence[Path]) -> None:
    _check(_libc.unshare(_NEWNS), "unshare")
    _mount("none", "/", None, _REC | _PRIVATE)
    container = environment.startswith("container")
    if environment != "root":
        _open_to_all(needed)
    if container:
        for capability in range(_LAST_CAPABILITY + 1):
            if capability not in _DOCKER_CAPABILITIES:
                _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    if container:
        program = _container_filter()
        held = ctypes.create_string_buffer(program, len(program))
        described = ctypes.c_char_p(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(held)))
        # While this is still root with all rights, which takes no promise of no new privileges, as in a container.
        _check(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_FILTER), described, 0, 0), "seccomp")
    if environment.endswith("user"):
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)


def main(environment: str, needed: str, *command: str) -> None:
    """Becomes a command in an environment."""
    _enter(environment, [Path(one) for one in json.loads(needed)])
    with suppress(ValueError):
        command = command[command.index("--") + 1 :]
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
