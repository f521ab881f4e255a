"""`deepwell bench fleet-switch-mesh`: releases that are switched in a mesh of real Envoys while requests come."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.machine import cpu_seconds
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.fleet.deploy.mesh import Endpoint, Release
from deepwell.storage.database import LOCAL
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.open_loop import load_client, run_load
from deepwell_bench.suites.fleet.envoys import EDGE_PORT, Mesh, mesh, paced_replica
from deepwell_bench.suites.fleet.load import Busy
from deepwell_bench.suites.fleet.mesh_abort import bad_versions

__all__ = ["bench_fleet_switch_mesh"]

STEPS: Final = (0.05, 0.25, 0.5, 0.75, 1.0)
USERS: Final = 40
FIRST_MS, TOKEN_MS, TOKENS = 50.0, 10.0, 8


def bench_fleet_switch_mesh(
    report: Report, model: Path, *, rate: float = 100.0, hold: float = 4.0
) -> dict[str, Any]:
    """Switches all users to another release and back, then steps them over in five shares, and takes the old one away.

    Forty clients with a user each send their part of the load all the while. After each change the requests that a release
    gets are compared with those of the users whose bucket lies below the share. Then a slow, a failing and an unsafe version
    are rolled out by the ledger's steps, which have to end them.

    Args:
        model: file whose tokenizer the paced engine has.
        rate: requests a second of all users.
        hold: seconds for which each share is held.

    Raises:
        PeerError: namespaces, openssl, Envoy or a C compiler are missing.
    """
    with tempfile.TemporaryDirectory(prefix="dw-switch-") as folder:
        replica = paced_replica(model, Path(folder), FIRST_MS, TOKEN_MS, TOKENS)
        with mesh(Path(folder), replica, current=2, candidate=2) as running:
            value = _switch(running, report, Path(folder), rate, hold)
        bad = Path(folder) / "bad"
        bad.mkdir()
        value |= bad_versions(report, model, bad)
    report.table("Switch", ("figure", "value"), [(name, str(one)) for name, one in value.items()])
    return value


def _switch(running: Mesh, report: Report, folder: Path, rate: float, hold: float) -> dict[str, Any]:
    nodes: dict[Release, list[Endpoint]] = {"current": [], "candidate": []}
    for node in running.nodes:
        nodes[node.release].append(node.endpoint)
    client = load_client()
    files = [_body(folder, user) for user in range(USERS)]
    seconds = (len(STEPS) + 7) * (hold + 0.5)

    def load(duration: float) -> list[tuple[list[float], int]]:
        def one(file: Path) -> tuple[list[float], int]:
            return run_load(client, EDGE_PORT, rate / USERS, duration, file)

        with ThreadPoolExecutor(USERS) as pool:  # threads of a thread are in its namespace
            return list(pool.map(one, files))

    running.front.inside(lambda: load(2))
    proxies = [one.sidecar.pid for one in running.nodes if one.sidecar] + [
        running.envoy.pid if running.envoy else 0
    ]
    busy, before, clients = Busy(), cpu_seconds(proxies), resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    rows: list[tuple[str, int, str]] = []
    with ThreadPoolExecutor(1) as background:
        loaded = background.submit(lambda: running.front.inside(lambda: load(seconds)))
        time.sleep(hold)
        for name, share in [("to all", 1.0), ("back", 0.0), *((f"{one:.0%}", one) for one in STEPS)]:
            running.set(running.traffic(share, nodes))
            rows.append((name, *_came(running, share, rate, hold)))
        # The old release leaves: nothing new reaches it, and it ends when its streams have.
        running.set(running.traffic(1, {"candidate": nodes["candidate"]}))
        time.sleep(hold)
        for node in running.nodes:
            if node.release == "current" and node.replica is not None:
                node.machine.stop(node.replica)
                node.replica = None
        if time.monotonic() - begun > seconds:
            raise PeerError(
                "the switch took longer than the load", fix="quiet the machine, or give --hold more"
            )
        answers = loaded.result()
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    times = [one for came, _ in answers for one in came]
    report.table(
        "Requests of the candidate while a share is held", ("share", "came", "users below it ask for"), rows
    )
    return {
        "requests": round(rate / USERS * seconds) * USERS,
        "failed_or_cut": sum(failed for _, failed in answers),
        "changes": len(rows) + 1,
        "changes_with_other_traffic": sum(
            not low <= came <= high for _, came, text in rows for low, high in [_ends(text)]
        ),
        "first_token_p50_ms": rounded(percentile(times, 0.5)),
        "first_token_p99_ms": rounded(percentile(times, 0.99)),
        "client_cpu": rounded(
            (after.ru_utime + after.ru_stime - clients.ru_utime - clients.ru_stime) / wall, 3
        ),
        "proxy_cpu": rounded((cpu_seconds(proxies) - before) / wall, 3),
        "cpu_busy": rounded(busy.share(), 3),
    }


def _body(folder: Path, user: int) -> Path:
    file = folder / f"body-{user}"
    message = {"role": "user", "content": "Why is the sky blue? Answer in one sentence."}
    request = {
        "model": "paced",
        "messages": [message],
        "user": f"user-{user}",
        "max_tokens": TOKENS,
        "stream": True,
    }
    file.write_text(json.dumps(request), encoding="utf-8")
    return file


def _came(running: Mesh, share: float, rate: float, hold: float) -> tuple[int, str]:
    """Returns the requests that the candidate got in a hold, and the number that its users send, give or take a tenth."""
    before, begun = running.stat("cluster.candidate.upstream_rq_total"), time.monotonic()
    time.sleep(hold)
    came, took = running.stat("cluster.candidate.upstream_rq_total") - before, time.monotonic() - begun
    below = sum(takes_candidate("", share, LOCAL, identity_of(f"user-{user}", "")) for user in range(USERS))
    expected = below * rate / USERS * took
    slack = 0.1 * expected + below
    return came, f"{expected - slack:.0f} to {expected + slack:.0f}"


def _ends(text: str) -> tuple[int, int]:
    low, _, high = text.partition(" to ")
    return int(low), int(high)
