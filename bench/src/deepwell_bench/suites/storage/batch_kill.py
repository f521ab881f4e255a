"""A batch whose server is killed again and again: every line has to be answered exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import START_SECONDS, serve_command

__all__ = ["bench_batch_kill"]

_ENDPOINT = "/v1/chat/completions"
_LEASE_S = 1.0
_CONCURRENCY = 8
_LOOK_S = 0.02
_END_S = 300


class _Restarted:
    """A server over data that outlive it."""

    def __init__(self, command: Callable[[int], list[str]], folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._command = command(self.port)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self.starts_s: list[float] = []

    def start(self) -> None:
        """Starts it and waits for its answer.

        Raises:
            PeerError: it does not.
        """
        begin = time.monotonic()
        log = self._folder / "log"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "DEEPWELL_DATA_DIR": str(self._folder / "data"),
                    "DEEPWELL_STATE_DIR": str(self._folder / "state"),
                    "DEEPWELL_JOB_LEASE_S": str(_LEASE_S),
                    "DEEPWELL_BATCH_CONCURRENCY": str(_CONCURRENCY),
                },
            )
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() - begin > START_SECONDS:
                raise PeerError(f"the server did not start:\n{log.read_text(errors='replace')[-500:]}")
            time.sleep(_LOOK_S)
        self.starts_s.append(time.monotonic() - begin)

    def _answers(self) -> bool:
        try:
            return self.http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends the signal to the server's process, and waits for its end."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()

    def close(self) -> None:
        """Ends it as a user would."""
        self.kill(signal.SIGTERM)
        self.http.close()


def bench_batch_kill(
    report: Report, model: Path, *, lines: int = 500, kills: int = 20, seed: int = 6
) -> dict[str, Any]:
    """Kills `deepwell serve` at random moments of one batch, starts it again, and compares output and input at the end.

    Most kills come when a random number of further lines has ended, and at a random moment of the next tenth of a second; every
    fifth comes at a random moment of the first second of a server, when it finds the batch, or is about to.

    Raises:
        PeerError: a server does not start, or the batch does not end.
    """
    choose = random.Random(seed)  # noqa: S311
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="deepwell-batch-") as folder:
        server = _Restarted(serve_command(model), Path(folder))
        try:
            server.start()
            id = _begin(server.http, lines)
            ended: list[int] = []
            while len(ended) < kills and (before := _ended(server.http, id)) < lines:
                if len(ended) % 5 == 4:
                    time.sleep(choose.random())
                else:
                    most = max(3 * (lines - before) // (2 * (kills - len(ended) + 1)), 1)
                    _wait(server.http, id, min(before + choose.randint(1, most), lines - 1))
                    time.sleep(choose.random() / 10)
                ended.append(_ended(server.http, id))
                server.kill()
                server.start()
            counts = _wait(server.http, id, lines)
            seconds = time.monotonic() - begin
            numbers = _answered(server.http, id)
        finally:
            server.close()
    value = {
        "kills": len(ended),
        "lines": lines,
        "answered": len(numbers),
        "missing": len(set(range(lines)) - numbers.keys()),
        "duplicated": sum(count - 1 for count in numbers.values()),
        "failed": counts["failed"],
        "seconds": round(seconds, 1),
        "start_seconds": round(sorted(server.starts_s)[len(server.starts_s) // 2], 2),
        "lines_at_kills": ended,
        "lease_seconds": _LEASE_S,
    }
    report.table(
        f"A batch of {lines} lines under {len(ended)} SIGKILLs",
        ["kills", "lines", "missing", "twice", "failed", "seconds"],
        [[value[key] for key in ("kills", "lines", "missing", "duplicated", "failed", "seconds")]],
    )
    return value


def _begin(http: httpx.Client, lines: int) -> str:
    model = http.get("/v1/models").json()["data"][0]["id"]
    rows = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": _ENDPOINT,
            "body": {
                "model": model,
                "messages": [{"role": "user", "content": f"Name something with {number} of it."}],
                "max_tokens": 8,
                "temperature": 0,
            },
        }
        for number in range(lines)
    ]
    source = http.post(
        "/v1/files",
        data={"purpose": "batch"},
        files={"file": ("lines.jsonl", "\n".join(map(json.dumps, rows)).encode())},
    )
    source.raise_for_status()
    made = http.post(
        "/v1/batches",
        json={"input_file_id": source.json()["id"], "endpoint": _ENDPOINT, "completion_window": "24h"},
    )
    made.raise_for_status()
    return made.json()["id"]


def _batch(http: httpx.Client, id: str) -> dict[str, Any]:
    found = http.get(f"/v1/batches/{id}")
    found.raise_for_status()
    return found.json()


def _ended(http: httpx.Client, id: str) -> int:
    counts = _batch(http, id)["request_counts"]
    return counts["completed"] + counts["failed"]


def _wait(http: httpx.Client, id: str, lines: int) -> dict[str, int]:
    """Waits until so many lines have ended; returns the batch itself, where that is all of them."""
    limit = time.monotonic() + _END_S
    while time.monotonic() < limit:
        batch = _batch(http, id)
        counts = batch["request_counts"]
        ended = counts["completed"] + counts["failed"]
        if batch["status"] in ("failed", "cancelled", "expired"):
            raise PeerError(f"the batch is {batch['status']}: {batch['errors']}")
        if batch["status"] == "completed" or lines <= ended < counts["total"]:
            return counts
        time.sleep(_LOOK_S)
    raise PeerError(f"the batch does not reach {lines} lines within {_END_S} s", fix="see the server's log")


def _answered(http: httpx.Client, id: str) -> Counter[int]:
    """Counts how often each line is in the files."""
    batch = _batch(http, id)
    numbers: Counter[int] = Counter()
    for name in ("output_file_id", "error_file_id"):
        if batch[name] is not None:
            text = http.get(f"/v1/files/{batch[name]}/content").text
            numbers.update(int(json.loads(line)["custom_id"]) for line in text.splitlines())
    return numbers
