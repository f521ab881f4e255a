"""A deployment for a benchmark: its supervisor in a process of its own, its registry at hand, and loads of conversations."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.cli.bench.machine import cpu_seconds, process_tree
from deepwell.fleet.deploy.declaration import Grade, secret_of
from deepwell.fleet.deploy.machine import CLAIM
from deepwell.fleet.pods.pod import pod_name
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.process.claim import read_claim
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout, Steps
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.suites.deploy.podman import podman

__all__ = ["ALIAS", "Fleet", "Load", "busy_seconds", "running_fleet"]

ALIAS = "paced@prod"
_START_S = 120.0
_END_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """The outcome of a load: a result for each request, and the busy part of all cores meanwhile."""

    results: Sequence[Mapping[str, Any]]
    client_cpu: float
    front_cpu: float
    replicas_cpu: float
    busy: float
    seconds: float

    @property
    def failed(self) -> list[Mapping[str, Any]]:
        """Requests without a whole answer."""
        return [one for one in self.results if one["how"] != "whole" or one["status"] != 200]

    @property
    def cut(self) -> list[Mapping[str, Any]]:
        """Requests whose answer began and did not end as it should."""
        return [one for one in self.failed if one["first_ms"] is not None]

    @property
    def mixed(self) -> int:
        """Conversations that were answered by more than one release."""
        seen: dict[int, set[str]] = {}
        for one in self.results:
            if one["release"]:
                seen.setdefault(one["conversation"], set()).add(one["release"])
        return sum(len(one) > 1 for one in seen.values())

    @property
    def kinds(self) -> dict[str, int]:
        """Numbers of failed requests by their status and their end."""
        return dict(Counter(f"{one['status']} {one['how']}" for one in self.failed))

    def figures(self) -> dict[str, Any]:
        """Returns the processor's part, as shares of one core but for `busy`, which is of all."""
        return {
            "busy": round(self.busy, 3),
            "client_cpu": round(self.client_cpu, 3),
            "front_cpu": round(self.front_cpu, 3),
            "replicas_cpu": round(self.replicas_cpu, 3),
        }


