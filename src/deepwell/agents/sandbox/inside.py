"""Process 1 of a sandbox: runs one program in it, and hands back what came of it: `python -I -S inside.py [BYTES FILES]`.

It is run by its path in the new root, without the package. From stdin it reads a length and a JSON order, then the bytes that
the order names; to stdout it writes a length, a JSON answer, then bytes. It ends at once when its stdin ends before that.
BYTES FILES: the work folder is to be mounted first, with room for so many bytes and files.
"""

# The import of pathlib would be a tenth of the start.
# ruff: noqa: PTH103, PTH118, PTH120, PTH123

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import time
from contextlib import suppress
from typing import Any

_WORK = "/work"
_PROGRAM = "main.py"
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _SECCOMP_FILTER, _PR_SET_NO_NEW_PRIVS = 4, 22, 2, 38
_CAPABILITIES_3 = 0x20080522
_LOOK_S = 0.01  # between looks whether a program that has closed its output has ended
_NAME_CHARACTERS = 1 << 20  # of all names that are handed back
_LAST_WORDS = 400  # of stderr, in which a lack of memory shows
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)

_libc = ctypes.CDLL(None, use_errno=True)


class _Kept:
    """The start and the end of a stream, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._head, self._tail = bytearray(), bytearray()
        self._half = max(limit // 2, 1)
        self.cut = 0

    def add(self, data: bytes) -> None:
        """Takes more of the stream."""
        room = self._half - len(self._head)
        self._head += data[: max(room, 0)]
        self._tail += data[max(room, 0) :]
        if (over := len(self._tail) - self._half) > 0:
            del self._tail[:over]
            self.cut += over

    def told(self) -> bytes:
        """Returns what was kept, with a line in the middle that tells what was cut."""
        told = f"\n[... {self.cut} bytes cut ...]\n".encode() if self.cut else b""
        return bytes(self._head) + told + bytes(self._tail)


def _read(size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = os.read(0, min(size - len(data), 1 << 20))
        if not piece:
            sys.exit(1)
        data += piece
    return bytes(data)


def _mount_folder(size: int, files: int) -> None:
    options = f"size={size},nr_inodes={files + 1},mode=0700".encode()
    flags = ctypes.c_ulong(2 | 4 | 8)  # nosuid, nodev, noexec
    if _libc.mount(b"tmpfs", _WORK.encode(), b"tmpfs", flags, options) != 0:
        raise OSError(ctypes.get_errno(), f"mount {_WORK}: {os.strerror(ctypes.get_errno())}")


def _give_up_rights() -> None:
    """Drops all capabilities, for good, and lets no other process look into this one."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    head, nothing = struct.pack("Ii", _CAPABILITIES_3, 0), bytes(24)
    if _libc.capset(head, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _write_files(files: dict[str, bytes]) -> None:
    os.chdir(_WORK)
    for name, data in files.items():
        if os.path.dirname(name):
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "xb") as file:
            file.write(data)


def _become_program(
    order: dict[str, Any], confinement: bytes, streams: tuple[int, ...], failure: int
) -> None:
    """Turns this new process into the program, which has nothing but its three streams and its limits.

    Raises:
        OSError: the kernel refused the filter or the program; nothing of it has run.
    """
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.dup2(failure, 3, inheritable=False)
    os.closerange(4, 1 << 16)
    for signum in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_DFL)
    limits = {getattr(resource, name): value for name, value in order["limits"].items()}
    for which, (soft, hard) in limits.items():
        resource.setrlimit(which, (soft, hard))
    held = ctypes.create_string_buffer(confinement, len(confinement))
    described = struct.pack("HxxxxxxQ", len(confinement) // 8, ctypes.addressof(held))
    described_at = ctypes.c_char_p(described)
    if os.getpid() != order["pid"]:
        raise OSError(0, f"the program is process {os.getpid()}, not {order['pid']}")
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_FILTER), described_at, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel has no seccomp filters")
    os.execve(order["command"][0], [*order["command"], _PROGRAM], order["environ"])  # noqa: S606


def _run(order: dict[str, Any], confinement: bytes, stdin: bytes) -> dict[str, Any]:
    """Runs the program until it ends, is out of time, or the one who asked is gone."""
    pipes = [os.pipe() for _ in range(4)]
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _become_program(order, confinement, (pipes[0][0], pipes[1][1], pipes[2][1]), pipes[3][1])
        except BaseException as error:
            os.write(3, str(error).encode())
        finally:
            os._exit(1)
    for end in (pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1]):
        os.close(end)
    if failure := os.read(pipes[3][0], 1 << 12):
        raise OSError(0, failure.decode(errors="replace"))
    kept = {pipes[1][0]: _Kept(order["output_bytes"]), pipes[2][0]: _Kept(order["output_bytes"])}
    late = _follow(child, pipes[0][1], stdin, kept, begin + order["seconds"])
    status, used = late[1:]
    with suppress(OSError):
        os.kill(-1, signal.SIGKILL)  # nothing else can be there
    out, err = (kept[pipe[0]] for pipe in pipes[1:3])
    code = os.waitstatus_to_exitcode(status)
    processor_s = used.ru_utime + used.ru_stime
    over = code == -signal.SIGXCPU or (code == -signal.SIGKILL and processor_s >= order["processor_s"])
    last = err.told()[-_LAST_WORDS:].decode(errors="replace").strip().rpartition("\n")[2]
    starved = code in [-one for one in _CRASHES] and used.ru_maxrss << 10 > order["memory_bytes"] * 0.8
    killed = code == -signal.SIGKILL and not late[0] and not over
    return {
        "exit_code": code,
        "timed_out": late[0] or over,
        "out_of_memory": starved or killed or (code != 0 and last.split(":")[0].endswith("MemoryError")),
        "seconds": time.monotonic() - begin,
        "cut_bytes": out.cut + err.cut,
        "streams": [out.told(), err.told()],
    }


