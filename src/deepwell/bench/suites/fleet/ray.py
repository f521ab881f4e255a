"""`deepwell bench fleet-ray`: a batch and a deduplication on a cluster of two nodes that loses processes and a node."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepwell.bench.harness.environments import PeerError
from deepwell.bench.harness.report import Report
from deepwell.bench.suites.fleet.ray_serve import measure_serve
from deepwell.bench.workloads.tuning.duplicates import bbc_documents, short_records
from deepwell.fleet.ray.cluster import import_ray

__all__ = ["bench_fleet_ray", "bench_fleet_ray_serve"]

_LOOK_S = 0.02
_LIMIT_S = 420
_WORKER_S = 10  # in which a process begins with the next piece
_STORE_BYTES = 256 << 20  # Ray's object store of each node
_TOKENS = 4  # of an answer


@dataclass(slots=True)
class _Nodes:
    """A head and one further node of a processor each, as processes of this machine."""

    cluster: Any
    lost: int = 0
    other: Any = None
    environment: dict[str, str] = field(default_factory=dict[str, str])

    def grow(self) -> None:
        """Adds the second node."""
        self.other = self.cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
        self.cluster.wait_for_nodes()

    def kill_node(self) -> None:
        """Ends the second node and all its processes by SIGKILL."""
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.lost += 1

    def kill_worker(self) -> int:
        """Ends one process that computes a piece by SIGKILL, as soon as there is one; returns how many that were."""
        until = time.monotonic() + _WORKER_S
        while time.monotonic() < until:
            for pid, name in _processes():
                if name.startswith("ray::run_piece"):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        return 1
            time.sleep(_LOOK_S / 10)
        return 0


@dataclass(frozen=True, slots=True)
class _Told:
    """The output of a verb, and the seconds that it took."""

    said: dict[str, Any]
    seconds: float


def bench_fleet_ray(report: Report, *, lines: int = 2000, records: int = 100_000) -> dict[str, Any]:
    """Compares a batch and a deduplication on a cluster that loses things with the same work in one process.

    In each work on the cluster, a process that computes a piece is killed at about a third, and a node at about two thirds. The
    batch's own process is killed at about a tenth, and the verb repeated.

    Raises:
        MissingDependency: Ray is not installed.
        PeerError: a verb fails.
    """
    import_ray()
    with tempfile.TemporaryDirectory(prefix="deepwell-ray-") as name:
        folder = Path(name)
        questions, data = folder / "questions.jsonl", folder / "data.jsonl"
        _write_questions(questions, lines)
        _write_records(data, records)
        with _two_nodes(folder) as nodes:
            batch = _batch(report, questions, lines, nodes)
            dedup = _dedup(report, data, records, nodes)
            lost = nodes.lost
    return {**batch, **dedup, "nodes_killed": lost}


def bench_fleet_ray_serve(report: Report) -> dict[str, Any]:
    """Measures the first token through Ray Serve against the server alone, and the replicas under load, on two nodes.

    Raises:
        MissingDependency: Ray is not installed.
        PeerError: a server does not start.
    """
    import_ray()
    with tempfile.TemporaryDirectory(prefix="deepwell-ray-") as name, _two_nodes(Path(name)) as nodes:
        return measure_serve(report, nodes.environment, Path(name))


def _batch(report: Report, source: Path, lines: int, nodes: _Nodes) -> dict[str, Any]:
    alone, spread = source.with_name("alone.jsonl"), source.with_name("spread.jsonl")
    command = ["batch", str(source), "--threads", "1", "--json", "--piece", "20"]
    local = _run([*command, "-o", str(alone)], nodes.environment)
    pieces = -(-lines // 20)
    there = [*command, "-o", str(spread), "--on", "ray"]
    _run(there, nodes.environment, stop_at=(_kept_pieces(spread), pieces // 10))
    killed = 0

    def worker() -> None:
        nonlocal killed
        killed += nodes.kill_worker()

    far = _run(
        there,
        nodes.environment,
        faults=[
            (_kept_pieces(spread), pieces // 3, worker),
            (_kept_pieces(spread), 2 * pieces // 3, nodes.kill_node),
        ],
    )
    numbers = [int(json.loads(line)["custom_id"]) for line in spread.open(encoding="utf-8")]
    value = {
        "batch_lines": len(numbers),
        "batch_lost": lines - len(set(numbers)),
        "batch_equal": alone.read_bytes() == spread.read_bytes(),
        "batch_failed": far.said["failed"],
        "batch_kept_of_killed_run": far.said["pieces_kept"],
        "batch_retried": far.said["pieces_retried"],
        "batch_workers_killed": killed,
        "batch_machines": far.said["machines"],
        "batch_local_s": local.seconds,
        "batch_cluster_s": far.seconds,
    }
    report.table(
        f"A batch of {lines} lines ({_TOKENS} tokens each): one process, and two nodes that lose a worker and a node",
        ["where", "s", "pieces kept", "pieces again"],
        [
            ["here", f"{local.seconds:.1f}", "0", "0"],
            ["cluster", f"{far.seconds:.1f}", str(far.said["pieces_kept"]), str(far.said["pieces_retried"])],
        ],
    )
    return value


def _dedup(report: Report, source: Path, records: int, nodes: _Nodes) -> dict[str, Any]:
    nodes.grow()
    alone, spread = source.with_name("kept.jsonl"), source.with_name("kept-there.jsonl")
    command = ["data", "dedup", str(source), "--json"]
    local = _run([*command, "-o", str(alone)], nodes.environment)
    killed = 0

    def worker() -> None:
        nonlocal killed
        killed += nodes.kill_worker()

    far = _run(
        [*command, "-o", str(spread), "--on", "ray"],
        nodes.environment,
        faults=[(_kept_pieces(spread), 10, worker), (_kept_pieces(spread), 25, nodes.kill_node)],
    )
    removed = [one.with_name(f"{one.name}.removed.jsonl").read_bytes() for one in (alone, spread)]
    value = {
        "dedup_records": far.said["read"],
        "dedup_dropped": far.said["dropped"],
        "dedup_equal": alone.read_bytes() == spread.read_bytes() and removed[0] == removed[1],
        "dedup_retried": far.said["pieces_retried"],
        "dedup_workers_killed": killed,
        "dedup_local_s": local.seconds,
        "dedup_cluster_s": far.seconds,
    }
    report.table(
        f"Near-duplicates of {records:,} records: one process, and two nodes that lose a worker and a node",
        ["where", "s", "dropped", "pieces again"],
        [
            ["here", f"{local.seconds:.1f}", f"{local.said['dropped']:,}", "0"],
            [
                "cluster",
                f"{far.seconds:.1f}",
                f"{far.said['dropped']:,}",
                str(far.said["pieces_retried"]),
            ],
        ],
    )
    return value


@contextmanager
def _two_nodes(folder: Path) -> Iterator[_Nodes]:
    """Starts a head and a second node, whose processes keep their data in a folder of the benchmark."""
    from ray.cluster_utils import Cluster

    own = {"DEEPWELL_DATA_DIR": str(folder / "data"), "DEEPWELL_STATE_DIR": str(folder / "state")}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)  # what Ray starts inherits it
    made: Any = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": _STORE_BYTES},
    )
    try:
        nodes = _Nodes(made)
        nodes.environment = {"RAY_ADDRESS": str(made.address), "OMP_NUM_THREADS": "1"}
        nodes.grow()
        yield nodes
    finally:
        made.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run(
    arguments: Sequence[str],
    environment: dict[str, str],
    *,
    faults: Sequence[tuple[Callable[[], int], int, Callable[[], None]]] = (),
    stop_at: tuple[Callable[[], int], int] | None = None,
) -> _Told:
    """Runs a verb, and does to the cluster what is due at so many finished pieces. With `stop_at`, the verb is killed.

    Raises:
        PeerError: it fails, or takes too long.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "deepwell", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    waiting = list(faults)
    while process.poll() is None:
        if stop_at is not None and stop_at[0]() >= stop_at[1]:
            process.kill()
            process.communicate()
            return _Told({}, time.perf_counter() - begin)
        if waiting and waiting[0][0]() >= waiting[0][1]:
            waiting.pop(0)[2]()
        if time.perf_counter() - begin > _LIMIT_S:
            process.kill()
            raise PeerError(f"deepwell {arguments[0]} takes more than {_LIMIT_S} s")
        time.sleep(_LOOK_S)
    said, errors = process.communicate()
    if process.returncode:
        raise PeerError(f"deepwell {arguments[0]} failed: {(errors or said)[-500:]}")
    if waiting:
        raise PeerError(f"deepwell {arguments[0]} ended before {len(waiting)} faults were due")
    return _Told(json.loads(said.splitlines()[-1]), round(time.perf_counter() - begin, 1))


def _kept_pieces(output: Path) -> Callable[[], int]:
    folder = output.with_name(f"{output.name}.pieces")

    def count() -> int:
        try:
            return sum(1 for path in folder.iterdir() if path.suffix == ".piece")
        except FileNotFoundError:
            return 0

    return count


def _processes() -> Iterator[tuple[int, str]]:
    """Yields the processes of this machine with the names that they gave themselves."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                yield int(path.name), path.joinpath("cmdline").read_bytes().decode(errors="replace")


def _write_questions(path: Path, lines: int) -> None:
    rows = (
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "smollm2",
                "messages": [{"role": "user", "content": f"Name something with {number} of it."}],
                "max_tokens": _TOKENS,
            },
        }
        for number in range(lines)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_records(path: Path, records: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for text, _ in short_records(bbc_documents(), records):
            file.write(json.dumps({"text": text}) + "\n")
