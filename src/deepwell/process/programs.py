"""`KeptProgram`: a program of any kind that is started again when it ends, on an event loop.

A `Supervisor` talks with its child. These programs speak no protocol: they are ready when they listen on their port, and the
lines that they print are passed on. Each has a process group of its own, so that a terminal's Ctrl-C reaches the parent alone,
and whatever a program has started ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepwell.process import tied
from deepwell.process.supervisor import SETTLED_S, pause_of

__all__ = ["KeptProgram", "Program", "ProgramState", "Programs"]

ProgramState = Literal["new", "starting", "ready", "restarting", "failed", "stopped"]

_MOST_STARTS = 4  # of a program that was never ready
_LOOK_S = 0.1
_LINE_BYTES = 8192  # longer lines are passed on in pieces
_HEAD_START_S = 5.0
_REAP_S = 1.0
_ROUNDS = 100  # in each of which children of strangers may come to light
_CLEAR_S = 30.0
_DRAIN_S = 0.5  # for the last lines of a program that has ended
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


@dataclass(frozen=True, slots=True)
class Program:
    """A program to keep running.

    Attributes:
        address: host and port on which it listens as soon as it is ready.
        required: whether it is given up at once if it ends before it was ever ready. Others have four starts.
        stop_signal: asks it to end. Asked again, it gets SIGTERM.
        after: command that is run after each end of its process, such as one that removes what the process stood for.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    folder: Path
    address: tuple[str, int]
    required: bool = False
    stop_signal: int = signal.SIGTERM
    after: tuple[str, ...] = ()