def _follow(
    child: int, inlet: int, stdin: bytes, kept: dict[int, _Kept], deadline: float
) -> tuple[bool, int, resource.struct_rusage]:
    """Passes the streams on until the program has ended. Returns whether it was late, its status, and what it used."""
    watch, rest, late = select.poll(), memoryview(stdin), False
    watch.register(0, select.POLLIN)
    os.set_blocking(inlet, False)
    watch.register(inlet, select.POLLOUT)
    for outlet in kept:
        watch.register(outlet, select.POLLIN)
    open_outlets = len(kept)
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid and not open_outlets:
            return late, status, used
        if pid:
            for outlet in kept:
                os.set_blocking(outlet, False)
                with suppress(OSError):
                    while piece := os.read(outlet, 1 << 16):
                        kept[outlet].add(piece)
            return late, status, used
        left = deadline - time.monotonic()
        if left <= 0 and not late:
            late = True
            os.kill(child, signal.SIGKILL)
        wait_s = max(min(left, 1.0), 0.001) if open_outlets and not late else _LOOK_S
        for ready, event in watch.poll(wait_s * 1000):
            if ready == 0:
                os._exit(1)  # the one who asked is gone, or says that it no longer wants an answer
            if ready == inlet:
                rest = _pass_on(inlet, rest) if event & select.POLLOUT and rest else memoryview(b"")
                if not rest:
                    watch.unregister(inlet)
                    os.close(inlet)
            elif piece := os.read(ready, 1 << 16):
                kept[ready].add(piece)
            else:
                watch.unregister(ready)
                open_outlets -= 1


def _pass_on(inlet: int, rest: memoryview) -> memoryview:
    try:
        return rest[os.write(inlet, rest[: 1 << 16]) :]
    except BlockingIOError:
        return rest
    except OSError:  # the program has closed its stdin
        return memoryview(b"")


def _collect(given: dict[str, bytes], room: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Returns the files that are new or changed, and what else lies in the work folder, with the reason.

    Holes and hard links make files larger than the folder that they lie in: what is read is bounded as well.

    Args:
        room: most bytes of all files together.
    """
    found: dict[str, bytes] = {}
    left_out: dict[str, str] = {}
    characters, unnamed, left = 0, 0, room

    def leave(path: str, reason: str) -> None:
        nonlocal characters, unnamed
        shown = _shown(path)
        characters += len(shown)
        if characters > _NAME_CHARACTERS:
            unnamed += 1
        else:
            left_out[shown] = "its name is not UTF-8" if shown != path else reason

    def unread(error: OSError) -> None:
        leave(os.path.normpath(str(error.filename)), os.strerror(error.errno or 0))

    for folder, folders, names, handle in os.fwalk(".", onerror=unread):
        for name in [*names, *folders]:
            path = os.path.normpath(os.path.join(folder, name))
            try:
                about = os.lstat(name, dir_fd=handle)
                if stat.S_ISDIR(about.st_mode):
                    continue
                if not stat.S_ISREG(about.st_mode) or _shown(path) != path:
                    leave(path, "a link" if stat.S_ISLNK(about.st_mode) else "not a plain file")
                    continue
                if about.st_size > left:
                    leave(path, f"the files are larger than {room} bytes together")
                    continue
                with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=handle), "rb") as file:
                    data = file.read()
            except OSError as error:
                leave(path, os.strerror(error.errno or 0))
                continue
            left -= len(data)
            characters += len(path)
            if characters > _NAME_CHARACTERS:
                unnamed += 1
            elif given.get(path) != data:
                found[path] = data
    if unnamed:
        left_out["..."] = f"{unnamed} more, the names are too long"
    return found, left_out


def _shown(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    if len(sys.argv) > 1:
        _mount_folder(int(sys.argv[1]), int(sys.argv[2]))
    _give_up_rights()
    order = json.loads(_read(struct.unpack(">I", _read(4))[0]))
    confinement, stdin = _read(order["filter"]), _read(order["stdin"])
    given = {name: _read(size) for name, size in order["files"]}
    _write_files(given)
    answer = _run(order, confinement, stdin)
    found, left_out = _collect(given, order["folder_bytes"])
    streams = answer.pop("streams")
    answer |= {"streams": [len(one) for one in streams], "left_out": left_out}
    answer["files"] = [(name, len(data)) for name, data in found.items()]
    head = json.dumps(answer).encode()
    with open(1, "wb") as back:
        back.write(struct.pack(">I", len(head)) + head + b"".join([*streams, *found.values()]))


if __name__ == "__main__":
    try:
        _main()
    except OSError as error:
        sys.stderr.write(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        sys.exit(1)
