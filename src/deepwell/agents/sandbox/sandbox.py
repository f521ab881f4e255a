"""`Sandbox`: runs Python that a model wrote in a process of its own, which can reach nothing of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

from deepwell.agents.sandbox.limits import SandboxLimits, SandboxResult, SandboxUnavailable
from deepwell.agents.sandbox.root import PROGRAM, WAYS, Way, program_environ, sandbox_command
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.process.confinement.filter import PROGRAM_PID, seccomp_filter

__all__ = ["Sandbox", "available", "sandbox_way"]

_PROGRAM_FILE: Final = "main.py"
_GRACE_S: Final = 30.0  # for the making of the sandbox and the return of files
_REASON_BYTES: Final = 2000
_LARGEST_HEAD_BYTES: Final = 16 << 20

_found: dict[str, Way] = {}  # the way that works on this machine, once it is known


class Sandbox:
    """Runs programs, each in a sandbox of its own. Several may run at a time.

    A program sees a root with Python's standard library, read-only, and its work folder, which is empty but for its files and
    lies in memory. It has no network, no other process, no environment, no rights, and the system calls of `seccomp_filter`.

    Args:
        way: program or calls that make the sandbox; None takes the first that works.
        most_at_once: programs that run at a time. Later ones wait; their time starts when they do.
    """

    def __init__(
        self, limits: SandboxLimits | None = None, *, way: Way | None = None, most_at_once: int = 4
    ) -> None:
        self.limits = limits or SandboxLimits()
        self._way: Way | None = way
        self._turns = asyncio.Semaphore(most_at_once)

    async def run(
        self,
        program: str,
        *,
        files: Mapping[str, bytes] | None = None,
        stdin: bytes = b"",
        seconds: float | None = None,
    ) -> SandboxResult:
        """Runs a program until it ends or meets a limit. Cancelling ends it at once.

        Args:
            program: Python source text. It is `main.py` in the work folder.
            files: further files of the work folder, by their relative path.
            seconds: wall-clock time of this run, where that is less than the limit.

        Raises:
            InvalidRequest: a file's path is not plain and relative, or the files do not fit in the work folder.
            SandboxUnavailable: no sandbox can be had here.
        """
        limits = (
            self.limits
            if seconds is None
            else replace(self.limits, seconds=min(seconds, self.limits.seconds))
        )
        given = {_PROGRAM_FILE: _encoded(program), **_checked(files or {}, limits, program)}
        way = self._way or await asyncio.to_thread(sandbox_way)
        async with self._turns:
            return await _run(way, limits, given, stdin)


def available() -> str | None:
    """Returns why no sandbox can be had here, or None if one can. The first call runs a small program."""
    try:
        sandbox_way()
    except SandboxUnavailable as error:
        return error.message
    return None


def sandbox_way() -> Way:
    """Returns the way in which this machine makes sandboxes.

    bubblewrap comes first where it is installed, for some systems let it alone make user namespaces. root takes its own calls
    alone: with them the program has a user id that nobody has. Under bubblewrap it would have root's, whose threads the kernel
    does not count.

    Raises:
        SandboxUnavailable: none works. The message has the reason of each.
    """
    if "way" in _found:
        return _found["way"]
    reasons: list[str] = []
    for way in WAYS if os.geteuid() != 0 else ("namespaces",):
        failed = _try(way)
        if failed is None:
            _found["way"] = way
            return way
        reasons.append(failed if os.geteuid() == 0 else f"{way}: {failed}")
    raise SandboxUnavailable.of("sandbox_unavailable", reason="; ".join(reasons))


def _try(way: Way) -> str | None:
    """Runs a small program, in a thread because the caller may be on an event loop. Returns what failed."""
    failures: list[str] = []

    def run() -> None:
        try:
            result = asyncio.run(_run(way, SandboxLimits(), {_PROGRAM_FILE: b"print(6 * 7)"}, b""))
            if result.stdout != "42\n":
                failures.append(result.stderr.strip()[-200:] or f"the program ended with {result.exit_code}")
        except DeepwellError as error:
            failures.append(str(error.texts[1].get("reason", error.message)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return failures[0] if failures else None


def _encoded(program: str) -> bytes:
    try:
        return program.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"the program is not valid Unicode at character {error.start}",
            fix="send text without lone surrogates",
        ) from error


def _checked(files: Mapping[str, bytes], limits: SandboxLimits, program: str) -> Mapping[str, bytes]:
    for name in files:
        path = PurePosixPath(name)
        plain = str(path) == name and "\0" not in name and name.isprintable() and len(name) < 1000
        if not plain or path.is_absolute() or ".." in path.parts or name in (".", _PROGRAM_FILE):
            raise InvalidRequest(
                f"{name!r} cannot be a file of the work folder",
                fix=f"give a plain relative path other than {_PROGRAM_FILE}",
            )
    size = sum(map(len, files.values())) + len(program)
    if size > limits.folder_bytes or len(files) >= limits.files:
        raise InvalidRequest(
            f"{len(files)} files of {size} bytes do not fit in the work folder",
            fix=f"give fewer than {limits.files} files of at most {limits.folder_bytes} bytes together",
        )
    return files


def _order(limits: SandboxLimits, files: Mapping[str, bytes], stdin: bytes) -> bytes:
    """Returns what `inside.py` reads from its stdin."""
    confinement = seccomp_filter()
    if confinement is None:
        raise SandboxUnavailable.of(
            "sandbox_unavailable", reason=f"the system calls of {os.uname().machine} are not known"
        )
    head = {
        "pid": PROGRAM_PID,
        "command": PROGRAM,
        "environ": program_environ(),
        "seconds": limits.seconds,
        "processor_s": limits.processor_s,
        "memory_bytes": limits.memory_bytes,
        "output_bytes": limits.output_bytes,
        "folder_bytes": limits.folder_bytes,
        "limits": {
            "RLIMIT_AS": (limits.memory_bytes,) * 2,
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_CPU": (limits.processor_s, limits.processor_s + 1),
            "RLIMIT_FSIZE": (limits.file_bytes,) * 2,
            "RLIMIT_MEMLOCK": (0, 0),
            "RLIMIT_MSGQUEUE": (0, 0),
            "RLIMIT_NOFILE": (limits.open_files,) * 2,
            "RLIMIT_NPROC": (limits.threads + 3,) * 2,  # the processes around it may count
            "RLIMIT_SIGPENDING": (64, 64),
        },
        "filter": len(confinement),
        "stdin": len(stdin),
        "files": [(name, len(data)) for name, data in files.items()],
    }
    text = json.dumps(head).encode()
    return b"".join([struct.pack(">I", len(text)), text, confinement, stdin, *files.values()])


async def _run(way: Way, limits: SandboxLimits, files: Mapping[str, bytes], stdin: bytes) -> SandboxResult:
    command = await asyncio.to_thread(sandbox_command, way, limits)
    order = _order(limits, files, stdin)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env={}, cwd="/", start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    answered = False
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # its stderr says why
            process.stdin.write(order)
            await process.stdin.drain()
        async with asyncio.timeout(limits.seconds + _GRACE_S):
            head, payload = await _answer(process.stdout, limits)
        answered = True
        return _result(head, payload)
    except (asyncio.IncompleteReadError, TimeoutError, ValueError, KeyError, TypeError) as error:
        _kill(process)
        said = (await process.stderr.read(_REASON_BYTES)).decode(errors="replace").strip()
        reason = said or f"the sandbox gave no answer: {type(error).__name__}"
        raise SandboxUnavailable.of("sandbox_unavailable", reason=reason) from error
    finally:
        if not answered:
            _kill(process)
        process.stdin.close()
        await asyncio.shield(process.wait())


def _kill(process: asyncio.subprocess.Process) -> None:
    """Ends a process that has not ended. `Process.kill` would take its exit code away from the event loop."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