class KeptProgram:
    """Keeps one program running until it is told to stop.

    Args:
        on_line: called with the name of the program and each line that it prints.
        on_change: called after each change of `state`.
        on_end: awaited after each end of its process.

    Attributes:
        pid: process id; 0: there is no process.
        last_end: how the last process ended: `exit 1`, the name of a signal, or why it could not be started.
    """

    def __init__(
        self,
        program: Program,
        on_line: Callable[[str, str], None],
        on_change: Callable[[KeptProgram], None],
        on_end: Callable[[], Awaitable[None]],
    ) -> None:
        self.program = program
        self.state: ProgramState = "new"
        self.pid = 0
        self.restarts = 0
        self.last_end = ""
        self.pause_of = pause_of
        self._on_line = on_line
        self._on_change = on_change
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Runs the program until `stop`, or until it is given up. Called on the main thread."""
        failures, ever_ready = 0, False
        while not self._stopping.is_set():
            self._become("starting")
            ready_at = await self._one_life()
            ever_ready = ever_ready or ready_at is not None
            if self._stopping.is_set():
                break
            settled = ready_at is not None and time.monotonic() - ready_at >= SETTLED_S
            failures = 1 if settled else failures + 1
            if not ever_ready and (self.program.required or failures >= _MOST_STARTS):
                self._become("failed")
                return
            self.restarts += 1
            self._become("restarting")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self.pause_of(failures))
        self._become("stopped")

    def stop(self) -> None:
        """Asks the program to end, and starts it no more. Asking again repeats the signal."""
        asked_before = self._stopping.is_set()
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.send_signal(signal.SIGTERM if asked_before else self.program.stop_signal)

    def kill(self) -> None:
        """Ends the program and its process group by force."""
        self._stopping.set()
        if self._process is not None:
            _kill_group(self._process.pid)

    def _become(self, state: ProgramState) -> None:
        self.state = state
        self._on_change(self)

    async def _one_life(self) -> float | None:
        """Runs the program until it ends, and returns the time when it became ready, or None."""
        lines = _Lines(lambda text: self._on_line(self.program.name, text))
        try:
            process = self._launch(lines.theirs)
        except OSError as error:
            lines.close()
            self.last_end = str(error)
            return None
        self._process, self.pid = process, process.pid
        lines.listen()
        if self._stopping.is_set():  # it was told before there was a process
            process.terminate()
        probe = asyncio.create_task(self._until_ready())
        code = await asyncio.to_thread(process.wait)
        _kill_group(process.pid)
        self._process, self.pid = None, 0
        await asyncio.to_thread(self._clear)
        await self._on_end()
        probe.cancel()
        ready_at = (await asyncio.gather(probe, return_exceptions=True))[0]
        await lines.drained()
        self.last_end = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return ready_at if isinstance(ready_at, float) else None

    def _clear(self) -> None:
        """Runs the command for after the end. What it prints counts for nothing, and so does how it ends."""
        if self.program.after:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    self.program.after,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    env=dict(self.program.environ),
                    timeout=_CLEAR_S,
                    check=False,
                )

    def _launch(self, output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(tied.__file__), str(os.getpid()), *self.program.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(self.program.environ),
            cwd=self.program.folder,
            start_new_session=True,
        )

    async def _until_ready(self) -> float:
        """Waits until the program listens, reports it, and returns when that was."""
        while True:
            try:
                _, writer = await asyncio.open_connection(*self.program.address)
            except OSError:
                await asyncio.sleep(_LOOK_S)
                continue
            writer.close()
            now = time.monotonic()
            if not self._stopping.is_set():
                self._become("ready")
            return now


class _Lines:
    """The lines that a program prints, through a pipe. What it has started may hold the pipe open after its end."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._ours, self.theirs = os.pipe()
        os.set_blocking(self._ours, False)
        self._on_line = on_line
        self._rest = b""
        self._ended = asyncio.Event()

    def listen(self) -> None:
        """Begins to read, once the program has its end of the pipe."""
        os.close(self.theirs)
        asyncio.get_running_loop().add_reader(self._ours, self._readable)

    def close(self) -> None:
        """Closes both ends of a pipe that no program got."""
        os.close(self._ours)
        os.close(self.theirs)

    async def drained(self) -> None:
        """Waits a moment for the end of the lines, and closes the pipe."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _DRAIN_S)
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        if self._rest:
            self._tell(self._rest)

    def _readable(self) -> None:
        try:
            data = os.read(self._ours, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self._ours)
            self._ended.set()
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._tell(line)
        while len(self._rest) > _LINE_BYTES:
            self._tell(self._rest[:_LINE_BYTES])
            self._rest = self._rest[_LINE_BYTES:]

    def _tell(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), _LINE_BYTES):
            self._on_line(line[start : start + _LINE_BYTES].decode(errors="replace").rstrip("\r"))


class Programs:
    """Several programs that are kept running together, with one order to stop.

    Args:
        on_line, on_change: as of `KeptProgram`.
        adopting: end whatever the programs leave behind. Not where they are clients of what belongs to another process, as
            those of containers are.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        on_line: Callable[[str, str], None],
        on_change: Callable[[KeptProgram], None],
        *,
        adopting: bool = True,
    ) -> None:
        def changed(one: KeptProgram) -> None:
            if one.program.required and one.state != "starting":
                self._others_may_start.set()
            on_change(one)

        self.kept = [KeptProgram(one, on_line, changed, self._end_strangers) for one in programs]
        self._on_line, self._on_change = on_line, on_change
        self._adopting = adopting
        self._added: list[KeptProgram] = []
        self._more = asyncio.Event()
        self._earlier: set[int] = set()  # children that are not of these programs
        self._others_may_start = asyncio.Event()
        if not any(one.required for one in programs):
            self._others_may_start.set()

    def add(self, program: Program) -> KeptProgram:
        """Runs one more program beside the others, until it is stopped by itself or with all.

        Its failure ends no other program, even if it is required.
        """
        kept = KeptProgram(program, self._on_line, self._on_change, self._end_strangers)
        self.kept.append(kept)
        self._added.append(kept)
        self._more.set()
        return kept

    def forget(self, kept: KeptProgram) -> None:
        """Forgets a program that was added and has ended."""
        self.kept.remove(kept)

    async def run(self) -> KeptProgram | None:
        """Runs all until they are stopped. Returns the required program that could not start, if that is the reason.

        Nothing that the programs have started is left behind, where the kernel is Linux.
        """
        if not self._adopting:
            return await self._run()
        self._earlier = _children()
        with _orphans_adopted():
            return await self._run()

    async def _run(self) -> KeptProgram | None:
        first = [one for one in self.kept if one not in self._added]
        tasks = {asyncio.create_task(self._keep(one)): one for one in first}
        reaping = asyncio.create_task(self._reap())
        more = asyncio.create_task(self._more.wait())
        failed: KeptProgram | None = None
        while tasks or self._added:
            self._more.clear()
            tasks |= {asyncio.create_task(one.keep()): one for one in self._added}
            self._added.clear()
            if more.done():
                more = asyncio.create_task(self._more.wait())
            await asyncio.wait({*tasks, more}, return_when=asyncio.FIRST_COMPLETED)
            for task in [one for one in tasks if one.done()]:
                task.result()
                one = tasks.pop(task)
                if failed is None and one in first and one.state == "failed" and one.program.required:
                    failed = one
                    self.stop()
        more.cancel()
        reaping.cancel()
        await self._end_strangers()
        return failed

    async def _keep(self, one: KeptProgram) -> None:
        """Keeps a program. The required ones have the cores to themselves for a moment."""
        if not one.program.required:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._others_may_start.wait(), _HEAD_START_S)
        await one.keep()

    def stop(self) -> None:
        """Asks all programs to end. Asking again repeats the signal."""
        self._others_may_start.set()
        for one in self.kept:
            one.stop()

    def kill(self) -> None:
        """Ends all programs by force."""
        self._others_may_start.set()
        for one in self.kept:
            one.kill()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(_REAP_S)
            _reap(self._strangers())

    async def _end_strangers(self) -> None:
        """Ends what a program that has ended left behind: its children are now children of this process, and then theirs."""
        for _ in range(_ROUNDS):
            strangers = self._strangers()
            if not strangers:
                return
            for pid in strangers:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            _reap(strangers)
            await asyncio.sleep(_LOOK_S / 10)

    def _strangers(self) -> set[int]:
        if not self._adopting:
            return set()
        return _children() - self._earlier - {one.pid for one in self.kept}


@contextlib.contextmanager
def _orphans_adopted() -> Iterator[None]:
    """Makes this process the parent of whatever its programs leave behind, so that it can end it."""
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def _children() -> set[int]:
    """Returns the children of this process, as far as /proc tells."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found |= set(map(int, task.read_text().split()))
    return found


def _reap(pids: set[int]) -> None:
    """Takes the exit codes of those that have ended."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)
