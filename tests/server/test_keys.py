"""Keys in the database at the door of the server: what opens, what no longer does, and what a failing database means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.access import auth
from deepwell.server.access.auth import KeyRing, KeysUnavailable
from deepwell.server.app import create_app
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import ApiKey, KeyStore

SAY = [{"role": "user", "content": "hi"}]
CHAT = {"model": "toy", "messages": SAY}
OBJECT = {"type": "json_schema", "schema": {"type": "object"}}


class Clock:
    """`time` for the module under test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(auth, "time", clock)
    monkeypatch.setattr(auth, "shared_time", clock.time)
    return clock


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return KeyStore(database)


@pytest.fixture
async def http(
    engine: FakeEngine, codec: Codec, database: Database, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(make_service(engine, codec, model="toy", database=database, adapter_dir=tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


async def test_the_first_key_closes_the_server_and_revoking_it_does_not_open_it(
    http: httpx.AsyncClient, keys: KeyStore, clock: Clock
) -> None:
    assert (await http.get("/v1/models")).status_code == 200
    key, text = keys.create(Tenant("a"), "n", ["inference"])
    clock.now += auth.CHECKED_AGAIN_AFTER_S
    assert (await http.get("/v1/models")).status_code == 401
    assert (await http.get("/v1/models", headers=bearer(text))).status_code == 200
    assert (await http.get("/v1/models", headers={"x-api-key": text})).status_code == 200
    keys.revoke(key.id)
    clock.now += auth.CHECKED_AGAIN_AFTER_S
    answer = await http.get("/v1/models", headers=bearer(text))
    assert answer.status_code == 401 and "revoked" in answer.json()["error"]["message"]
    assert (await http.get("/v1/models")).status_code == 401


async def test_an_expired_key_opens_nothing(http: httpx.AsyncClient, keys: KeyStore, clock: Clock) -> None:
    _, text = keys.create(Tenant("a"), "n", ["inference"], expires_at=1003)
    assert (await http.get("/v1/models", headers=bearer(text))).status_code == 200
    clock.now = 1003
    assert (await http.get("/v1/models", headers=bearer(text))).status_code == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": SAY, "response_format": {"type": "json_object"}}),
        ("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "a*"}}),
        ("/v1/responses", {"input": "a", "text": {"format": {"type": "json_object"}}}),
        ("/v1/responses/input_tokens", {"input": "a", "text": {"format": {"type": "json_object"}}}),
        ("/v1/messages", {"messages": SAY, "max_tokens": 9, "output_config": {"format": OBJECT}}),
        ("/v1/messages/count_tokens", {"messages": SAY, "output_config": {"format": OBJECT}}),
    ],
)
async def test_grammars_are_compiled_for_the_tenant_of_the_key(
    http: httpx.AsyncClient, keys: KeyStore, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    _, text = keys.create(Tenant("a"), "n", ["inference"])
    answer = await http.post(path, json={"model": CHAT["model"], **body}, headers=bearer(text))
    assert answer.status_code == 200, answer.text
    assert engine.prepared_for == [("a", "a")]


async def test_the_tenant_and_the_scopes_are_the_keys(
    http: httpx.AsyncClient, keys: KeyStore, engine: FakeEngine
) -> None:
    _, text = keys.create(Tenant("a"), "n", ["inference"])
    assert (await http.post("/v1/chat/completions", json=CHAT, headers=bearer(text))).status_code == 200
    assert (engine.seen[0].tenant, engine.seen[0].cache_salt) == ("a", "a")
    for path in ("/metrics", "/v1/files", "/v1/load_lora_adapter"):
        answer = await http.get(path, headers=bearer(text))
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "insufficient_scope"
        assert "--scope" in answer.json()["error"]["message"]
    _, admin = keys.create(Tenant("a"), "n", ["admin"])
    assert (await http.get("/metrics", headers=bearer(admin))).status_code == 200


class CountedStore(KeyStore):
    """Counts its queries, and fails when told to."""

    asked = 0
    broken = False

    async def find(self, digest: bytes) -> ApiKey | None:
        self.asked += 1
        if self.broken:
            raise OperationalError("SELECT", {}, Exception("gone"))
        return await super().find(digest)


async def test_a_key_is_asked_for_once_in_a_while(database: Database, clock: Clock) -> None:
    store = CountedStore(database)
    _, text = store.create(Tenant("a"), "n", [])
    ring = KeyRing((), store)
    for _ in range(5):
        assert (principal := await ring.principal(text.encode())) is not None
        assert principal.tenant == "a"
    assert store.asked == 1
    assert await ring.principal(b"dw-" + b"x" * 43) is None
    assert await ring.principal(b"dw-" + b"x" * 43) is None
    assert store.asked == 2
    assert await ring.principal(b"not even in the form of a key") is None
    assert store.asked == 2
    clock.now += auth.CHECKED_AGAIN_AFTER_S
    await ring.principal(text.encode())
    assert store.asked == 3
    await ring.close()


async def test_a_database_that_fails_leaves_known_keys_valid_for_a_minute(
    database: Database, clock: Clock
) -> None:
    store = CountedStore(database)
    _, text = store.create(Tenant("a"), "n", [])
    ring = KeyRing((), store)
    await ring.principal(text.encode())
    store.broken = True
    clock.now += auth.TRUSTED_UNCHECKED_S - 1
    assert await ring.principal(text.encode()) is not None
    clock.now += 1
    with pytest.raises(KeysUnavailable):
        await ring.principal(text.encode())
    store.broken = False
    assert await ring.principal(text.encode()) is not None
    await ring.close()


async def test_the_last_use_is_written_when_the_server_stops(database: Database, clock: Clock) -> None:
    store = KeyStore(database)
    key, text = store.create(Tenant("a"), "n", [])
    ring = KeyRing((), store)
    await ring.principal(text.encode())
    assert (await store.list())[0].last_used_at is None
    await ring.close()
    assert (await store.list())[0].last_used_at == int(clock.now)
    assert key.last_used_at is None
