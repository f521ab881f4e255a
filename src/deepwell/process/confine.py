"""`confine`: takes from this process, for good, the right to write files, to use the network and to start programs.

`python confine.py BYTES SECONDS PROGRAM ARGUMENT...` confines a program: it may be started, and starts no other. It is run by
its path, without the package, so that it costs some 15 ms; `confined_command` makes the command.

It is for a child that reads data of strangers with large libraries. On Linux a seccomp filter (man 2 seccomp) makes the kernel
refuse those calls with EPERM; it needs no privilege, and threads and what is already open keep working. Elsewhere the limit
of file sizes alone holds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from typing import Final, NamedTuple

__all__ = ["confine", "confined_command"]

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: ld [k], jeq, jset, ret
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000  # bit of the numbers of another ABI
_CLONE_THREAD = 0x00010000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class _Calls(NamedTuple):
    """Numbers of system calls of one architecture (asm/unistd.h).

    `opens`: number and index of the argument with the flags. `execve` is one of `denied`. `missing`: calls that are answered as
    by an old kernel, for libraries then use an older one, whose flags can be read.
    """

    audit: int
    denied: tuple[int, ...]
    opens: tuple[tuple[int, int], ...]
    clone: int
    execve: int
    missing: tuple[int, ...] = (435, 437, 425)  # clone3, openat2, io_uring_setup


_CALLS: Final = {
    "x86_64": _Calls(
        0xC000003E,
        (
            *(41, 42, 43, 49, 50, 53, 288),  # socket connect accept bind listen socketpair accept4
            *(57, 58, 59, 322, 62, 101, 310, 311),  # fork vfork execve execveat kill ptrace process_vm_*
            *(76, 77, 82, 83, 84, 85, 86, 87, 88),  # truncate to symlink
            *(
                90,
                91,
                92,
                93,
                94,
                132,
                133,
                235,
                261,
                280,
            ),  # chmod to lchown, utime, mknod, utimes, utimensat
            *(188, 189, 190, 197, 198, 199),  # setxattr, removexattr
            *(258, 259, 260, 263, 264, 265, 266, 268, 316, 452),  # mkdirat to fchmodat, renameat2, fchmodat2
            *(
                29,
                319,
                155,
                161,
                165,
                166,
                272,
                308,
                321,
                323,
                298,
                248,
                249,
                250,
            ),  # shmget memfd mount bpf keys
        ),
        ((2, 1), (257, 2)),
        56,
        59,
    ),
    "aarch64": _Calls(
        0xC00000B7,
        (
            *(198, 199, 200, 201, 202, 203, 242),
            *(221, 281, 129, 117, 270, 271),
            *(33, 34, 35, 36, 37, 38, 276, 45, 46, 52, 53, 54, 55, 88, 452),
            *(5, 6, 7, 14, 15, 16),
            *(194, 279, 39, 40, 41, 51, 97, 268, 280, 282, 241, 217, 218, 219),
        ),
        ((56, 2),),
        220,
        221,
    ),
}


def confine(*, may_become: bool = False) -> bool:
    """Confines this process and its later threads. Returns True if the kernel enforces all of it.

    With `may_become` it may replace itself by a program (execve), which is confined like it: it still starts no other process.

    Call it from the only thread. False means that the kernel, or the machine's architecture, has no such filter; then only
    the size of files that this process writes is limited, to nothing.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    return calls is not None and _install(_program(calls, () if not may_become else (calls.execve,)))


def confined_command(command: list[str], memory_bytes: int, processor_s: int) -> list[str]:
    """Returns the command that runs a program confined, with limits of memory and processor time, until this process ends.

    Args:
        command: absolute path of the program, and its arguments.
    """
    return [sys.executable, "-I", "-S", __file__, str(memory_bytes), str(processor_s), *command]


def _program(calls: _Calls, allowed_calls: tuple[int, ...]) -> bytes:
    """Returns the filter as an array of struct sock_filter."""
    denied = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    unknown = (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    allowed = (_RETURN, 0, 0, _ALLOW)
    lines = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, calls.audit), denied]
    lines += [(_LOAD, 0, 0, _NUMBER_AT), (_ANY_BIT, 0, 1, _X32), denied]
    for number in calls.denied:
        if number in allowed_calls:
            continue
        lines += [(_EQUAL, 0, 1, number), denied]
    for number in calls.missing:
        lines += [(_EQUAL, 0, 1, number), unknown]
    for number, argument in calls.opens:
        flags = _ARGUMENTS_AT + 8 * argument
        lines += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, flags), (_ANY_BIT, 0, 1, _WRITES), denied, allowed]
    lines += [(_EQUAL, 0, 4, calls.clone), (_LOAD, 0, 0, _ARGUMENTS_AT), (_ANY_BIT, 1, 0, _CLONE_THREAD)]
    lines += [denied, allowed, allowed]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _install(program: bytes) -> bool:
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (AttributeError, OSError):
        return False
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    held = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.addressof(held))
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described), 0, 0) == 0


def _main() -> None:
    memory_bytes, processor_s, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(processor_s), int(processor_s)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    confine(may_become=True)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _main()
