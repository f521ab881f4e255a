"""The time that servers over one database share: that of the database, whatever the clock of a machine says."""

import logging
import re
import time
from pathlib import Path

import pytest

import deepwell
from deepwell.storage import clock as clocks
from deepwell.storage.clock import SharedClock, shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import JobStore

# These look at files' times or at this process alone.
LOCAL = {"storage/blobs/folder.py", "storage/clock.py", "server/families/ollama/models.py"}


class Clocks:
    """Clocks that a test sets."""

    def __init__(self) -> None:
        self.wall_s, self.steady_s = 1_000_000.0, 50.0
        self.clock = SharedClock(lambda: self.wall_s, lambda: self.steady_s)

    def ask(self, there: float, wait_s: float = 0.0):
        """Returns the time of the database after a wait."""

        def answer() -> float:
            self.steady_s += wait_s
            return there

        return answer


def test_the_clock_of_the_database_counts_and_no_jump_of_ones_own(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    assert clocks.clock.now() == 1_000_000
    with caplog.at_level(logging.WARNING):
        clocks.clock.note(clocks.ask(1_007_200))
        clocks.clock.note(clocks.ask(1_007_200))
    assert [record.getMessage().split(" that ")[0] for record in caplog.records] == [
        "the clock of this machine is 7200 seconds behind"
    ]
    clocks.wall_s += 86_400
    clocks.steady_s += 3
    assert clocks.clock.now() == 1_007_203


def test_an_answer_counts_for_the_middle_of_its_wait_and_a_late_one_not_at_all() -> None:
    clocks = Clocks()
    clocks.clock.note(clocks.ask(2_000, wait_s=1))
    assert clocks.clock.now() == 2_000.5
    clocks.clock.note(clocks.ask(9_000, wait_s=60))
    assert clocks.clock.now() == 2_060.5


@pytest.mark.parametrize("hours", [-2, 2])
async def test_what_a_server_with_a_wrong_clock_stores_lasts_as_long_as_with_the_right_one(
    postgres, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    monkeypatch.setattr(clocks, "_clock", SharedClock(lambda: time.time() + 3600 * hours))
    database = Database.connect(postgres.emptied())
    try:
        assert abs(shared_time() - time.time()) < 60
        made = await JobStore(database).enqueue(Tenant("a"), "k", "{}")
        assert abs(made.created_at - time.time()) < 60
    finally:
        database.close()


def test_stores_and_routes_ask_for_the_time_that_all_share() -> None:
    root = Path(deepwell.__file__).parent
    asked = [
        str(path.relative_to(root))
        for part in ("storage", "server/families", "safety/privacy", "safety/audit")
        for path in sorted((root / part).rglob("*.py"))
        if re.search(r"(?<!_)\btime\.time\b", path.read_text(encoding="utf-8"))
    ]
    assert set(asked) <= LOCAL
