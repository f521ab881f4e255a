"""`/readyz`: the database, the disk and the engine, asked at most once a second and never waited for long."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import EngineStats
from deepwell.errors import StorageDamaged, StorageUnavailable
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.families.health import readiness
from deepwell.server.families.health.readiness import CACHED_S, Readiness
from deepwell.server.housekeeping import Housekeeper
from deepwell.server.options import FileOptions
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.keys import KeyStore
from deepwell.version import deepwell_version


@pytest.fixture
def context(engine: FakeEngine, codec: Codec, tmp_path: Path) -> Iterator[ServerContext]:
    database = Database.open(tmp_path / "deepwell.db")
    files = FileOptions(folder=tmp_path / "not" / "made" / "yet")
    yield make_service(engine, codec, model="toy", database=database, files=files)
    database.close()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Probe:
    """Counts what is asked of the database, and may hold it up."""

    def __init__(self, context: ServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.free = threading.Event()
        self.free.set()
        original = context.state.database._probe

        def probe() -> None:
            self.count += 1
            assert self.free.wait(30)
            original()

        monkeypatch.setattr(context.state.database, "_probe", probe)


async def test_many_who_ask_cost_one_look_a_second(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, probe = Clock(), Probe(context, monkeypatch)
    ready = Readiness(context, clock=clock)
    await asyncio.gather(*(ready.require() for _ in range(50)))
    clock.now += CACHED_S * 0.99
    await ready.require()
    assert probe.count == 1
    clock.now += CACHED_S * 0.01
    await ready.require()
    assert probe.count == 2


async def test_a_database_that_hangs_is_not_waited_for(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LIMIT_S", 0.01)
    clock, probe = Clock(), Probe(context, monkeypatch)
    ready = Readiness(context, clock=clock)
    probe.free.clear()
    for _ in range(5):
        with pytest.raises(StorageUnavailable, match="not answered"):
            await ready.require()
        clock.now += CACHED_S
    assert probe.count == 1  # no second one behind the first
    probe.free.set()
    monkeypatch.setattr(readiness, "LIMIT_S", 30)
    await ready.require()


async def test_a_failing_database_is_told_and_its_return_too(context: ServerContext, tmp_path: Path) -> None:
    clock = Clock()
    ready = Readiness(context, clock=clock)
    (tmp_path / "deepwell.db").rename(tmp_path / "away")
    for _ in range(3):
        with pytest.raises(StorageUnavailable, match="removed while the server runs"):
            await ready.require()
    (tmp_path / "away").rename(tmp_path / "deepwell.db")
    clock.now += CACHED_S
    await ready.require()


def statvfs(**changed: int) -> Any:
    """A disk of 1 TB with all of it free, but for the given fields."""
    fields = {
        "f_frsize": 4096,
        "f_blocks": 1 << 28,
        "f_bavail": 1 << 28,
        "f_files": 1 << 20,
        "f_favail": 1 << 20,
    }
    return lambda _path: type("Disk", (), fields | changed)


@pytest.mark.parametrize(
    ("disk", "problem"),
    [
        ({"f_bavail": (64 << 20) // 4096}, None),
        ({"f_bavail": (64 << 20) // 4096 - 1}, "has 67.1 MB left"),
        ({"f_bavail": 0}, "has 0.0 MB left"),
        ({"f_blocks": 1000, "f_bavail": 21}, None),  # a disk of 4 MB
        ({"f_blocks": 1000, "f_bavail": 10}, "has 0.0 MB left"),
        ({"f_favail": 15}, "room for 15 more files"),
        ({"f_files": 0, "f_favail": 0}, None),  # a file system that does not count them
    ],
)
async def test_a_full_disk_is_not_ready(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch, disk: dict[str, int], problem: str | None
) -> None:
    monkeypatch.setattr(os, "statvfs", statvfs(**disk))
    if problem is None:
        await Readiness(context).require()
        return
    with pytest.raises(StorageUnavailable, match=problem) as told:
        await Readiness(context).require()
    assert told.value.status == 503 and told.value.fix


async def test_a_disk_that_cannot_be_asked_is_not_ready(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_path: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "statvfs", fails)
    with pytest.raises(StorageUnavailable, match="Input/output error"):
        await Readiness(context).require()


async def test_a_look_that_breaks_is_not_ready(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks() -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(context.state.database, "_probe", breaks)
    with pytest.raises(StorageUnavailable, match="ValueError"):
        await Readiness(context).require()


async def test_a_server_that_keeps_nothing_is_ready(engine: FakeEngine, codec: Codec) -> None:
    await Readiness(make_service(engine, codec, model="toy")).require()


@dataclass
class Ending(FakeEngine):
    """An engine whose process may be away."""

    away: bool = False

    def stats(self) -> EngineStats:
        return replace(super().stats(), available=not self.away)


async def test_health_needs_no_key_and_tells_of_the_engine_alone(codec: Codec) -> None:
    engine = Ending()
    context = make_service(engine, codec, model="toy", api_keys=(SecretStr("sk-test"),))
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        alive = await http.get("/health")
        assert (alive.status_code, alive.content) == (200, b"")
        context.draining = True
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/health")).status_code == 200, "a server that drains is not to be killed"
        engine.away = True
        dead = await http.get("/health")
        assert dead.status_code == 503 and "being restarted" in dead.json()["error"]["message"]
        assert (await http.get("/healthz")).status_code == 200


async def test_the_version_is_as_open_as_the_page_that_shows_it(codec: Codec) -> None:
    context = make_service(FakeEngine(), codec, model="toy", api_keys=(SecretStr("sk-test"),))
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.get("/version")
        assert (answer.status_code, answer.json()) == (200, {"version": deepwell_version()})
        assert deepwell_version() in (await http.get("/")).text
        assert (await http.get("/v1/models")).status_code == 401


async def test_damage_that_the_daily_examination_finds_takes_the_server_out_of_service(
    context: ServerContext, caplog: pytest.LogCaptureFixture
) -> None:
    database, housekeeper = context.state.database, Housekeeper(context)
    KeyStore(database).create(LOCAL, "k", ["inference"])
    assert database.file is not None
    await housekeeper.examine(database.file)
    await Readiness(context).require()
    database.write_now(lambda connection: connection.exec_driver_sql("UPDATE api_keys SET scopes = 'admin'"))
    await housekeeper.examine(database.file)
    with pytest.raises(StorageDamaged, match="api_keys"):
        await Readiness(context).require()
    assert "is damaged" in caplog.text and "backup" in caplog.text
    assert context.metrics.registry.get_sample_value("deepwell_database_damaged") == 1
