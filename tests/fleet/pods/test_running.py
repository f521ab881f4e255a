"""A deployment in containers that really runs: haproxy, PostgreSQL, Valkey and small replicas in one pod of podman."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fleet.deploy.test_deployment import PROD, REPLICA, Running, some
from tests.needs import PODMAN
from tests.waiting import until_async

from deepwell.errors import StorageUnavailable
from deepwell.fleet.deploy.machine import running_deployments
from deepwell.fleet.deploy.release import Release
from deepwell.fleet.pods.pod import ANY, Contained, images_of
from deepwell.fleet.pods.podman import container_states, podman
from deepwell.process.programs import Program

pytestmark = [pytest.mark.fault, pytest.mark.needs(PODMAN)]


class InPod(Running):
    """A deployment in containers, whose replicas are `replica.py`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name=f"test-{os.getpid()}", grade="containers", replicas=2)
        assert self.opened.pod is not None
        self.pod = self.opened.pod

    def _make(self, release: Release, name: str, port: int) -> Program:
        inside = Contained(
            self.declaration.containers.image,
            ("-S", "/replica.py", str(port), release.model, *self.ways.get(release.model, ())),
            folders=((REPLICA, "/replica.py"),),
            variables=(("REPLICA_HOST", ANY),),
            options=("--entrypoint=python3",),
        )
        return self.pod.contained(Program(name, (), {}, Path.cwd(), ("127.0.0.1", port)), inside)

    async def outcomes(self) -> list[str]:
        """Returns how roll-outs ended, as soon as the database answers."""

        async def states() -> list[str] | None:
            with contextlib.suppress(StorageUnavailable):
                return [one.state for one in (await self.rollouts.registry.story(PROD)).rollouts.values()]
            return None

        return await until_async(states, lambda found: found is not None) or []

    def pid_of(self, name: str) -> int:
        return int(podman("inspect", "--format={{.State.Pid}}", f"{self.pod.name}-{name}"))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[InPod]:
    made = InPod(tmp_path)
    try:
        await made.until(lambda: made.facts.get("current"))
        key = (made.opened.folder / "secrets" / "key").read_text(encoding="utf-8").strip()
        made.headers = {"authorization": f"Bearer {key}"}
        yield made
    finally:
        await made.stop()
        podman("volume", "rm", "--force", f"{made.pod.name}-postgres", f"{made.pod.name}-data")


async def test_a_roll_out_and_kills_in_a_pod_lose_nothing_and_nothing_is_left_behind(running: InPod) -> None:
    assert set(images_of(running.declaration)) == {"replicas", "front", "postgres", "valkey"}
    seen = running.settings.model_copy(update={"deployments_dir": running.pod.told_folder.parent})
    assert running_deployments(seen)[running.declaration.name]["current"] == "blue", "as its replicas see it"
    async with running.loaded():
        await running.until(lambda: len(running.asked) > 20)
        ended = await running.ended(await running.start("v2"))
        await running.until(lambda: sum(one["phase"] == "free" for one in running.facts["slots"]) == 1)
    assert (ended.state, ended.ended_by) == ("promoted", "fleet")
    assert running.failed() == [] and set(running.releases()) == {f"{PROD}#1", f"{PROD}#2"}
    os.kill(running.pid_of("green0"), signal.SIGKILL)
    await running.until(lambda: some(running.facts, restarts=1, state="ready"))
    os.kill(before := running.pid_of("postgres"), signal.SIGKILL)
    await running.until(lambda: running.pid_of("postgres") not in (before, 0))
    assert await running.outcomes() == ["promoted"]
    assert not running.task.done(), "a database that is away for a moment ends no deployment"
    pod = running.pod
    await running.stop()
    assert container_states(pod.name) == {}
    secrets = podman("secret", "ls", "--format={{.Name}}").split()
    assert not [one for one in secrets if one.startswith(f"{pod.name}-")]
