"""Bad versions in a mesh of real Envoys: a slow, a failing and an unsafe one are aborted by the ledger's own steps."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

from deepwell.cli.bench.report import Report
from deepwell.fleet.deploy.analysis import Figures, parse_figures
from deepwell.fleet.deploy.declaration import Gates
from deepwell.fleet.deploy.mesh import Endpoint, Traffic
from deepwell.fleet.deploy.pilot import Pilot
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout, Steps
from deepwell_bench.suites.fleet.envoys import EDGE_PORT, REPLICA_PORT, Mesh, ask, mesh

__all__ = ["bad_versions"]

ALIAS: Final = "paced@prod"
_PACED: Final = ("50", "10", "8")
_WAYS: Final[dict[str, tuple[str, ...]]] = {
    "slow": ("450", "10", "8"),
    "failing": (*_PACED, "fail=0.5"),
    "unsafe": (*_PACED, "say= write to lin@example.com now"),
}
_GATES: Final = Gates(error_rate=0.02, first_token_p95_ms=200, guard_rate=0.1, least_requests=20)
_STEPS: Final = Steps("canary", (0.25, 1.0), 60.0)
_POLICY: Final = """version: 1
input: {rules: {}}
output:
  rules:
    personal.email: {action: redact}
"""
_USERS, _CLIENTS, _MOST_S = 40, 8, 60.0


def bad_versions(report: Report, model: Path, folder: Path) -> dict[str, Any]:
    """Rolls three bad versions out under load, each to a quarter of the users, and returns how each ended.

    Raises:
        PeerError: namespaces, openssl or Envoy are missing.
    """
    policy = folder / "policy.yaml"
    policy.write_text(_POLICY, encoding="utf-8")
    way: list[tuple[str, ...]] = [_PACED]

    def replica(port: int, name: str) -> list[str | Path]:
        data = folder / f"data-{name}"
        candidate = name.startswith("candidate")
        return [
            *("env", f"DEEPWELL_DATA_DIR={data}", f"DEEPWELL_STATE_DIR={data / 'state'}"),
            *("DEEPWELL_RELEASE=mesh=paced", f"DEEPWELL_GUARD={policy}"),
            *(sys.executable, "-m", "deepwell_bench.workers.fleet.replica", model, str(port)),
            *(way[0] if candidate else _PACED),
        ]

    rows: list[tuple[str, str, str, int, int]] = []
    value: dict[str, Any] = {}
    with mesh(folder, replica, current=2, candidate=1) as running:
        database = Database.open(folder / "ledger.db")
        try:
            for name, how in _WAYS.items():
                way[0] = how
                _replace(running, replica)
                ended, asked, failed, took = _rolled_out(running, database, name)
                value[f"{name}_aborted"] = ended.state == "aborted" and ended.ended_by == "fleet"
                value[f"{name}_after_s"] = round(took, 1)
                value[f"{name}_requests_after_abort"] = _later(running)
                rows.append((name, ended.state, ended.reason, asked, failed))
                if name != "failing":
                    value["failed_beside_bad"] = value.get("failed_beside_bad", 0) + failed
        finally:
            database.close()
    report.table("Bad versions", ("version", "ended", "why", "requests", "failed"), rows)
    return value


def _replace(running: Mesh, command: Callable[[int, str], Sequence[str | Path]]) -> None:
    """Ends the replica of the candidate and starts another behind the same sidecar."""
    [node] = [one for one in running.nodes if one.release == "candidate"]
    if node.replica is not None:
        node.machine.stop(node.replica)
        node.replica = None
    running.start(node, command)
    running.healthy(len(running.nodes))


def _rolled_out(running: Mesh, database: Database, name: str) -> tuple[Rollout, int, int, float]:
    """Rolls a version out while users ask; returns how it ended, the requests, those that failed, and the seconds."""
    ended = False

    def client(number: int) -> tuple[int, int]:
        asked = failed = 0
        while not ended:
            user = f"user-{(asked * _CLIENTS + number) % _USERS}"
            body = {"model": "paced", "user": user, "max_tokens": 8, "stream": True}
            body["messages"] = [{"role": "user", "content": "Why is the sky blue?"}]
            answer = ask(Endpoint("127.0.0.1", EDGE_PORT), body=body)
            asked += 1
            failed += answer.status != 200 or not answer.body.rstrip().endswith(b"[DONE]")
        return asked, failed

    def load() -> list[tuple[int, int]]:
        with ThreadPoolExecutor(_CLIENTS) as pool:  # threads of a thread are in its namespace
            return list(pool.map(client, range(_CLIENTS)))

    with ThreadPoolExecutor(1) as background:
        loaded = background.submit(lambda: running.front.inside(load))
        began = time.monotonic()
        try:
            found = asyncio.run(_drive(running, database, name))
        finally:
            ended = True
        took = time.monotonic() - began
        counts = loaded.result()
    return found, sum(one for one, _ in counts), sum(one for _, one in counts), took


async def _drive(running: Mesh, database: Database, name: str) -> Rollout:
    rollouts, aliases = Rollouts(database), AliasStore(database)
    if ALIAS not in (await aliases.names()).models:
        await aliases.set(ALIAS, "paced", "bench")
    version = await rollouts.register(ALIAS, NewVersion(name), "bench")
    started = await rollouts.start(version.id, "bench", steps=_STEPS, ungated="a benchmark")

    async def scrape(side: Literal["current", "candidate"]) -> dict[str, Figures]:
        found: dict[str, Figures] = {}
        for node in running.nodes:
            if node.release == side and node.replica is not None:
                text = await asyncio.to_thread(node.machine.inside, _metrics)
                found[f"{node.name}-{node.replica.pid}"] = parse_figures(text)
        return found

    async def shift(share: float, rollout: str) -> None:
        replicas = running.traffic(0).replicas
        await asyncio.to_thread(running.set, Traffic(replicas, share, rollout))

    pilot = Pilot(ALIAS, rollouts, _GATES, scrape, shift, current="paced", by="fleet")
    until = time.monotonic() + _MOST_S
    while time.monotonic() < until:
        await pilot.tick()
        found = (await rollouts.registry.story(ALIAS)).rollouts[started.id]
        if found.state != "canary":
            await pilot.tick()  # the share of before
            return found
        await asyncio.sleep(0.5)
    return await rollouts.abort(ALIAS, "bench", "it takes too long")


def _metrics() -> str:
    return ask(Endpoint("127.0.0.1", REPLICA_PORT), "/metrics").body.decode()


def _later(running: Mesh) -> int:
    """Returns the requests that reach the candidate after the abort, of forty users."""
    before = running.stat("cluster.candidate.upstream_rq_total")

    def send() -> None:
        for user in range(_USERS):
            message = {"role": "user", "content": "Why?"}
            body = {"model": "paced", "user": f"user-{user}", "max_tokens": 1, "messages": [message]}
            ask(Endpoint("127.0.0.1", EDGE_PORT), body=body)

    running.front.inside(send)
    return running.stat("cluster.candidate.upstream_rq_total") - before
