"""`deepwell bench fleet-ray`: a batch and a deduplication on a cluster of two nodes that loses processes and a node."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell.fleet.ray.cluster import import_ray
from deepwell_bench.suites.fleet.ray.nodes import Nodes, kept_pieces, run_verb, two_nodes
from deepwell_bench.workloads.tuning.duplicates import bbc_documents, short_records

__all__ = ["bench_fleet_ray"]

_TOKENS = 4  # of an answer


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
        with two_nodes(folder) as nodes:
            batch = _batch(report, questions, lines, nodes)
            dedup = _dedup(report, data, records, nodes)
            lost = nodes.lost
    return {**batch, **dedup, "nodes_killed": lost}


def _batch(report: Report, source: Path, lines: int, nodes: Nodes) -> dict[str, Any]:
    alone, spread = source.with_name("alone.jsonl"), source.with_name("spread.jsonl")
    command = ["batch", str(source), "--threads", "1", "--json", "--piece", "20"]
    local = run_verb([*command, "-o", str(alone)], nodes.environment)
    pieces = -(-lines // 20)
    there = [*command, "-o", str(spread), "--on", "ray"]
    run_verb(there, nodes.environment, stop_at=(kept_pieces(spread), pieces // 10))
    killed = 0

    def worker() -> None:
        nonlocal killed
        killed += nodes.kill_worker()

    far = run_verb(
        there,
        nodes.environment,
        faults=[
            (kept_pieces(spread), pieces // 3, worker),
            (kept_pieces(spread), 2 * pieces // 3, nodes.kill_node),
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


def _dedup(report: Report, source: Path, records: int, nodes: Nodes) -> dict[str, Any]:
    nodes.grow()
    alone, spread = source.with_name("kept.jsonl"), source.with_name("kept-there.jsonl")
    command = ["data", "dedup", str(source), "--json"]
    local = run_verb([*command, "-o", str(alone)], nodes.environment)
    killed = 0

    def worker() -> None:
        nonlocal killed
        killed += nodes.kill_worker()

    far = run_verb(
        [*command, "-o", str(spread), "--on", "ray"],
        nodes.environment,
        faults=[(kept_pieces(spread), 10, worker), (kept_pieces(spread), 25, nodes.kill_node)],
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