async def _answer(stream: asyncio.StreamReader, limits: SandboxLimits) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack(">I", await stream.readexactly(4))[0]
    if size > _LARGEST_HEAD_BYTES:
        raise ValueError(f"an answer of {size} bytes")
    head = json.loads(await stream.readexactly(size))
    lengths = [*head["streams"], *(one for _, one in head["files"])]
    if min(lengths) < 0 or sum(lengths) > limits.folder_bytes + 2 * limits.output_bytes + 1000:
        raise ValueError("an answer that is larger than its limits")
    return head, await stream.readexactly(sum(lengths))


def _result(head: dict[str, Any], payload: bytes) -> SandboxResult:
    view, pieces = memoryview(payload), list[bytes]()
    for size in [*head["streams"], *(one for _, one in head["files"])]:
        pieces.append(bytes(view[:size]))
        view = view[size:]
    stdout, stderr, *files = pieces
    return SandboxResult(
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
        exit_code=int(head["exit_code"]),
        timed_out=bool(head["timed_out"]),
        out_of_memory=bool(head["out_of_memory"]),
        files=dict(zip((str(name) for name, _ in head["files"]), files, strict=True)),
        left_out=dict(head["left_out"]),
        cut_bytes=int(head["cut_bytes"]),
        seconds=float(head["seconds"]),
    )
