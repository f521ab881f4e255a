"""A real Valkey that dies, hangs and comes back: limits hold for this host meanwhile, and nobody waits long."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from tests.needs import VALKEY, require
from tests.parallel import free_port
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.server import valkey as shared_module
from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.quota import RateLimits, bucket_key
from deepwell.server.access.shared_limits import SharedLimits
from deepwell.server.app import create_app
from deepwell.server.options import LimitsConfig
from deepwell.server.valkey import ValkeyClient

KEY = bucket_key("requests", "tenant a")


class Valkey:
    """A server of the test's own, with nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = SecretStr(f"valkey://127.0.0.1:{self.port}/0")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        require(VALKEY)
        given = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            ["valkey-server", *given], cwd=self._folder, stdout=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                    client.sendall(b"PING\r\n")
                    if client.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                assert self.process.poll() is None, "valkey-server ended"
        raise AssertionError("valkey-server did not start")

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.kill()


class Changes:
    """What a `ValkeyClient` says of Valkey, to be waited for."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self._event = asyncio.Event()

    def __call__(self, up: bool) -> None:
        self.told.append(up)
        if up:
            self._event.set()

    async def wait_until_up(self) -> None:
        self._event.clear()
        await asyncio.wait_for(self._event.wait(), 60)


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with much to do may be late to answer; probes need not be rare."""
    monkeypatch.setattr(shared_module, "_ANSWER_S", 1.0)
    monkeypatch.setattr(shared_module, "_PROBED_EVERY_S", 0.05)


@pytest.fixture
async def hosts(valkey: Valkey, changes: Changes) -> AsyncIterator[tuple[SharedLimits, SharedLimits]]:
    """Two servers with nothing in common but Valkey."""
    clients = [ValkeyClient(valkey.url, changes), ValkeyClient(valkey.url)]
    tables = [LimitTable(), LimitTable()]
    yield SharedLimits(clients[0], tables[0]), SharedLimits(clients[1], tables[1])
    for client, table in zip(clients, tables, strict=True):
        await client.close()
        table.close()


async def test_two_hosts_share_a_limit(hosts: tuple[SharedLimits, SharedLimits]) -> None:
    here, there = hosts
    results = await asyncio.gather(*((here, there)[number % 2].charge(KEY, 10, 1) for number in range(14)))
    assert sum(result.allowed for result in results) == 10
    refused = await here.charge(KEY, 10, 1)
    assert not refused.allowed and refused.remaining == 0 and 0 < refused.retry_s <= 6
    await there.settle(KEY, 30)
    given = await here.charge(KEY, 10, 5)
    assert given.allowed and given.charged_s == pytest.approx(30)
    assert not (await there.charge(KEY, 10, 5)).allowed


