"""A server that forks a process with limits for each piece of work: every end is told, none touches another, none is left."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.needs import OPEN_FILES
from tests.waiting import until

from deepwell.process.calls import CallEnded
from deepwell.process.forks import ForkLimits, ForkServer

LIMITS = ForkLimits(processor_s=0.3, wall_s=60.0, memory_bytes=1 << 30, stack_bytes=16 << 20)
WAIT_S = 60.0  # a test that waits longer has failed


def children_of(pid: int) -> list[int]:
    """Process ids of the children of a process, those that have ended and were not waited for included."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(folder.name))
    return found


def names_of(pid: int) -> list[str]:
    """Names of the threads of a process."""
    try:
        return [file.read_text().strip() for file in Path(f"/proc/{pid}/task").glob("*/comm")]
    except OSError:
        return []


def is_there(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer("tests.process.forked", LIMITS)
    yield server
    server.close()


def test_the_result_is_what_the_work_returns(server: ForkServer) -> None:
    assert server.run(b"") == 0
    assert server.run(b"x" * 300_000) == 300_000
    assert server.run(b"wrong") is None


def test_work_reaches_neither_the_server_nor_other_work(server: ForkServer) -> None:
    assert server.run(b"kill") == 0
    assert server.run(b"pipes") == 0


def test_work_that_lies_about_its_end_ends_nothing_else(server: ForkServer) -> None:
    server.run(b"")
    pid = server.pid
    with pytest.raises(CallEnded):
        server.run(b"flood")
    assert server.run(b"") == 0
    assert server.pid == pid


def test_a_signal_without_a_name_ends_work(server: ForkServer) -> None:
    with pytest.raises(CallEnded, match=f"signal {signal.SIGRTMIN + 1}"):
        server.run(b"signal")


class Meeting:
    """Work that gives itself a name, stops itself and waits to be let go."""

    _names: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self._name = f"meeting-{next(self._names)}"
        self._pid = 0
        self._thread = ThreadPoolExecutor(1)
        self.done: Future[None] = self._thread.submit(server.run, b"meet " + self._name.encode())

    def begun(self) -> int:
        """Waits until the work runs, anew after an earlier call; returns its process id."""
        earlier = self._pid

        def is_new() -> bool:
            named = [one for one in children_of(self._server.pid) if self._name in names_of(one)]
            self._pid = next((one for one in named if one != earlier and state_of(one) == "T"), 0)
            return self._pid > 0

        until(is_new)
        return self._pid

    def let_go(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def ended(self) -> BaseException | None:
        error = self.done.exception(WAIT_S)
        self._thread.shutdown()
        return error


def end_of(server: ForkServer, work: str) -> str:
    try:
        server.run(work.encode())
    except CallEnded as error:
        return "lost" if error.late or error.killed or error.lost else str(error)
    return "passed"


ENDS = {
    "pass": "passed",
    "wrong": "passed",
    "spin": "it took too much processor time",
    "fill": "it took too much memory",
    "crash": "it took too much memory, or crashed (SIGABRT)",
}


@settings(max_examples=8, deadline=None)
@given(work=st.lists(st.sampled_from([*ENDS, "pass", "pass", "pass"]), min_size=1, max_size=6))
def test_every_end_is_that_of_the_work_itself(server: ForkServer, work: list[str]) -> None:
    with ThreadPoolExecutor(3) as threads:
        ends = list(threads.map(lambda one: end_of(server, one), work))
    assert ends == [ENDS[one] for one in work]
    pid = server.pid
    assert pid and children_of(pid) == []
    server.run(b"pass")
    assert server.pid == pid  # whatever came of the work, the server is kept


def test_large_work_crosses_whole(server: ForkServer) -> None:
    assert end_of(server, "wrong " + "x" * (4 << 20)) == "passed"


@pytest.mark.needs(OPEN_FILES)
def test_a_parent_may_have_thousands_of_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(1100):
                stack.enter_context(Path("/dev/null").open("rb"))
            server = ForkServer("tests.process.forked", LIMITS)
            stack.callback(server.close)
            assert server.run(b"x") == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_works_of_several_threads_run_at_the_same_time(server: ForkServer) -> None:
    first, second = Meeting(server), Meeting(server)
    assert first.begun() != second.begun()
    server.run(b"pass")
    second.let_go()
    assert second.ended() is None and not first.done.done()
    first.let_go()
    assert first.ended() is None


def test_work_that_is_killed_is_done_again(server: ForkServer) -> None:
    meeting = Meeting(server)
    first = meeting.begun()
    os.kill(first, signal.SIGKILL)
    assert meeting.begun() != first
    meeting.let_go()
    assert meeting.ended() is None


def test_work_that_is_killed_twice_is_lost(server: ForkServer) -> None:
    meeting = Meeting(server)
    for _ in range(2):
        os.kill(meeting.begun(), signal.SIGKILL)
    error = meeting.ended()
    assert isinstance(error, CallEnded) and error.lost
    server.run(b"pass")


def test_a_server_that_is_killed_is_replaced_and_its_work_done_again(server: ForkServer) -> None:
    meetings = [Meeting(server) for name in "ab"]
    begun = [meeting.begun() for meeting in meetings]
    os.kill(server.pid, signal.SIGKILL)
    for meeting in meetings:
        meeting.begun()
        meeting.let_go()
        assert meeting.ended() is None
    until(lambda: not any(map(is_there, begun)))


def test_work_that_does_not_run_is_ended() -> None:
    server = ForkServer("tests.process.forked", ForkLimits(5.0, 0.2, 1 << 30, 1 << 20))
    with pytest.raises(CallEnded) as ended:
        server.run(b"hang")
    assert ended.value.late and children_of(server.pid) == []
    server.close()


def test_closing_ends_the_server_and_what_runs() -> None:
    server = ForkServer("tests.process.forked", LIMITS)
    meeting = Meeting(server)
    pids = [meeting.begun(), server.pid]
    server.close()
    error = meeting.ended()
    assert isinstance(error, CallEnded) and error.killed
    until(lambda: not any(map(is_there, pids)))
    with pytest.raises(CallEnded):
        server.run(b"pass")
    assert server.pid == 0


def test_a_server_without_work_ends_itself_and_the_next_work_starts_another() -> None:
    server = ForkServer("tests.process.forked", ForkLimits(1.0, 60.0, 1 << 30, 1 << 20, idle_s=0.05))
    server.run(b"pass")
    until(lambda: server.pid == 0)
    server.run(b"pass")
    server.close()


def test_nothing_is_left_when_the_parent_is_killed() -> None:
    program = (
        "from tests.process.test_forks import *\n"
        "server = ForkServer('tests.process.forked', LIMITS)\n"
        "meeting = Meeting(server)\n"
        "print(meeting.begun(), server.pid, flush=True)\n"
        "meeting.ended()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
    )
    assert parent.stdout is not None
    with parent, parent.stdout as said:
        left = [*map(int, said.readline().split())]
        parent.kill()
    until(lambda: not any(map(is_there, left)))
