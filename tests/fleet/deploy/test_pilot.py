"""`Pilot`: the ledger drives a mesh, and the figures of replicas end a bad version, over a real ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from deepwell.fleet.deploy.analysis import Figures
from deepwell.fleet.deploy.declaration import Gates
from deepwell.fleet.deploy.pilot import Pilot
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout, Steps

PROD = "toy@prod"


class Mesh:
    """Counts requests of both sides, of which the candidate's fail or not, and keeps what it was told."""

    def __init__(self, *, failing: bool = False) -> None:
        self.failing = failing
        self.told: list[tuple[float, str]] = []
        self._count = 0.0

    async def scrape(self, side: Literal["current", "candidate"]) -> dict[str, Figures]:
        """Returns ten more requests each time."""
        self._count += 10
        return {side: Figures(requests=self._count, failed=self._count if self._fails(side) else 0)}

    async def shift(self, share: float, rollout: str) -> None:
        """Keeps what is asked."""
        self.told.append((share, rollout))

    def _fails(self, side: str) -> bool:
        return self.failing and side == "candidate"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


async def start(rollouts: Rollouts, database: Database) -> Rollout:
    await AliasStore(database).set(PROD, "toy", "lin")
    made = await rollouts.register(PROD, NewVersion("v2"), "lin")
    steps = Steps("canary", (0.5, 1.0), 0.0)
    return await rollouts.start(made.id, "lin", steps=steps, ungated="a test")


def piloted(rollouts: Rollouts, mesh: Mesh) -> Pilot:
    return Pilot(PROD, rollouts, Gates(least_requests=10), mesh.scrape, mesh.shift, current="toy", by="fleet")


async def test_a_good_version_gets_every_step_and_keeps_all_users(database: Database) -> None:
    rollouts, mesh = Rollouts(database), Mesh()
    started = await start(rollouts, database)
    pilot = piloted(rollouts, mesh)
    while (await pilot.tick()).reason != "no roll-out is under way":
        assert len(mesh.told) < 5
    await pilot.tick()
    assert [share for share, _ in mesh.told] == [0.0, 0.5, 1.0]
    assert {one for _, one in mesh.told} == {started.id}
    assert (await rollouts.registry.story(PROD)).rollouts[started.id].state == "promoted"
    await piloted(
        rollouts, mesh
    ).tick()  # one that begins after the promotion leaves all users where they are
    assert mesh.told[-1][0] == 1.0


async def test_a_failing_version_is_aborted_and_nobody_gets_it_again(database: Database) -> None:
    rollouts, mesh = Rollouts(database), Mesh(failing=True)
    started = await start(rollouts, database)
    pilot = piloted(rollouts, mesh)
    while (await pilot.tick()).reason != "no roll-out is under way":
        assert len(mesh.told) < 5
    ended = (await rollouts.registry.story(PROD)).rollouts[started.id]
    assert (ended.state, ended.ended_by) == ("aborted", "fleet")
    assert "error rate" in ended.reason
    assert mesh.told[-1][0] == 0.0


async def test_an_order_of_somebody_else_is_obeyed_by_a_pilot_that_began_later(database: Database) -> None:
    rollouts, mesh = Rollouts(database), Mesh()
    await start(rollouts, database)
    await piloted(rollouts, mesh).tick()
    await piloted(rollouts, mesh).tick()  # another process, which goes on from the ledger
    assert mesh.told[-1][0] == 0.5
    pilot = piloted(rollouts, mesh)
    await rollouts.abort(PROD, "lin", "no")
    await pilot.tick()
    assert mesh.told[-1][0] == 0.0