async def test_shared_and_local_buckets_reckon_alike(hosts: tuple[SharedLimits, SharedLimits]) -> None:
    shared, local = hosts[0], LimitTable()
    for cost in (3, 4, 5, 0, 2):
        ours, theirs = await local.charge(KEY, 10, cost), await shared.charge(KEY, 10, cost)
        assert ours.allowed == theirs.allowed and ours.remaining == theirs.remaining
        assert ours.reset_s == pytest.approx(theirs.reset_s, abs=2)
    larger = bucket_key("tokens", "large")
    assert (await shared.charge(larger, 10, 100)).reset_s == pytest.approx(120)
    local.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_limits_go_on_for_this_host_and_join_again(
    hosts: tuple[SharedLimits, SharedLimits],
    valkey: Valkey,
    changes: Changes,
    number: signal.Signals,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    here, there = hosts
    assert (await here.charge(KEY, 4, 4)).allowed
    valkey.send(number)
    alone = [await here.charge(KEY, 4, 1) for _ in range(6)]
    assert [one.allowed for one in alone] == [True] * 4 + [False] * 2  # what this host counts by itself
    assert changes.told.count(False) == 1  # the others did not even ask
    assert caplog.text.count("limits are counted and answers kept for this host alone") == 1
    if number == signal.SIGKILL:
        valkey.kill()
        valkey.start()
    else:
        valkey.send(signal.SIGCONT)
    await changes.wait_until_up()
    assert "is back" in caplog.text
    results = [await store.charge(bucket_key("requests", "b"), 2, 1) for store in (here, there, here)]
    assert [one.allowed for one in results] == [True, True, False]


async def test_the_server_answers_throughout_and_its_metrics_tell(valkey: Valkey, tmp_path: Path) -> None:
    service = make_service(
        FakeEngine(),
        make_codec(tmp_path / "tokenizer"),
        model="toy",
        limits=LimitsConfig(rates=RateLimits(3), valkey_url=valkey.url),
    )
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/v1/models")).headers["x-ratelimit-remaining-requests"] == "2"
        assert "deepwell_valkey_up 1.0" in (await http.get("/metrics")).text
        valkey.send(signal.SIGSTOP)
        answers = await asyncio.gather(*(http.get("/v1/models") for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429, 429]
        metrics = (await http.get("/metrics")).text
        assert "deepwell_valkey_up 0.0" in metrics
        assert "deepwell_valkey_failures_total 0.0" not in metrics
    await service.close_state()


async def test_a_valkey_that_was_never_there_costs_one_try(tmp_path: Path, changes: Changes) -> None:
    url = SecretStr(f"valkey://:secret@127.0.0.1:{free_port()}/0")
    shared = ValkeyClient(url, changes)
    table = LimitTable()
    limits = SharedLimits(shared, table)
    assert (await limits.charge(KEY, 10, 1)).remaining == 9
    assert (await limits.charge(KEY, 10, 1)).remaining == 8
    await shared.close()
    table.close()


async def test_a_replica_is_used_as_soon_as_it_is_promoted(
    valkey: Valkey, tmp_path: Path, changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of the primary leads to a replica, which takes no writes, and which is then promoted."""
    primary = Valkey(tmp_path)
    primary.start()
    table, clients = LimitTable(), [ValkeyClient(valkey.url, changes), ValkeyClient(valkey.url)]
    here = SharedLimits(clients[0], table)
    assert (await here.charge(KEY, 4, 3)).remaining == 1
    await command(valkey, f"REPLICAOF 127.0.0.1 {primary.port}")
    alone = [(await here.charge(KEY, 4, 1)).allowed for _ in range(5)]
    assert alone == [True] * 4 + [False]  # what this host counts by itself
    await command(valkey, "REPLICAOF NO ONE")
    other, there = bucket_key("requests", "b"), SharedLimits(clients[1], table)
    if not clients[0].up:
        await changes.wait_until_up()
    assert [(await store.charge(other, 2, 1)).allowed for store in (here, there, here)] == [True, True, False]
    for client in clients:
        await client.close()
    table.close()
    primary.kill()


async def command(server: Valkey, line: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(line.encode() + b"\r\n")
    assert await reader.readline() == b"+OK\r\n"
    writer.close()


CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "logprobs": True}


async def test_answers_are_shared_between_hosts_and_kept_alone_without_valkey(
    valkey: Valkey, tmp_path: Path
) -> None:
    engines = [FakeEngine(), FakeEngine()]
    codec = make_codec(tmp_path / "tokenizer")
    services = [
        make_service(
            engine,
            codec,
            model="toy",
            response_cache_bytes=1 << 20,
            response_cache_ttl_s=60,
            limits=LimitsConfig(valkey_url=valkey.url),
        )
        for engine in engines
    ]
    clients = [
        httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(service), raise_app_exceptions=False),
            base_url="http://test",
        )
        for service in services
    ]

    async def ask(host: int, **change: object) -> tuple[str, object]:
        answer = await clients[host].post("/v1/chat/completions", json=CHAT | change)
        assert answer.status_code == 200
        return answer.headers["x-deepwell-cache"], answer.json()["choices"]

    first, again = await ask(0), await ask(0)
    there = await ask(1)
    assert (first[0], again[0], there[0]) == ("miss", "hit", "hit")
    assert first[1] == again[1] == there[1]
    assert engines[1].seen == []
    assert (await ask(1, max_tokens=3))[0] == "miss"
    services[1].main.model.fingerprint = "fp_of_other_weights"
    assert (await ask(0, max_tokens=2))[0] == (await ask(1, max_tokens=2))[0] == "miss"
    valkey.send(signal.SIGSTOP)
    assert [(await ask(0, max_tokens=4))[0] for _ in range(2)] == ["miss", "hit"]
    assert (await ask(1, max_tokens=4))[0] == "miss"
    for client, service in zip(clients, services, strict=True):
        await client.aclose()
        await service.close_state()
