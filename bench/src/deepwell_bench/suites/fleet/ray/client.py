"""`deepwell bench fleet-ray-client`: three works by Ray's client on a cluster that wants a token, each against one process."""

from __future__ import annotations

import json
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.fleet.ray.nodes import Nodes, Told, kept_pieces, run_verb, surroundings, two_nodes
from deepwell_bench.workloads.tuning.duplicates import bbc_documents, short_records

__all__ = ["bench_fleet_ray_client"]

_PROMPTS = 96
_FILES = 40
_REFUSED_S = 60


def bench_fleet_ray_client(report: Report, *, records: int = 2500) -> dict[str, Any]:
    """Compares three works of a machine that is no part of a cluster of two nodes with the same works in one process.

    The cluster wants a token. In each work a process that computes a piece is killed; the evaluation's own process is killed,
    too, and the verb repeated. A machine with a wrong token, and one without, are to be told so.

    Raises:
        MissingDependency: Ray is not installed.
        PeerError: a verb fails.
    """
    token = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="deepwell-ray-") as name:
        folder = Path(name)
        with two_nodes(folder, token=token) as nodes:
            held = folder / "token"
            held.write_text(token)
            nodes.environment |= {"RAY_ADDRESS": None, "RAY_AUTH_TOKEN_PATH": str(held)}
            refused = _refused(folder, nodes)
            parts = [_evaluation(folder, nodes), _meaning(folder, nodes, records), _knowledge(folder, nodes)]
    rows: list[list[str]] = []
    value: dict[str, Any] = dict(refused)
    for work, here, there, equal, killed in parts:
        value |= {
            f"{work}_equal": equal,
            f"{work}_retried": there.said["pieces_retried"],
            f"{work}_workers_killed": killed,
            f"{work}_local_s": here.seconds,
            f"{work}_cluster_s": there.seconds,
        }
        retried = str(there.said["pieces_retried"])
        rows.append(
            [
                work,
                f"{here.seconds:.1f}",
                f"{there.seconds:.1f}",
                str(there.said["pieces"]),
                retried,
                str(equal),
            ]
        )
    value["evaluation_kept_of_killed_run"] = parts[0][2].said["pieces_kept"]
    report.table(
        "One process, and Ray's client on two nodes that want a token and lose a worker",
        ["work", "here s", "cluster s", "pieces", "again", "equal"],
        rows,
    )
    return value


def _place(nodes: Nodes) -> list[str]:
    return ["--on", f"ray://127.0.0.1:{nodes.client_port}", "--json"]


def _refused(folder: Path, nodes: Nodes) -> dict[str, Any]:
    """Asks without a token, and with another one."""
    source = folder / "one.jsonl"
    source.write_text('{"text": "one"}\n')
    command = ["data", "dedup", str(source), "-o", str(folder / "none.jsonl"), *_place(nodes)]
    begin = time.perf_counter()
    without = _error(command, {**nodes.environment, "RAY_AUTH_TOKEN_PATH": str(folder / "nothing")})
    other = _error(command, {**nodes.environment, "RAY_AUTH_TOKEN": "another"})
    return {
        "told_without_token": "wants its token" in without,
        "told_wrong_token": "refuses the token" in other,
        "told_s": round(time.perf_counter() - begin, 1),
    }


def _error(command: list[str], environment: Mapping[str, str | None]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "deepwell", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=_REFUSED_S,
        env=surroundings(environment),
    )
    if not done.returncode:
        raise PeerError("a cluster that wants a token took work without it")
    return done.stdout + done.stderr


def _evaluation(folder: Path, nodes: Nodes) -> tuple[str, Told, Told, bool, int]:
    prompts, text = folder / "prompts.txt", folder / "text.txt"
    prompts.write_text("".join(f"Name something with {number} of it.\n" for number in range(_PROMPTS)))
    text.write_text("\n\n".join(bbc_documents()[:12]), encoding="utf-8")
    command = [
        "evaluate",
        "run",
        "smollm2",
        "--prompts",
        str(prompts),
        "--text",
        str(text),
        "--context",
        "512",
    ]
    near, far = folder / "evaluated", folder / "evaluated-there"
    here = run_verb([*command, "--threads", "1", "--output", str(near), "--json"], nodes.environment)
    spread = [*command, "--output", str(far), *_place(nodes)]
    run_verb(spread, nodes.environment, stop_at=(kept_pieces(far), 2))
    killed = [0]
    there = run_verb(spread, nodes.environment, faults=[(kept_pieces(far), 3, lambda: _kill(nodes, killed))])
    equal = (near / "samples.jsonl").read_bytes() == (far / "samples.jsonl").read_bytes()
    return "evaluation", here, there, equal and _metrics(near) == _metrics(far), killed[0]


def _metrics(folder: Path) -> Any:
    models = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["models"]
    return {name: one["metrics"] for name, one in models.items()}


def _meaning(folder: Path, nodes: Nodes, records: int) -> tuple[str, Told, Told, bool, int]:
    source = folder / "records.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for text, _ in short_records(bbc_documents(), records):
            file.write(json.dumps({"text": text}) + "\n")
    near, far = folder / "meaning.jsonl", folder / "meaning-there.jsonl"
    command = ["data", "dedup", str(source), "--semantic"]
    here = run_verb([*command, "-o", str(near), "--json"], nodes.environment)
    killed = [0]
    # The vectors come after the sketches, of which there are two pieces.
    fault = (kept_pieces(far), 4, lambda: _kill(nodes, killed))
    there = run_verb([*command, "-o", str(far), *_place(nodes)], nodes.environment, faults=[fault])
    removed = [one.with_name(f"{one.name}.removed.jsonl").read_bytes() for one in (near, far)]
    equal = near.read_bytes() == far.read_bytes() and removed[0] == removed[1]
    return "meaning", here, there, equal, killed[0]


def _knowledge(folder: Path, nodes: Nodes) -> tuple[str, Told, Told, bool, int]:
    documents = folder / "documents"
    documents.mkdir()
    for number, text in enumerate(bbc_documents()[: _FILES * 4]):
        with (documents / f"{number % _FILES}.txt").open("a", encoding="utf-8") as file:
            file.write(text + "\n\n")
    command = ["knowledge", "add", "news", str(documents), "--create"]
    homes = [folder / "knowledge", folder / "knowledge-there"]
    own = [{**nodes.environment, "DEEPWELL_DATA_DIR": str(home)} for home in homes]
    here = run_verb([*command, "--json"], own[0])
    killed = [0]
    there = run_verb(
        [*command, *_place(nodes)], own[1], faults=[(lambda: 0, 0, lambda: _kill(nodes, killed))]
    )
    return "knowledge", here, there, _vectors(homes[0]) == _vectors(homes[1]) != [], killed[0]


def _vectors(home: Path) -> list[Any]:
    with sqlite3.connect(home / "deepwell.db") as connection:
        return connection.execute("SELECT digest, vector FROM embeddings ORDER BY digest").fetchall()


def _kill(nodes: Nodes, killed: list[int]) -> None:
    killed[0] += nodes.kill_worker()
