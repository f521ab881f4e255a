"""Erasure beside a real Valkey: the answers that hosts share are gone, what is no answer stays, and an outage is reported."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.faults.test_valkey import Valkey, patient, valkey
from tests.server.fakes import FakeEngine, make_codec, make_service
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.safety.privacy.attribution import Subject
from deepwell.server.access.quota import RateLimits
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.housekeeping import erasing
from deepwell.server.options import LimitsConfig
from deepwell.server.valkey import ValkeyClient, ValkeyUnavailable
from deepwell.storage.database import LOCAL, Database

__all__ = ["patient", "valkey"]  # fixtures

CHAT = {
    "model": "toy",
    "messages": [{"role": "user", "content": "about lin"}],
    "temperature": 0,
    "user": "lin",
}


_MANY = (
    "for at = 1, 3000 do redis.call('SET', 'deepwell:answer2:' .. at, 'x') end "
    "redis.call('SET', 'other', 'x') return {0, 0}"
)
_COUNT = "return {#redis.call('KEYS', 'deepwell:answer*'), #redis.call('KEYS', '*')}"


async def counted(server: Valkey, script: str = _COUNT) -> tuple[int, int]:
    """Returns the number of answers that Valkey holds, and of all else."""
    client = ValkeyClient(server.url)

    def read(found: Any) -> tuple[int, int]:
        answers, every = found
        return answers, every - answers

    try:
        return await client.run(lambda valkey: valkey.eval(script, 0), read)
    finally:
        await client.close()


def host(server: Valkey, folder: Path, database: Database) -> tuple[ServerContext, FakeEngine]:
    engine = FakeEngine()
    limits = LimitsConfig(rates=RateLimits(10_000, 10_000_000), valkey_url=server.url)
    service = make_service(
        engine,
        make_codec(folder / "tokenizer"),
        model="toy",
        database=database,
        response_cache_bytes=1 << 20,
        response_cache_ttl_s=600,
        limits=limits,
    )
    return service, engine


async def ask(service: ServerContext) -> str:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-deepwell-cache"]


@pytest.mark.parametrize("subject", [Subject(LOCAL), Subject(LOCAL, "lin")], ids=["tenant", "person"])
async def test_an_erasure_deletes_the_answers_that_hosts_share(
    subject: Subject, valkey: Valkey, tmp_path: Path
) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    one, _ = host(valkey, tmp_path, database)
    two, engine = host(valkey, tmp_path, database)
    await counted(valkey, _MANY)  # more than one step of the deletion
    assert (await ask(one), await ask(two)) == ("miss", "hit") and engine.seen == []
    answers, others = await counted(valkey)
    assert answers == 3001 and others
    await erasing(one).erase(subject)
    answers, others = await counted(valkey)
    assert answers == 0 and others
    await two.forget_answers()  # as its housekeeper does within a minute
    assert await ask(two) == "miss" and len(engine.seen) == 1
    for service in (one, two):
        await service.close_background()
        await service.limiter.close()
    database.close()


async def test_an_erasure_while_valkey_is_away_is_finished_when_it_is_back(
    valkey: Valkey, tmp_path: Path
) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    service, _ = host(valkey, tmp_path, database)
    await ask(service)
    valkey.send(signal.SIGSTOP)
    eraser = erasing(service)
    with pytest.raises(ValkeyUnavailable):
        await eraser.erase(Subject(LOCAL))
    valkey.send(signal.SIGCONT)
    while True:
        try:
            while await eraser.run_next():
                pass
            break
        except ValkeyUnavailable:
            await asyncio.sleep(0)
    assert (await counted(valkey))[0] == 0
    await service.close_background()
    await service.limiter.close()
    database.close()


def test_the_command_deletes_answers_in_valkey(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path / "home"))
    database = Database.open(tmp_path / "deepwell.db")

    async def answer() -> None:
        service, _ = host(valkey, tmp_path, database)
        await ask(service)
        await service.limiter.close()

    asyncio.run(answer())
    database.close()
    assert asyncio.run(counted(valkey))[0] == 1
    monkeypatch.setenv("DEEPWELL_VALKEY_URL", valkey.url.get_secret_value())
    result = CliRunner().invoke(app, ["privacy", "erase", "--tenant", "local", "--yes", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["scope"] == "tenant"
    assert asyncio.run(counted(valkey))[0] == 0
