"""Roll-outs whose processes are killed at any statement: one consistent state, and nothing lost that was acknowledged."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from deepwell.fleet.promotion.check import check_ledger
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.database import Database
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.chain import Head
from deepwell_bench.workers.fleet.rollout_writer import ALIAS

WRITER = "deepwell_bench.workers.fleet.rollout_writer"


def heads(lines: str) -> list[Head]:
    """The acknowledged heads."""
    parts = [line.split(":") for line in lines.splitlines() if line]
    return [Head(int(sequence), hash) for sequence, hash in parts]


def test_a_process_that_is_killed_at_any_statement_leaves_one_state(tmp_path: Path) -> None:
    """Each of a hundred processes dies one statement later than the one before, and goes on from what that one left."""
    path = tmp_path / "deepwell.db"
    Database.open(path).close()
    command = [sys.executable, "-m", WRITER, str(path), str(tmp_path / "anchors"), "1-100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    acknowledged = heads(done.stdout)
    database = Database.open(path)
    try:
        checked = check_ledger(database, Anchors(tmp_path / "anchors"), acknowledged)
        assert checked.holds, checked.problems
        story = asyncio.run(Rollouts(database).registry.story(ALIAS))
        states = [one.state for one in story.rollouts.values()]
        assert {"promoted", "aborted", "rolled_back"} <= set(states)
        assert states[:-1].count("canary") == 0, "one at a time"
        assert len(acknowledged) >= 100
    finally:
        database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_writers_that_are_killed_beside_each_other_keep_one_chain(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "sqlite":
        where = str(tmp_path / "deepwell.db")
        Database.open(Path(where)).close()
    else:
        where = request.getfixturevalue("postgres").emptied()
        Database.connect(where).close()  # with its tables: writers race for the ledger alone
    anchors = tmp_path / "anchors"
    acknowledged: list[Head] = []
    for _ in range(2):
        writers = [
            subprocess.Popen(
                [sys.executable, "-m", WRITER, where, anchors],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # the slower of two finds that the other was there before it
                text=True,
            )
            for _ in range(2)
        ]
        try:
            for writer in writers:
                assert writer.stdout is not None
                acknowledged += heads("".join(writer.stdout.readline() for _ in range(4)))
                writer.kill()
            for writer in writers:
                acknowledged += heads(writer.communicate()[0])
        finally:
            for writer in writers:
                writer.kill()
    database = Database.open(Path(where)) if kind == "sqlite" else Database.connect(where)
    try:
        checked = check_ledger(database, Anchors(anchors), acknowledged)
        assert checked.holds, checked.problems
        assert len(acknowledged) >= 4
    finally:
        database.close()
