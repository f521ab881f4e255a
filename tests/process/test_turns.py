"""Turns exclude each other, are served first come, first served, and survive the process that had one."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.waiting import until

from deepwell.process.progress import Progress
from deepwell.process.supervisor import Supervisor
from deepwell.process.turns import Turn

PATIENCE_S = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turns"


class Member:
    """A thread that takes and gives turns on command."""

    def __init__(self, path: Path) -> None:
        self.turn = Turn(path, quantum_s=0.0)
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while command := self._commands.get():
            command()

    def take(self) -> None:
        self._commands.put(self.turn.take)
        until(lambda: self.turn.queued)

    def end(self) -> None:
        self._commands.put(None)
        self._thread.join(PATIENCE_S)
        self.turn.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.sampled_from(["take", "give", "offer", "leave"]), st.integers(0, 3))),
)
def test_turns_are_those_of_a_queue(path: Path, count: int, commands: list[tuple[str, int]]) -> None:
    """Whatever members do, the first of those that queued has the turn, and nobody else."""
    members = [Member(path) for _ in range(count)]
    line: list[int] = []  # the model: who queued, in order; the first has the turn
    try:
        for command, index in commands:
            index %= count
            if command == "take" and index not in line:
                members[index].take()
                line.append(index)
            elif command == "leave" and line[:1] == [index]:
                members[index].turn.close()
                members[index].end()
                members[index] = Member(path)
                line.pop(0)
            elif command == "give" and line[:1] == [index]:
                members[index].turn.give()
                line.pop(0)
            elif command == "offer" and line[:1] == [index]:
                members[index].turn.offer()
                if len(line) > 1:  # the quantum is over, and somebody waits
                    line.pop(0)
            if line:
                until(lambda: members[line[0]].turn.held)
                assert members[line[0]].turn.others_wait() == (len(line) > 1)
            assert [i for i, member in enumerate(members) if member.turn.held] == line[:1]
    finally:
        for index in line:
            until(lambda index=index: members[index].turn.held)
            members[index].turn.give()
        for member in members:
            member.end()


def test_nobody_computes_beside_another(path: Path) -> None:
    """Threads that always want the turn are served as often as they ask, one at a time."""
    lock, log = threading.Lock(), list[int]()
    inside: list[int] = []

    def compute(index: int) -> None:
        turn = Turn(path, quantum_s=0.0)
        for _ in range(100):
            turn.take()
            with lock:
                inside.append(index)
                log.append(index)
                assert inside == [index]
            with lock:
                inside.remove(index)
            turn.give()
        turn.close()

    threads = [threading.Thread(target=compute, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [log.count(index) for index in range(3)] == [100, 100, 100]
    assert inside == []


def test_a_turn_is_kept_until_its_quantum_is_over_and_somebody_waits(path: Path) -> None:
    now = 0.0
    ours = Turn(path, quantum_s=5.0, clock=lambda: now)
    other = Member(path)
    ours.take()
    now = 9.0
    ours.offer()
    assert ours.held  # nobody waits
    other.take()
    now = 4.0
    ours.offer()
    assert ours.held  # the quantum is not over
    now = 5.0
    ours.offer()
    assert not ours.held
    until(lambda: other.turn.held)
    other.turn.give()
    ours.take()
    ours.offer(idle=True)
    assert not ours.held and ours.taken == 2
    other.end()
    ours.close()


def test_waiting_for_a_turn_is_no_step_that_hangs(path: Path) -> None:
    ours, theirs, progress = Turn(path), Turn(path), Progress.private()
    ours.take(progress)
    progress.begin()
    progress.step()
    assert progress.working  # between two steps
    waiting = Progress.private()
    waiting.begin()
    thread = threading.Thread(target=theirs.take, args=(waiting,))
    thread.start()
    until(lambda: not waiting.working)
    assert theirs.queued and not theirs.held
    ours.give()
    thread.join(PATIENCE_S)
    assert theirs.held
    theirs.close()
    ours.close()


def test_a_process_without_locks_computes_without_turns(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turn = Turn(path)
    read_only = os.open(path, os.O_RDONLY)
    os.dup2(read_only, turn._file)  # pyright: ignore[reportPrivateUsage]  # takes no write lock
    os.close(read_only)
    turn.take()
    turn.offer()
    turn.take()
    turn.give()
    assert not turn.held
    assert caplog.text.count("without turns") == 1


class Taker:
    """A process that takes turns on command."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.takers", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def has_done(self, command: str) -> bool:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip() == command

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def takers(path: Path) -> Generator[list[Taker]]:
    takers = [Taker(path) for _ in range(2)]
    yield takers
    for taker in takers:
        taker.kill()


@pytest.mark.fault
def test_a_process_that_is_killed_gives_its_turn_and_its_place_back(path: Path, takers: list[Taker]) -> None:
    ours = Turn(path)
    first, second = takers
    first.ask("take")
    assert first.has_done("take")
    second.ask("take")  # waits for the first
    first.kill()
    assert second.has_done("take")
    second.ask("give")
    assert second.has_done("give")

    ours.take()
    second.ask("take")
    until(ours.others_wait)
    second.kill()  # while it waits
    until(lambda: not ours.others_wait())
    ours.give()
    ours.take()
    ours.close()


@pytest.mark.fault
@pytest.mark.parametrize("how", ["hung", "stopped"])
def test_a_process_that_hangs_in_its_turn_is_killed_and_others_go_on(path: Path, how: str) -> None:
    """A step that never ends, or SIGSTOP: the supervisor's limit is also the longest time that others wait."""
    reported = threading.Event()
    supervisor = Supervisor(
        "child",
        "tests.process.children",
        lambda ended: f"turn:{path}".encode() if not ended else b"well",
        timeout_s=1.0,
        step_timeout_s=1.0 if how == "hung" else 60.0,
        on_report=lambda _: reported.set(),
    )
    supervisor.start()
    turn = Turn(path)
    try:
        supervisor.wait_ready()
        assert reported.wait(PATIENCE_S)
        if how == "stopped":
            os.kill(supervisor.pid, signal.SIGSTOP)
        turn.take()
        assert turn.held
        until(lambda: supervisor.restarts == 1)
    finally:
        supervisor.stop()
        turn.close()
