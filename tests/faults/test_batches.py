"""A server that is killed, or told to stop, in the middle of a batch: the next one ends it, every line once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from tests.parallel import free_port
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.waiting import until

from deepwell.engine.hosting.process import EngineProcess, ProcessEngine

ROOT = Path(__file__).parents[2]
LINES = 120
GATES = {
    "GATE-a": range(40, 80),
    "GATE-b": range(80, LINES),
}  # lines that are not begun before their gate is open
TEXT = "answered exactly once, whatever happens " * 4
PATIENCE_S = 120


class Servers:
    """One server after the other over the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = [str(self.folder), str(self.port), "0.3"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.batch_server", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        )
        until(lambda: answers(self.port))

    def stop(self, number: int) -> int:
        """Send the signal, and wait for the end; its status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)

    def open(self, *gates: str) -> None:
        """Let the lines behind the gates be answered. Until then no batch ends, however fast its server is."""
        for gate in gates:
            (self.folder / gate).touch()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
    except httpx.TransportError:
        return False


def put_to_sleep(process: subprocess.Popen[bytes], database: Path) -> None:
    """Stops a server between its writes. One that slept within a transaction would lock the file for all others."""
    with contextlib.closing(sqlite3.connect(database, timeout=0.2, isolation_level=None)) as probe:

        def sleeps() -> bool:
            process.send_signal(signal.SIGSTOP)
            try:
                probe.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)
                return False
            probe.execute("ROLLBACK")
            return True

        until(sleeps)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    running = Servers(tmp_path)
    running.start()
    yield running
    running.stop(signal.SIGKILL)


def text_of(number: int) -> str:
    gate = next((f"{name} " for name, lines in GATES.items() if number in lines), "")
    return f"{number} {gate}{TEXT}"


def begin(client: openai.OpenAI) -> str:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "toy",
                "messages": [{"role": "user", "content": text_of(number)}],
                "max_tokens": 5000 if number % 10 == 7 else 300,  # too many for the window: a failed line
            },
        }
        for number in range(LINES)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    source = client.files.create(file=("lines.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=source.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    return batch.id


def ended_lines(client: openai.OpenAI, id: str) -> int:
    counts = client.batches.retrieve(id).request_counts
    assert counts is not None
    return counts.completed + counts.failed


def check(client: openai.OpenAI, id: str) -> None:
    """Wait for the end: every line is in one of the files, once, with its own answer."""
    batch = until(lambda: (one := client.batches.retrieve(id)).status == "completed" and one)
    output, errors = (
        [json.loads(line) for line in client.files.content(file).text.splitlines()]
        for file in (batch.output_file_id, batch.error_file_id)
    )
    numbers = [int(one["custom_id"].removeprefix("line-")) for one in (*output, *errors)]
    assert sorted(numbers) == list(range(LINES))
    assert [number % 10 == 7 for number in numbers] == [False] * len(output) + [True] * len(errors)
    for number, one in zip(numbers, output, strict=False):
        content = one["response"]["body"]["choices"][0]["message"]["content"]
        assert content == text_of(number)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (LINES, len(output), len(errors))
    files = [one.id for one in client.files.list(purpose="batch_output")]
    assert sorted(files) == sorted([batch.output_file_id, batch.error_file_id])


def test_a_killed_server_leaves_no_line_out_and_none_twice(servers: Servers) -> None:
    choose = random.Random(6)
    most = GATES["GATE-b"].start
    id = begin(servers.client)
    servers.open("GATE-a")
    for _ in range(4):
        before = ended_lines(servers.client, id)
        target = min(before + choose.randrange(1, max((most - before) // 3, 2)), most)
        until(lambda target=target: ended_lines(servers.client, id) >= target)
        servers.stop(signal.SIGKILL)
        servers.start()
    assert ended_lines(servers.client, id) < LINES
    servers.open("GATE-b")
    check(servers.client, id)


def test_a_server_that_stops_gives_its_batch_back(servers: Servers) -> None:
    id = begin(servers.client)
    until(lambda: ended_lines(servers.client, id))
    assert servers.stop(signal.SIGTERM) == 0
    servers.start()
    assert ended_lines(servers.client, id) < LINES
    servers.open(*GATES)
    check(servers.client, id)


def test_a_server_that_was_asleep_finds_its_batch_taken(servers: Servers) -> None:
    id = begin(servers.client)
    until(lambda: ended_lines(servers.client, id))
    assert servers.process is not None
    sleeper = servers.process
    put_to_sleep(sleeper, servers.folder / "deepwell.db")
    other = Servers(servers.folder)
    other.start()
    try:
        sleeping_at = ended_lines(other.client, id)
        servers.open("GATE-a")
        until(lambda: ended_lines(other.client, id) > sleeping_at)  # the lease is over
        sleeper.send_signal(signal.SIGCONT)
        servers.open("GATE-b")
        check(other.client, id)
    finally:
        other.stop(signal.SIGKILL)


def test_a_killed_engine_fails_no_line(tmp_path: Path) -> None:
    process = EngineProcess({"folder": str(tmp_path)}, factory="tests.faults.hosted:patient")
    with ProcessEngine.start(process) as engine:
        service = make_service(engine, make_codec(tmp_path / "tokenizer"), model="toy")
        running = start(service, FakeEngine())
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        try:
            id = begin(client)
            for gate in GATES:
                before = ended_lines(client, id)
                until(lambda before=before: ended_lines(client, id) > before)
                old = engine.pid
                os.kill(old, signal.SIGKILL)
                until(lambda old=old: engine.pid != old)
                until(lambda: engine.stats().available)
                (tmp_path / gate).touch()
            check(client, id)
        finally:
            client.close()
            running.stop()
