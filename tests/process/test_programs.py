"""Programs are started again when they end, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.parallel import free_port

from deepwell.process.programs import KeptProgram, Program, Programs

# Listens, and starts a child in a session of its own, as a notebook server does with its kernels.
LISTENS = """
import socket, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE,
                         start_new_session=True)
print("child", child.pid, flush=True)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listener.accept()[0].close()
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


class Watched:
    """Programs with what they said and how they changed."""

    def __init__(self, *programs: Program) -> None:
        self.lines: list[tuple[str, str]] = []
        self.states: list[tuple[str, str]] = []
        self._news = asyncio.Event()
        self.programs = Programs(programs, self._line, self._change)
        for one in self.programs.kept:
            one.pause_of = lambda failures: 0.0 * failures

    def _line(self, name: str, text: str) -> None:
        self.lines.append((name, text))
        self._news.set()

    def _change(self, one: KeptProgram) -> None:
        self.states.append((one.program.name, one.state))
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                self._news.clear()
                await self._news.wait()


def program(code: str, *arguments: str, name: str = "one", port: int = 1, required: bool = False) -> Program:
    command = (sys.executable, "-c", code, *arguments)
    return Program(name, command, dict(os.environ), Path.cwd(), ("127.0.0.1", port), required)


def is_there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.fault
async def test_a_killed_program_comes_back_and_its_own_children_end() -> None:
    port = free_port()
    watched = Watched(program(LISTENS, str(port), port=port))
    running = asyncio.create_task(watched.programs.run())
    (kept,) = watched.programs.kept
    await watched.until(lambda: kept.state == "ready" and bool(watched.lines))
    first, child = kept.pid, int(watched.lines[0][1].split()[1])
    assert is_there(child)
    os.kill(first, signal.SIGKILL)
    await watched.until(lambda: kept.restarts == 1 and kept.state == "ready" and len(watched.lines) == 2)
    assert kept.pid != first and not is_there(child)
    assert [state for _, state in watched.states] == ["starting", "ready", "restarting", "starting", "ready"]
    second, child = kept.pid, int(watched.lines[1][1].split()[1])
    watched.programs.stop()
    assert await running is None
    assert kept.state == "stopped" and not is_there(second) and not is_there(child)


@pytest.mark.fault
async def test_a_program_that_is_deaf_is_killed() -> None:
    watched = Watched(program(STUBBORN))
    running = asyncio.create_task(watched.programs.run())
    (kept,) = watched.programs.kept
    await watched.until(lambda: ("one", "deaf") in watched.lines)
    watched.programs.stop()
    watched.programs.kill()
    await running
    assert kept.last_end == "SIGKILL" and kept.restarts == 0


async def test_a_required_program_that_cannot_start_ends_all() -> None:
    other = program(STUBBORN.replace("SIG_IGN", "SIG_DFL"), name="other")
    watched = Watched(program("print('no'); raise SystemExit(3)", required=True), other)
    failed = await watched.programs.run()
    assert failed is not None and failed is watched.programs.kept[0] and failed.last_end == "exit 3"
    assert ("one", "no") in watched.lines
    assert watched.states[-1] == ("other", "stopped")


async def test_another_program_that_cannot_start_is_given_up() -> None:
    watched = Watched(program("raise SystemExit(3)"))
    assert await watched.programs.run() is None
    assert watched.states.count(("one", "starting")) == 4 and watched.states[-1] == ("one", "failed")


async def test_lines_are_whole_however_they_come() -> None:
    code = "import sys; sys.stdout.buffer.write(b'a\\r\\n\\xff\\n' + b'x' * 20_000 + b'\\nlast'); raise SystemExit(1)"
    watched = Watched(program(code, required=True))
    await watched.programs.run()
    texts = [text for _, text in watched.lines]
    assert texts[0] == "a" and texts[1] == "\ufffd" and texts[-1] == "last"
    assert "".join(texts[2:-1]) == "x" * 20_000 and max(map(len, texts)) <= 8192


async def test_the_process_is_as_before_and_keeps_its_own_children() -> None:
    own = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    watched = Watched(program("print('short')"))
    await watched.programs.run()
    assert is_there(own.pid) and not adopts_orphans()
    await own.communicate(b"\n")
    assert own.returncode == 0


def adopts_orphans() -> bool:
    answer = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


@pytest.mark.fault
async def test_programs_may_be_added_while_others_run_and_end_alone() -> None:
    ports = [free_port() for _ in range(3)]
    first, second, third = (
        program(LISTENS, str(port), name=f"p{number}", port=port, required=number == 0)
        for number, port in enumerate(ports)
    )
    watched = Watched(first)
    running = asyncio.create_task(watched.programs.run())
    await watched.until(lambda: ("p0", "ready") in watched.states)
    added = watched.programs.add(second)
    failing = watched.programs.add(
        program("raise SystemExit(3)", name="bad", port=free_port(), required=True)
    )
    await watched.until(lambda: added.state == "ready" and failing.state == "failed")
    assert not running.done(), "what was added fails alone"
    added.stop()
    await watched.until(lambda: added.state == "stopped")
    watched.programs.forget(added)
    again = watched.programs.add(third)
    await watched.until(lambda: again.state == "ready")
    watched.programs.stop()
    assert await running is None


@pytest.mark.fault
async def test_a_program_may_be_asked_to_end_by_a_signal_of_its_own() -> None:
    code = (
        "import signal, socket, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: (print('gently', flush=True), sys.exit(0)))\n"
        "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True: listener.accept()[0].close()\n"
    )
    port = free_port()
    command = (sys.executable, "-c", code, str(port))
    gentle = Program("one", command, dict(os.environ), Path.cwd(), ("127.0.0.1", port), False, signal.SIGUSR1)
    watched = Watched(gentle)
    running = asyncio.create_task(watched.programs.run())
    await watched.until(lambda: watched.programs.kept[0].state == "ready")
    watched.programs.stop()
    await running
    assert ("one", "gently") in watched.lines
    assert watched.programs.kept[0].last_end == "exit 0"