def busy_seconds() -> float:
    """Returns the seconds that all cores of the machine were busy since it started."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")


class Fleet:
    """A deployment that runs."""

    def __init__(self, folder: Path, spec: Mapping[str, Any], process: subprocess.Popen[bytes]) -> None:
        self._folder, self._spec, self._process = folder, spec, process
        self.pid = process.pid
        self.port = int(spec["declaration"]["port"])
        self.alias = str(spec["declaration"]["alias"])
        self.grade = str(spec["declaration"]["grade"])
        self.key = ""

    def open(self) -> None:
        """Opens the database of the deployment, which serves."""
        place = self.facts.get("database")
        self.database = (
            Database.open(self._folder / "data" / "deepwell.db")
            if place is None
            else Database.connect(secret_of(place))
        )
        self.rollouts = Rollouts(self.database)
        key = self._folder / "state" / "deploy" / "bench" / "secrets" / "key"
        self.key = key.read_text(encoding="utf-8").strip() if key.exists() else ""

    @property
    def facts(self) -> dict[str, Any]:
        """Facts that the supervisor tells."""
        name = self._spec["declaration"]["name"]
        return read_claim(self._folder / "state" / "deploy" / name, CLAIM) or {}

    @property
    def front_pid(self) -> int:
        """Process of the front."""
        if self.grade == "machine":
            return int(self.facts["front"]["pid"])
        return self.container_pids().get("front", 0)

    def container_pids(self) -> dict[str, int]:
        """Returns the main processes of the containers of the pod, by their short names."""
        pod = pod_name("bench")
        listed = podman("ps", f"--filter=pod={pod}", "--format={{.Names}} {{.Pid}}", check=False).stdout
        named = (line.split() for line in listed.splitlines())
        return {name.removeprefix(f"{pod}-"): int(pid) for name, pid in named}

    def _pids(self) -> list[int]:
        """Returns all processes of the deployment."""
        inside = [] if self.grade == "machine" else self.container_pids().values()
        return [*process_tree(self.pid), *(pid for one in inside for pid in process_tree(one))]

    @property
    def replica_pids(self) -> list[int]:
        """Processes of the replicas that run."""
        return [one["pid"] for slot in self.facts["slots"] for one in slot["replicas"] if one["pid"]]

    def until(self, holds: Callable[[dict[str, Any]], Any], seconds: float = _START_S) -> None:
        """Waits until the facts are as wanted.

        Raises:
            PeerError: they do not become so.
        """
        until = time.monotonic() + seconds
        while True:
            facts = self.facts
            if "slots" in facts and holds(facts):
                return
            if time.monotonic() > until or self._process.poll() is not None:
                log = (self._folder / "log").read_text(errors="replace")[-800:]
                raise PeerError(f"the deployment does not get there: {facts}\n{log}")
            time.sleep(0.05)

    def start(self, model: str, steps: Steps) -> Rollout:
        """Registers a version and begins its roll-out."""

        async def work() -> Rollout:
            made = await self.rollouts.register(self.alias, NewVersion(model), "bench")
            return await self.rollouts.start(made.id, "bench", steps=steps, ungated="a benchmark")

        return asyncio.run(work())

    def outcome(self, rollout: Rollout, seconds: float) -> Rollout:
        """Waits for the end of a roll-out, and until its old replicas have ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            story = asyncio.run(self.rollouts.registry.story(self.alias))
            if (found := story.rollouts[rollout.id]).state != "canary":
                self.until(lambda facts: sum(one["phase"] == "free" for one in facts["slots"]) == 1, seconds)
                return found
            time.sleep(0.1)
        return asyncio.run(self.rollouts.abort(self.alias, "bench", "it takes too long"))

    def talk(self, seconds: float, during: Callable[[], Any] | None = None, **task: Any) -> tuple[Load, Any]:
        """Loads the deployment, does something meanwhile, and returns both results.

        Args:
            during: what is done meanwhile; the load ends a moment after it. Left out: it ends after `seconds`.
            seconds: longest time of the load.

        Raises:
            PeerError: the client failed.
        """
        told = {"port": self.port, "model": self.alias, "seconds": seconds, "key": self.key, **task}
        client = subprocess.Popen(
            [sys.executable, "-m", "deepwell_bench.workers.fleet.talkers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdin is not None
        client.stdin.write(json.dumps(told))
        client.stdin.close()
        client.stdin = None
        began, busy = time.monotonic(), busy_seconds()
        front = [self.front_pid]
        before = {pid: cpu_seconds([pid]) for pid in {*self._pids(), *front}}
        found = None
        if during is None:
            time.sleep(seconds)
        else:
            found = during()
            time.sleep(1)
            client.send_signal(signal.SIGTERM)
        seen = {pid: cpu_seconds([pid]) for pid in {*self._pids(), *before}}
        out = client.communicate()[0]
        passed = time.monotonic() - began
        if client.returncode:
            raise PeerError("the talkers failed")
        answer = json.loads(out)
        spent = {pid: now - before.get(pid, 0.0) for pid, now in seen.items()}
        front_cpu = sum(one for pid, one in spent.items() if pid in front) / passed
        others = sum(max(one, 0.0) for pid, one in spent.items() if pid not in front) / passed
        cores = os.cpu_count() or 1
        share = (busy_seconds() - busy) / passed / cores
        return Load(
            answer["results"], answer["cpu_seconds"] / passed, front_cpu, others, share, passed
        ), found


@contextlib.contextmanager
def running_fleet(
    model: Path,
    ways: Mapping[str, Sequence[object]],
    *,
    replicas: int = 2,
    rollout: Mapping[str, Any] | None = None,
    grade: Grade = "machine",
    env: Mapping[str, str] | None = None,
    **spec: Any,
) -> Generator[Fleet]:
    """Yields a deployment whose first release is the first of the `ways`, and which serves.

    Args:
        ways: arguments of the replicas' engine by the name of a version's model.
        rollout: terms of its roll-outs.
        env: further environment of its processes.

    Raises:
        PeerError: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as name:
        folder = Path(name)
        declaration = {
            "name": "bench",
            "grade": grade,
            "alias": ALIAS,
            "model": next(iter(ways)),
            "replicas": replicas,
            "port": free_port(),
            "rollout": dict(rollout or {}),
            **spec.pop("declaration", {}),
        }
        whole = {"declaration": declaration, "model": str(model), "ways": ways, **spec}
        (folder / "spec.json").write_text(json.dumps(whole), encoding="utf-8")
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "deepwell_bench.workers.fleet.deployment",
                    str(folder / "spec.json"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "DEEPWELL_DATA_DIR": str(folder / "data"),
                    "DEEPWELL_STATE_DIR": str(folder / "state"),
                    **(env or {}),
                },
            )
        fleet: Fleet | None = None
        try:
            running = Fleet(folder, whole, process)
            running.until(lambda facts: facts["current"], _START_S if grade == "machine" else 2 * _START_S)
            running.open()
            fleet = running
            yield fleet
        finally:
            if fleet is not None:
                fleet.database.close()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if grade != "machine":
                _remove_pod()


def _remove_pod() -> None:
    """Removes the pod, if it is still there, and its volumes."""
    pod = pod_name("bench")
    podman("pod", "rm", "--force", "--ignore", "--time=5", pod, check=False)
    podman(
        "volume",
        "rm",
        "--force",
        *(f"{pod}-{one}" for one in ("data", "postgres", "prometheus")),
        check=False,
    )
