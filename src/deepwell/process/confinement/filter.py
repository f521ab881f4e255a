"""The seccomp filter of confined processes: the system calls that a Python program with threads needs, and no other.

It is a list of what is allowed, so that calls of newer kernels are refused as well. Calls that do several things, such as
`clone`, `kill` and `mmap`, are judged by their arguments: a program may start a thread but no process, send a signal to itself
alone, and map no memory that its limits do not count.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

__all__ = ["PROGRAM_PID", "restrict", "seccomp_filter"]

PROGRAM_PID: Final = 2  # of the program in its namespace: the first child of process 1

_LOAD, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000  # bit of the numbers of another ABI
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF
_NEWEST = 462  # last call that was looked at; libraries go on without later ones if they are told that there are none
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_IOCTLS: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# F_DUPFD to F_SETLKW, F_OFD_GETLK to F_OFD_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ
_FCNTLS: Final = (*range(8), 36, 37, 38, 1030, 1032)
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_FILTER = 22, 38, 2
# PR_SET_PDEATHSIG, PR_SET_NAME, PR_GET_NAME, PR_CAPBSET_READ, PR_SET_VMA, and those of `restrict`
_PRCTLS: Final = (1, 15, 16, 23, 0x53564D41, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS)
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20

# name=number on x86_64/number on aarch64 (asm/unistd_64.h, asm-generic/unistd.h).
_ALLOWED: Final = """
read=0/63 write=1/64 open=2 close=3/57 stat=4 fstat=5/80 lstat=6 poll=7 lseek=8/62 mprotect=10/226 munmap=11/215 brk=12/214
rt_sigaction=13/134 rt_sigprocmask=14/135 rt_sigreturn=15/139 pread64=17/67 pwrite64=18/68 readv=19/65 writev=20/66 access=21
pipe=22 select=23 sched_yield=24/124 mremap=25/216 msync=26/227 mincore=27/232 madvise=28/233 dup=32/23 dup2=33 pause=34
nanosleep=35/101 getitimer=36/102 alarm=37 setitimer=38/103 getpid=39/172 sendfile=40/71 sendto=44/206 recvfrom=45/207
sendmsg=46/211 recvmsg=47/212 shutdown=48/210 getsockname=51/204 getpeername=52/205 setsockopt=54/208 getsockopt=55/209
exit=60/93 wait4=61/260 uname=63/160 fsync=74/82 fdatasync=75/83 getdents=78 getcwd=79/17 chdir=80/49 fchdir=81/50
readlink=89 umask=95/166 gettimeofday=96/169 getrusage=98/165 sysinfo=99/179 times=100/153 getuid=102/174 getgid=104/176
geteuid=107/175 getegid=108/177 getppid=110/173 getpgrp=111 getgroups=115/158 getresuid=118/148 getresgid=120/150
rt_sigpending=127/136 rt_sigtimedwait=128/137 rt_sigsuspend=130/133 sigaltstack=131/132
statfs=137/43 fstatfs=138/44 getpriority=140/141 sched_getparam=143/121 sched_getscheduler=145/120
sched_get_priority_max=146/125 sched_get_priority_min=147/126 arch_prctl=158 gettid=186/178 getxattr=191/8 lgetxattr=192/9
fgetxattr=193/10 listxattr=194/11 llistxattr=195/12 flistxattr=196/13 time=201 futex=202/98
sched_getaffinity=204/123 epoll_create=213 getdents64=217/61 set_tid_address=218/96 restart_syscall=219/128 fadvise64=221/223
timer_create=222/107 timer_settime=223/110 timer_gettime=224/108 timer_getoverrun=225/109 timer_delete=226/111
clock_gettime=228/113 clock_getres=229/114 clock_nanosleep=230/115 exit_group=231/94 epoll_wait=232 epoll_ctl=233/21
waitid=247/95 openat=257/56 newfstatat=262/79 readlinkat=267/78 faccessat=269/48 pselect6=270/72 ppoll=271/73
set_robust_list=273/99 get_robust_list=274/100 epoll_pwait=281/22 timerfd_create=283/85 eventfd=284 timerfd_settime=286/86
timerfd_gettime=287/87 eventfd2=290/19 epoll_create1=291/20 dup3=292/24 pipe2=293/59 preadv=295/69 pwritev=296/70
getrandom=318/278 execve=59/221 membarrier=324/283 copy_file_range=326/285 preadv2=327/286 pwritev2=328/287 statx=332/291
rseq=334/293 close_range=436/436 faccessat2=439/439 epoll_pwait2=441/441 getcpu=309/168 getrlimit=97/163 setrlimit=160/164
"""
_CHANGES: Final = """
flock=73/32
truncate=76/45 ftruncate=77/46 rename=82 mkdir=83 rmdir=84 creat=85 link=86 unlink=87 symlink=88 chmod=90 fchmod=91/52
utime=132 utimes=235 mkdirat=258/34 unlinkat=263/35 renameat=264/38 linkat=265/37 symlinkat=266/36 fchmodat=268/53
utimensat=280/88 fallocate=285/47 fchmodat2=452/452 renameat2=316/276
"""


class _Machine(NamedTuple):
    """Numbers of one architecture: of all allowed calls, and of those whose arguments are looked at."""

    audit: int
    column: int  # in the table
    clone: int
    kill: int
    tgkill: int
    ioctl: int
    prctl: int
    prlimit: int
    socketpair: int
    mmap: int
    fcntl: int
    setpriority: int
    execve: int
    setaffinity: int
    missing: tuple[int, ...] = (435, 437)  # clone3, openat2: their flags lie behind a pointer


_MACHINES: Final[Mapping[str, _Machine]] = {
    "x86_64": _Machine(0xC000003E, 0, 56, 62, 234, 16, 157, 302, 53, 9, 72, 141, 59, 203),
    "aarch64": _Machine(0xC00000B7, 1, 220, 129, 131, 29, 167, 261, 199, 222, 25, 140, 221, 122),
}

_Line = tuple[int, int, int, int]  # code, jump if true, jump if false, value
_PERMIT: Final[_Line] = (_RETURN, 0, 0, _ALLOW)
_REFUSE: Final[_Line] = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
_UNKNOWN: Final[_Line] = (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)


def seccomp_filter(machine: str = "", *, forks: bool = False, writes: bool = True) -> bytes | None:
    """Returns the filter as an array of struct sock_filter, or None for an architecture whose numbers are not known.

    Args:
        machine: name of the architecture, as `platform.machine` has it; empty: of this one.
        forks: whether the program may start and end processes of its own, which have the same filter.
        writes: whether it may change files by their paths, and rights and times of those that it holds.
    """
    numbers = _MACHINES.get(machine or platform.machine())
    if numbers is None:
        return None
    lines: list[_Line] = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, numbers.audit), _REFUSE]
    lines += [(_LOAD, 0, 0, _NUMBER_AT), (_ANY_BIT, 0, 1, _X32), _REFUSE]
    for first, last in _ranges(numbers.column, _ALLOWED + (_CHANGES if writes else "")):
        lines += [(_AT_LEAST, 0, 2, first), (_GREATER, 1, 0, last), _PERMIT]
    for number in numbers.missing:
        lines += [(_EQUAL, 0, 1, number), _UNKNOWN]
    for call in (numbers.kill, numbers.tgkill):
        lines += [(_EQUAL, 0, 1, call), _PERMIT] if forks else _if_one_of(call, 0, (PROGRAM_PID,))
    lines += _if_one_of(numbers.ioctl, 1, _IOCTLS)
    lines += _if_one_of(numbers.fcntl, 1, _FCNTLS)
    lines += _if_one_of(numbers.prctl, 0, _PRCTLS)
    lines += _if_one_of(numbers.setaffinity, 0, (0,))
    lines += _if_one_of(numbers.prlimit, 0, (0, PROGRAM_PID))
    lines += [(_EQUAL, 0, 4, numbers.setpriority), _argument(1), (_EQUAL, 0, 1, 0), _PERMIT, _REFUSE]
    # RLIMIT_DATA counts private memory alone.
    lines += [(_EQUAL, 0, 5, numbers.mmap), _argument(3), (_ANY_BIT, 0, 2, _MAP_SHARED)]
    lines += [(_ANY_BIT, 0, 1, _MAP_ANONYMOUS), _REFUSE, _PERMIT]
    lines += [(_EQUAL, 0, 5, numbers.clone), _argument(0), (_ANY_BIT, 2, 0, _CLONE_NAMESPACES)]
    lines += [(_AT_LEAST, 0, 1, 0) if forks else (_ANY_BIT, 0, 1, _CLONE_THREAD), _PERMIT, _REFUSE]
    lines += [(_EQUAL, 0, 7, numbers.socketpair), _argument(0), (_EQUAL, 0, 4, _AF_UNIX), _argument(1)]
    lines += [(_AND, 0, 0, _SOCK_TYPE), (_EQUAL, 0, 1, _SOCK_STREAM), _PERMIT, _REFUSE]
    lines += [(_GREATER, 0, 1, _NEWEST), _UNKNOWN, _REFUSE]
    return _packed(lines)


def restrict(*, forks: bool = False) -> None:
    """Takes from this thread and its later ones, for good, the right to become another program, and to start or signal others.

    Call it from the only thread of a confined process that has started. It does nothing where there are no such filters.

    Args:
        forks: whether it may start and signal processes, which it does not restrict.
    """
    numbers = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if numbers is None:
        return
    lines: list[_Line] = [(_LOAD, 0, 0, _NUMBER_AT), (_EQUAL, 0, 1, numbers.execve), _REFUSE]
    if not forks:
        lines += [
            (_EQUAL, 0, 4, numbers.clone),
            _argument(0),
            (_ANY_BIT, 0, 1, _CLONE_THREAD),
            _PERMIT,
            _REFUSE,
        ]
        for call in (numbers.kill, numbers.tgkill):
            lines += _if_one_of(call, 0, (os.getpid(),))
    program = _packed([*lines, _PERMIT])
    held = ctypes.create_string_buffer(program, len(program))
    described = ctypes.c_char_p(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(held)))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, described, 0, 0)


def _packed(lines: Iterable[_Line]) -> bytes:
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def _argument(index: int) -> _Line:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def _if_one_of(call: int, index: int, values: tuple[int, ...]) -> Iterator[_Line]:
    """Yields the lines that permit a call if an argument has one of some values, and refuse it if not."""
    yield (_EQUAL, 0, 2 + 2 * len(values), call)
    yield _argument(index)
    for value in values:
        yield (_EQUAL, 0, 1, value)
        yield _PERMIT
    yield _REFUSE


def _ranges(column: int, names: str) -> list[tuple[int, int]]:
    """Returns the numbers of calls as ranges, first and last, in rising order."""
    found: list[tuple[int, int]] = []
    columns = [entry.partition("=")[2].split("/") for entry in names.split()]
    for number in sorted(int(one[column]) for one in columns if len(one) > column):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
