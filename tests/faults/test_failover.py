"""PostgreSQL and Valkey fail over to a replica: what was acknowledged is there, and the server goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url
from tests.needs import POSTGRESQL, require
from tests.postgres import Replica, Server
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.waiting import until_async

from deepwell.server.app import create_app
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.jobs import JobStore
from deepwell.storage.postgres import PostgreSQL

KEY = "a-key-of-the-settings"
LIMIT_S = 60


@pytest.fixture
def pair() -> Iterator[tuple[Server, Replica]]:
    """A primary that acknowledges what its replica has, and the replica."""
    require(POSTGRESQL)
    with tempfile.TemporaryDirectory(prefix="dwpg", ignore_cleanup_errors=True) as folder:
        places = [Path(folder) / name for name in ("one", "two")]
        Path(folder).chmod(0o755)
        for place in places:
            place.mkdir()
        with contextlib.ExitStack() as started:
            primary = Server(places[0])
            started.callback(primary.stop)
            replica = Replica(places[1], primary)
            started.callback(replica.stop)
            # Set after the copy was made, so that the replica itself waits for nobody.
            primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.sql("postgres", "SELECT pg_reload_conf()")
            yield primary, replica


def url_of_both(primary: Server, replica: Server, form: str) -> str:
    name = make_url(primary.create()).database
    hosts = form.format(primary.folder, replica.folder)
    return f"postgresql://deepwell:s3cret@/{name}?{hosts}&target_session_attrs=read-write"


@contextlib.asynccontextmanager
async def served(database: Database, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    service = make_service(
        FakeEngine(), make_codec(tmp_path), model="toy", database=database, api_keys=[SecretStr(KEY)]
    )
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        yield client


async def write(client: httpx.AsyncClient, kept: list[str], count: int) -> set[int]:
    """Creates conversations until `count` more are acknowledged; returns the statuses of the others."""
    refused: set[int] = set()
    goal = len(kept) + count
    async with asyncio.timeout(LIMIT_S):
        while len(kept) < goal:
            answer = await client.post("/v1/conversations", json={})
            if answer.status_code == 200:
                kept.append(answer.json()["id"])
            else:
                refused.add(answer.status_code)
    return refused


@pytest.mark.parametrize("form", ["host={},{}", "host={}&host={}"])
async def test_a_promoted_replica_has_all_that_was_acknowledged(
    pair: tuple[Server, Replica], tmp_path: Path, form: str
) -> None:
    primary, replica = pair
    database = Database(PostgreSQL(url_of_both(primary, replica, form)))
    kept: list[str] = []
    jobs = JobStore(database)
    await jobs.enqueue(LOCAL, "k", "{}", id="queued")
    async with served(database, tmp_path) as client:
        assert await write(client, kept, 20) == set()
        writing = asyncio.create_task(write(client, kept, 2000))
        await until_async(lambda: len(kept) >= 40)
        await asyncio.to_thread(primary.kill)
        before = len(kept)
        await asyncio.to_thread(replica.promote)
        await until_async(lambda: len(kept) >= before + 20, patience_s=LIMIT_S)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert await write(client, kept, 20) == set()
        for id in kept:
            assert (await client.get(f"/v1/conversations/{id}")).status_code == 200
    job = await jobs.claim(["k"], "worker", 600)
    assert job is not None and job.id == "queued"
    database.close()


async def test_what_no_standby_has_is_not_acknowledged(pair: tuple[Server, Replica], tmp_path: Path) -> None:
    primary, replica = pair
    database = Database(PostgreSQL(url_of_both(primary, replica, "host={},{}"), patience_s=1.5))
    async with served(database, tmp_path) as client:
        await write(client, [], 1)
        replica.signal(signal.SIGSTOP)
        try:
            answer = await client.post("/v1/conversations", json={})
            assert answer.status_code == 503 and "retry-after" in answer.headers
            assert "it is not known whether this change was kept" in answer.json()["error"]["message"]
        finally:
            replica.signal(signal.SIGCONT)
        await write(client, [], 1)
    database.close()


async def test_a_primary_that_stops_and_starts_loses_nothing(
    pair: tuple[Server, Replica], tmp_path: Path
) -> None:
    primary, replica = pair
    database = Database(PostgreSQL(url_of_both(primary, replica, "host={},{}")))
    kept: list[str] = []
    async with served(database, tmp_path) as client:
        await write(client, kept, 10)
        await asyncio.to_thread(primary.stop)
        answer = await client.post("/v1/conversations", json={})
        assert answer.status_code == 503, "a replica that was not promoted takes no writes"
        await asyncio.to_thread(primary.start)
        await write(client, kept, 10)
        for id in kept:
            assert (await client.get(f"/v1/conversations/{id}")).status_code == 200
    database.close()
