"""`deepwell bench fleet-faults-mesh`: Envoys that are killed, and a machine that the network loses, while requests come."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.postgres import NAME, Postgres
from deepwell_bench.suites.fleet.envoys import EDGE_PORT, Mesh, Node, mesh
from deepwell_bench.suites.fleet.faults.servers import LEASE_S, WAY
from deepwell_bench.suites.fleet.faults.work import Writers, begin_batch, begun, client, finished, missing
from deepwell_bench.suites.fleet.namespaces import NETWORK, Machine
from deepwell_bench.suites.fleet.running import ALIAS

__all__ = ["bench_faults_mesh"]

_LINES: Final = 40
_CUT_S: Final = 12.0
_REST_S: Final = 3.0
_PATIENCE_S: Final = 40.0
_POSTGRES_PORT: Final = 5432


def bench_faults_mesh(report: Report, model: Path, *, rate: float = 20.0) -> dict[str, Any]:
    """Kills a sidecar and the edge under a load, and takes a machine off the network while it has jobs.

    The two replicas share a PostgreSQL on a machine of its own, and a folder for files. The machine that is cut off closes no
    connection: what is sent to it vanishes. Whoever has its jobs then has to prove that its own answers come too late.

    Args:
        model: file whose tokenizer the paced engine has.
        rate: requests a second of the load.

    Raises:
        PeerError: namespaces, openssl, Envoy or PostgreSQL are missing.
    """
    with tempfile.TemporaryDirectory(prefix="dw-faults-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        store = Postgres(folder / "store")
        store.trust(f"{NETWORK}.0/24")
        command = _command(model, folder, f"postgresql://{NAME}@{NETWORK}.1/postgres")
        with mesh(folder, command, candidate=0, prepare=partial(_open, store)) as running:
            value = _sidecar(running, rate) | _edge(running, rate)
            value |= _cut_off(running, store, rate)
    report.table(
        "Faults of the mesh", ["figure", "value"], [[one, str(found)] for one, found in value.items()]
    )
    value["failed_before_a_token"] = value["sidecar_failed"] + value["cut_failed"]
    value["streams_that_look_whole"] = sum(value[f"{one}_short"] for one in ("sidecar", "edge", "cut"))
    return value


def _open(store: Postgres, machine: Machine) -> None:
    """Starts PostgreSQL on a machine; it ends there with the benchmark."""
    machine.start(store.command("listen_addresses=*"), log="postgres")

    def listens() -> bool:
        with socket.create_connection((machine.address, _POSTGRES_PORT), timeout=5):
            return True

    machine.wait("PostgreSQL", listens)


def _command(model: Path, folder: Path, url: str) -> Callable[[int, str], list[str | Path]]:
    """Returns the command of a replica by its port and name."""
    env = {
        "DEEPWELL_DATABASE_URL": url,
        "DEEPWELL_DATA_DIR": folder / "data",
        "DEEPWELL_RELEASE": f"{ALIAS}=v1",
        "DEEPWELL_JOB_LEASE_S": LEASE_S,
    }

    def made(port: int, name: str) -> list[str | Path]:
        told = {**env, "DEEPWELL_STATE_DIR": folder / f"state-{name}"}
        worker = ("-m", "deepwell_bench.workers.fleet.replica", model, str(port), *WAY)
        return ["env", *(f"{one}={value}" for one, value in told.items()), sys.executable, *worker]

    return made


def _sidecar(running: Mesh, rate: float) -> dict[str, Any]:
    """Kills the sidecar of a replica, whose process stays, and starts it again."""
    node = running.nodes[0]

    def fault() -> None:
        assert node.sidecar is not None
        node.machine.stop(node.sidecar, signal.SIGKILL)
        node.sidecar = None
        time.sleep(_REST_S)
        running.start_sidecar(node)
        running.healthy(len(running.nodes))

    return _told("sidecar", _talk(running, rate, fault))


def _edge(running: Mesh, rate: float) -> dict[str, Any]:
    """Kills the edge and starts it again; meanwhile its port is closed."""
    assert running.envoy is not None
    edge = running.envoy

    def fault() -> None:
        running.front.stop(edge, signal.SIGKILL)
        running.open()

    results = _talk(running, rate, fault)
    refused = [one["due"] for one in results if one["how"] in ("refused", "closed", "reset")]
    told = _told("edge", results)
    return {**told, "edge_closed_s": rounded(max(refused) - min(refused), 2) if refused else 0.0}


def _cut_off(running: Mesh, store: Postgres, rate: float) -> dict[str, Any]:
    """Takes the machine that works on a batch off the network, and brings it back when another one has the batch."""
    base = f"http://127.0.0.1:{EDGE_PORT}"
    found: dict[str, Any] = {}

    def work() -> None:
        with client(base) as asked, Writers([partial(client, base)]) as writers:
            if not writers.until(20):
                raise PeerError(f"nothing is written: {dict(writers.refused)}")
            batch = begin_batch(asked, _LINES)
            begun(asked, batch)
            node = _owner(running, store)
            node.machine.cut()
            time.sleep(_CUT_S)
            found["attempts"] = int(store.sql("SELECT max(attempts) FROM jobs WHERE kind = 'batch'") or 0)
            lines = finished(asked, batch)
            node.machine.join()
            running_logs = partial(node.machine.log, f"{node.name}-{running.nodes.index(node)}")
            found["late_refused"] = int(_says(running_logs, "was taken over by another server"))
            found["after"] = writers.until(20)
        with client(base) as asked:
            found["lost"] = len(missing(asked, writers.kept)) + _LINES - lines + (not found["after"])
        found["kept"], found["refused"] = len(writers.kept), sum(writers.refused.values()) + writers.broken

    def inside() -> None:
        running.front.inside(work)

    told = _told("cut", _talk(running, rate, inside))
    running.healthy(len(running.nodes))
    return {
        **told,
        "cut_acknowledged": found["kept"],
        "cut_refused": found["refused"],
        "cut_attempts": found["attempts"],
        "cut_late_refused": found["late_refused"],
        "lost": found["lost"],
    }


def _owner(running: Mesh, store: Postgres) -> Node:
    """Returns the replica that works on the batch.

    Raises:
        PeerError: none does.
    """
    owner = store.sql("SELECT owner FROM jobs WHERE kind = 'batch' AND status = 'running'")
    for node in running.nodes:
        if node.replica is not None and f"/{node.replica.pid}/" in owner:
            return node
    raise PeerError(f"no replica works on the batch: {owner!r}")


def _says(log: Callable[[], str], words: str) -> bool:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if words in log():
            return True
        time.sleep(0.1)
    return False


def _talk(running: Mesh, rate: float, during: Callable[[], None]) -> list[Mapping[str, Any]]:
    """Loads the edge, does something meanwhile, and returns a result for each request."""
    task = {"port": EDGE_PORT, "model": ALIAS, "seconds": 300, "rate": rate, "turns": 3}
    talkers = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            running.front.name,
            sys.executable,
            "-m",
            "deepwell_bench.workers.fleet.talkers",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert talkers.stdin is not None
    talkers.stdin.write(json.dumps(task))
    talkers.stdin.close()
    talkers.stdin = None
    try:
        time.sleep(_REST_S)
        during()
        time.sleep(_REST_S)
    finally:
        talkers.send_signal(signal.SIGTERM)
        out = talkers.communicate()[0]
    return json.loads(out)["results"]


def _told(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    how = Counter(str(one["how"]) for one in results)
    bad = [one for one in results if one["how"] != "whole" or one["status"] != HTTPStatus.OK]
    return {
        f"{name}_requests": len(results),
        f"{name}_failed": sum(one["first_ms"] is None for one in bad),
        f"{name}_cut": how["cut"] + how["typed"],
        f"{name}_short": how["short"],
        f"{name}_kinds": dict(how),
    }
