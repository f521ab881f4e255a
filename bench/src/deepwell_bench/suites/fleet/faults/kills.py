"""Kills under load: replicas and the front of grade 1, while conversations, a batch and stored responses go on."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report, rounded
from deepwell.fleet.deploy.declaration import Grade
from deepwell.fleet.front.routes import SLOTS
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.fleet.faults.work import BATCH_S, begin_batch, finished, store
from deepwell_bench.suites.fleet.running import Fleet, running_fleet

__all__ = ["bench_faults"]

_WAY = (40, 30, 12)
_LINES = 60


def bench_faults(
    report: Report,
    model: Path,
    *,
    grade: Grade = "machine",
    rate: float = 30.0,
    kills: int = 3,
    lines: int = _LINES,
) -> dict[str, Any]:
    """Kills replicas with SIGKILL one after the other, and then the front, and looks for what was lost.

    A request that had no token yet has to be answered by another replica. A stream that had begun ends without its end mark
    and with a broken body, which no client takes for a whole answer. While the front is started again its port is closed.
    In containers PostgreSQL and Valkey are killed as well.
    """
    value: dict[str, Any] = {}
    with running_fleet(model, {"v1": _WAY}, replicas=2, grade=grade) as fleet, _client(fleet) as http:
        stored = [store(http, number) for number in range(20)]
        batch = begin_batch(http, lines)
        load, _ = fleet.talk(120.0, lambda: _kill_replicas(fleet, kills), rate=rate, turns=3)
        how = Counter(str(one["how"]) for one in load.results)
        value["replica_kills"] = kills
        value["requests"] = len(load.results)
        value["failed_before_a_token"] = sum(one["first_ms"] is None for one in load.failed)
        value["streams_cut"] = how["cut"] + how["typed"]
        value["streams_that_look_whole"] = how["short"]
        front, _ = fleet.talk(60.0, lambda: _kill_front(fleet), rate=rate, turns=3)
        fronts = Counter(str(one["how"]) for one in front.results)
        closed = [one["due"] for one in front.failed if one["how"] in ("refused", "closed", "reset")]
        value["front_closed_s"] = rounded(max(closed) - min(closed), 2) if closed else 0.0
        value["front_refused"] = len(closed)
        value["front_streams_cut"] = fronts["cut"] + fronts["typed"]
        value["front_short"] = fronts["short"]
        if grade == "containers":
            state, _ = fleet.talk(90.0, lambda: _kill_state(fleet, http, stored[0]), rate=rate, turns=3)
            value["state_requests"] = len(state.results)
            value["state_failed"] = len(state.failed)
            value["state_streams_that_look_whole"] = Counter(str(one["how"]) for one in state.results)[
                "short"
            ]
        value["batch_lines_lost"] = lines - finished(http, batch)
        value["stored_lost"] = sum(http.get(f"/v1/responses/{one}").status_code != 200 for one in stored)
    value["lost"] = value["batch_lines_lost"] + value["stored_lost"]
    report.table(
        f"SIGKILL in the grade {grade}",
        ["figure", "value"],
        [[name, str(one)] for name, one in value.items()],
    )
    return value


def _client(fleet: Fleet) -> httpx.Client:
    headers = {"authorization": f"Bearer {fleet.key}"} if fleet.key else {}
    return httpx.Client(
        base_url=f"http://127.0.0.1:{fleet.port}", headers=headers, trust_env=False, timeout=60
    )


def _replicas(fleet: Fleet) -> list[int]:
    """Returns the processes of the replicas that run."""
    if fleet.grade == "machine":
        return fleet.replica_pids
    return [pid for name, pid in fleet.container_pids().items() if name.startswith(SLOTS)]


def _kill_state(fleet: Fleet, http: httpx.Client, stored: str) -> None:
    """Kills PostgreSQL and then Valkey, each of which has to come back by itself.

    Raises:
        PeerError: it does not.
    """
    for name in ("postgres", "valkey"):
        time.sleep(2)
        before = fleet.container_pids()[name]
        os.kill(before, signal.SIGKILL)
        until = time.monotonic() + BATCH_S
        while fleet.container_pids().get(name, before) == before:
            if time.monotonic() > until:
                raise PeerError(f"{name} does not come back")
            time.sleep(0.2)
        while http.get(f"/v1/responses/{stored}").status_code != httpx.codes.OK:
            if time.monotonic() > until:
                raise PeerError(f"stored responses cannot be read after {name} was killed")
            time.sleep(0.2)


def _kill_replicas(fleet: Fleet, kills: int) -> None:
    for number in range(kills):
        time.sleep(2)
        pids = _replicas(fleet)
        os.kill(pids[number % len(pids)], signal.SIGKILL)
        time.sleep(1)
        fleet.until(
            lambda facts: all(one["state"] == "ready" for slot in facts["slots"] for one in slot["replicas"])
        )


def _kill_front(fleet: Fleet) -> None:
    time.sleep(2)
    before = fleet.facts["front"]
    os.kill(fleet.front_pid, signal.SIGKILL)
    fleet.until(
        lambda facts: facts["front"]["restarts"] > before["restarts"] and facts["front"]["state"] == "ready"
    )
    time.sleep(2)
