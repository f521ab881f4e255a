"""Kills under load: replicas and the front of grade 1, while conversations, a batch and stored responses go on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.suites.fleet.running import ALIAS, Fleet, running_fleet

__all__ = ["bench_faults_machine"]

_WAY = (40, 30, 12)
_LINES = 60
_BATCH_S = 120.0


def bench_faults_machine(
    report: Report, model: Path, *, rate: float = 30.0, kills: int = 3, lines: int = _LINES
) -> dict[str, Any]:
    """Kills replicas with SIGKILL one after the other, and then the front, and looks for what was lost.

    A request that had no token yet has to be answered by another replica. A stream that had begun ends without its end mark
    and with a broken body, which no client takes for a whole answer. While the front is started again its port is closed.
    """
    value: dict[str, Any] = {}
    with running_fleet(model, {"v1": _WAY}, replicas=2) as fleet:
        base = f"http://127.0.0.1:{fleet.port}"
        with httpx.Client(base_url=base, trust_env=False, timeout=60) as http:
            stored = [_store(http, number) for number in range(20)]
            batch = _begin_batch(http, lines)
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
            value["batch_lines_lost"] = lines - _finished(http, batch)
            value["stored_lost"] = sum(http.get(f"/v1/responses/{one}").status_code != 200 for one in stored)
    value["lost"] = value["batch_lines_lost"] + value["stored_lost"]
    report.table("SIGKILL in grade 1", ["figure", "value"], [[name, str(one)] for name, one in value.items()])
    return value


def _kill_replicas(fleet: Fleet, kills: int) -> None:
    for number in range(kills):
        time.sleep(2)
        pids = fleet.replica_pids
        os.kill(pids[number % len(pids)], signal.SIGKILL)
        time.sleep(1)
        fleet.until(
            lambda facts: all(one["state"] == "ready" for slot in facts["slots"] for one in slot["replicas"])
        )


def _kill_front(fleet: Fleet) -> None:
    time.sleep(2)
    before = fleet.facts["front"]
    os.kill(before["pid"], signal.SIGKILL)
    fleet.until(
        lambda facts: facts["front"]["restarts"] > before["restarts"] and facts["front"]["state"] == "ready"
    )
    time.sleep(2)


def _store(http: httpx.Client, number: int) -> str:
    body = {
        "model": ALIAS,
        "input": f"Remember {number}",
        "max_output_tokens": 16,
        "store": True,
        "user": f"u{number}",
    }
    answer = http.post("/v1/responses", json=body)
    answer.raise_for_status()
    return str(answer.json()["id"])


def _begin_batch(http: httpx.Client, lines: int) -> str:
    """Returns the id of a batch of chats."""
    asked = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": ALIAS,
                "messages": [{"role": "user", "content": f"Line {number}"}],
                "max_tokens": 8,
            },
        }
        for number in range(lines)
    ]
    text = "\n".join(json.dumps(one) for one in asked)
    file = http.post("/v1/files", files={"file": ("lines.jsonl", text)}, data={"purpose": "batch"})
    file.raise_for_status()
    body = {
        "input_file_id": file.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch = http.post("/v1/batches", json=body)
    batch.raise_for_status()
    return str(batch.json()["id"])


def _finished(http: httpx.Client, batch: str) -> int:
    """Waits for a batch, and returns how many lines were answered, each once."""
    until = time.monotonic() + _BATCH_S
    while time.monotonic() < until:
        found = http.get(f"/v1/batches/{batch}").json()
        if found["status"] == "completed":
            text = http.get(f"/v1/files/{found['output_file_id']}/content").text
            ids = [json.loads(line)["custom_id"] for line in text.splitlines()]
            return len(set(ids)) if len(set(ids)) == len(ids) else 0
        time.sleep(0.5)
    return 0
