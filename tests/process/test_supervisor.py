"""A supervisor ends the child that hangs, and no other."""

from __future__ import annotations

import os
import threading

import pytest
from tests.waiting import until

from deepwell.errors import EngineUnavailable
from deepwell.process.progress import Progress
from deepwell.process.supervisor import Supervisor


class Watch:
    """A supervisor of a child whose first life has one health, and every later one another."""

    def __init__(self, first: str, later: str = "well") -> None:
        self.reported = threading.Event()
        self.launched: list[int] = []
        self.supervisor = Supervisor(
            "child",
            "tests.process.children",
            lambda ended: self._launch(ended, first if not ended else later),
            timeout_s=1.0,
            step_timeout_s=1.0,
            on_report=lambda _: self.reported.set(),
        )
        self.supervisor.start()
        self.supervisor.wait_ready()

    def _launch(self, ended: int, health: str) -> bytes:
        self.launched.append(ended)
        return health.encode()


@pytest.mark.fault
def test_a_child_that_is_slow_and_moves_is_left_alone() -> None:
    watch = Watch("slow")
    try:
        assert watch.reported.wait(60)
        assert watch.launched == [0]
    finally:
        watch.supervisor.stop()


@pytest.mark.fault
@pytest.mark.parametrize("health", ["stuck", "hung"])
def test_a_child_that_does_not_move_is_replaced(health: str) -> None:
    watch = Watch(health)
    try:
        until(lambda: watch.supervisor.restarts >= 1 and watch.supervisor.state == "ready")
        assert watch.launched[:2] == [0, 1]
    finally:
        watch.supervisor.stop()


def test_a_child_that_somebody_kills_while_it_starts_is_started_again() -> None:
    watch = Watch("killed")
    assert watch.launched == [0, 1]
    watch.supervisor.stop()


def test_a_child_that_is_killed_at_every_start_is_given_up() -> None:
    with pytest.raises(EngineUnavailable, match="while it started: was ended by SIGKILL"):
        Watch("killed", "killed")


def test_progress_is_seen_through_the_descriptor() -> None:
    ours = Progress.shared()
    theirs = Progress.opened(os.dup(ours.descriptor))
    theirs.turn()
    theirs.begin()
    theirs.step()
    assert (ours.turns, ours.steps, ours.working) == (1, 1, True)
    theirs.rest()
    assert not ours.working
    theirs.close()
    ours.close()
