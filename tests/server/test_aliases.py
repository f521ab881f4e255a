"""Further names of models: administrators change them while the server runs, and every route that takes a model knows them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from openai import OpenAI
from tests.fleet.promotion.tampering import TAMPERINGS, tamper
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.access.alias_names import OLD_S, ModelAliases
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell.storage.registry.ledger import Ledger
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell.storage.registry.store import NewVersion, RegistryStore
from deepwell.storage.registry.story import Outcome, Rollout
from deepwell.storage.safety.anchors import Anchors

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
def service(engine: FakeEngine, codec: Codec, database: Database) -> ServerContext:
    return make_service(engine, codec, model="toy", database=database, response_cache_bytes=1 << 20)


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def set_alias(http: httpx.AsyncClient, name: str, model: str = "toy") -> httpx.Response:
    return await http.post("/v1/aliases", json={"name": name, "model": model})


async def test_an_alias_is_set_listed_changed_and_removed(http: httpx.AsyncClient) -> None:
    made = (await set_alias(http, "openai/gpt-4o")).json()
    assert made == {
        "object": "alias",
        "id": "openai/gpt-4o",
        "model": "toy",
        "changed_at": made["changed_at"],
        "changed_by": "local",
    }
    await set_alias(http, "prod")
    page = (await http.get("/v1/aliases", params={"limit": 1})).json()
    assert page == {
        "object": "list",
        "data": [made],
        "first_id": "openai/gpt-4o",
        "last_id": "openai/gpt-4o",
        "has_more": True,
    }
    rest = (await http.get("/v1/aliases", params={"after": page["last_id"]})).json()
    assert [one["id"] for one in rest["data"]] == ["prod"]
    gone = await http.delete("/v1/aliases/openai/gpt-4o")
    assert gone.json() == {"object": "alias.deleted", "id": "openai/gpt-4o", "deleted": True}
    history = (await http.get("/v1/aliases/openai/gpt-4o/history")).json()
    assert [one["model"] for one in history["data"]] == [None, "toy"]
    assert {one["object"] for one in history["data"]} == {"alias.change"}
    assert history["data"][0]["name"] == "openai/gpt-4o"


async def test_every_route_that_takes_a_model_takes_an_alias(http: httpx.AsyncClient) -> None:
    await set_alias(http, "prod")
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": CHAT,
        "/v1/completions": {"prompt": "hi", "max_tokens": 4},
        "/v1/responses": {"input": "hi", "max_output_tokens": 4},
        "/v1/responses/input_tokens": {"input": "hi"},
        "/v1/messages": CHAT,
        "/v1/messages/count_tokens": {"messages": CHAT["messages"]},
        "/v1/embeddings": {"input": "hi"},
        "/tokenize": {"prompt": "hi"},
        "/api/chat": {"messages": CHAT["messages"], "stream": False},
        "/api/show": {},
    }
    for path, body in asked.items():
        answer = await http.post(path, json={"model": "prod", **body})
        assert answer.status_code == 200, (path, answer.text)
    assert (
        await http.post("/api/chat", json={"model": "prod:latest", **asked["/api/chat"]})
    ).status_code == 200


async def test_models_are_listed_with_the_names_that_mean_them(http: httpx.AsyncClient) -> None:
    await set_alias(http, "prod")
    cards = {card["id"]: card for card in (await http.get("/v1/models")).json()["data"]}
    assert set(cards) == {"toy", "prod"}
    assert cards["prod"] == {**cards["toy"], "id": "prod", "parent": "toy"}
    assert (await http.get("/v1/models/prod")).json() == cards["prod"]


async def test_a_name_is_not_taken_from_a_model_and_none_means_nothing(http: httpx.AsyncClient) -> None:
    taken = await set_alias(http, "toy", "other")
    assert taken.status_code == 400 and taken.json()["error"]["param"] == "name"
    unknown = await set_alias(http, "prod", "other")
    assert unknown.status_code == 404 and "'other'" in unknown.json()["error"]["message"]
    for path in ("/v1/aliases/prod/history", "/v1/aliases/prod"):
        method = "GET" if path.endswith("history") else "DELETE"
        assert (await http.request(method, path)).status_code == 404
    assert (await http.get("/v1/aliases")).json()["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": "prod"},
        {"name": "../v1", "model": "toy"},
        {"name": "a::b", "model": "toy"},
        {"name": "p" * 129, "model": "toy"},
        {"name": "prod", "model": "tenant-b::adapter"},
        {"name": "prod", "model": "toy", "tenant": "b"},
        {"name": ["prod"], "model": "toy"},
        {"name": "pr\u0000od", "model": "toy"},
    ],
)
async def test_hostile_bodies_are_refused(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await http.post("/v1/aliases", json=body)
    assert answer.status_code == 400, answer.text
    assert (await http.get("/v1/aliases")).json()["data"] == []


async def test_a_request_for_an_alias_whose_model_is_gone_says_so(
    http: httpx.AsyncClient, database: Database
) -> None:
    await AliasStore(database).set("prod", "gone", "cli")
    answer = await http.post("/v1/chat/completions", json={"model": "prod", **CHAT})
    error = answer.json()["error"]
    assert answer.status_code == 404 and "'prod' means 'gone'" in error["message"]
    assert "deepwell models alias set prod" in error["message"]
    assert [card["id"] for card in (await http.get("/v1/models")).json()["data"]] == ["toy"]


async def test_an_alias_is_not_unloaded(http: httpx.AsyncClient) -> None:
    await set_alias(http, "prod")
    answer = await http.delete("/v1/models/prod")
    assert answer.status_code == 400 and "alias of 'toy'" in answer.json()["error"]["message"]


async def test_the_scope_admin_is_needed_to_change_and_none_to_read(
    http: httpx.AsyncClient, database: Database
) -> None:
    keys = KeyStore(database)
    admin, user = (
        keys.create(Tenant(name), name, [scope]) for name, scope in (("a", "admin"), ("b", "inference"))
    )
    as_admin, as_user = ({"authorization": f"Bearer {key[1]}"} for key in (admin, user))
    body = {"name": "prod", "model": "toy"}
    assert (await http.post("/v1/aliases", json=body, headers=as_user)).status_code == 403
    assert (await http.post("/v1/aliases", json={}, headers=as_user)).status_code == 403
    made = await http.post("/v1/aliases", json=body, headers=as_admin)
    assert made.json()["changed_by"] == admin[0].id
    assert (await http.delete("/v1/aliases/prod", headers=as_user)).status_code == 403
    for path in ("/v1/aliases", "/v1/aliases/prod/history"):
        [seen] = (await http.get(path, headers=as_user)).json()["data"]
        assert seen["model"] == "toy" and seen["changed_by"] is None, "the id of a key tells of the key"
        [seen] = (await http.get(path, headers=as_admin)).json()["data"]
        assert seen["changed_by"] == admin[0].id
    answer = await http.post("/v1/chat/completions", json={"model": "prod", **CHAT}, headers=as_user)
    assert answer.status_code == 200


async def test_no_cache_gives_the_answer_of_the_model_that_was_meant_before(
    codec: Codec, database: Database
) -> None:
    """Equal bytes are answered from a cache without being parsed, which must not outlive the alias."""
    engine = FakeEngine()
    service = make_service(engine, codec, model="toy", database=database, response_cache_bytes=1 << 20)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        await set_alias(http, "prod")
        body = {"model": "prod", "temperature": 0, **CHAT}
        for _ in range(3):
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        await http.delete("/v1/aliases/prod")
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 404


class Clock:
    """Monotonic seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_change_of_another_process_is_seen_within_seconds_and_nobody_asks_more_often(
    database: Database,
) -> None:
    store, clock, asked = AliasStore(database), Clock(), 0

    def counted() -> AliasStore:
        nonlocal asked
        asked += 1
        return store

    aliases = ModelAliases(counted, clock=clock)
    assert await aliases.model_of("prod") is None
    asked = 0
    await store.set("prod", "toy", "cli")
    for _ in range(100):
        assert await aliases.model_of("prod") is None, "what is known is believed for a while"
    assert asked == 100, "once a request, to see whether there is a database: it is not read"
    clock.now += OLD_S
    found = await asyncio.gather(*(aliases.model_of("prod") for _ in range(20)))
    assert set(found) == {"toy"}


async def test_aliases_outlive_a_database_that_does_not_answer(tmp_path: Path) -> None:
    database, clock = Database.open(tmp_path / "gone.db"), Clock()
    store = AliasStore(database)
    await store.set("prod", "toy", "cli")
    aliases = ModelAliases(lambda: store, clock=clock)
    assert await aliases.model_of("prod") == "toy"
    database.close()
    clock.now += OLD_S
    assert await aliases.model_of("prod") == "toy"


def test_a_running_server_notices_what_the_command_line_changed(
    service: ServerContext, engine: FakeEngine, database: Database
) -> None:
    """With the real SDK against a socket: the watcher reads, and not the request."""
    live = start(service, engine)
    try:
        asyncio.run(AliasStore(database).set("prod", "toy", "cli"))
        with OpenAI(
            base_url=f"{live.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        ) as client:
            deadline = time.monotonic() + 60
            while "prod" not in [card.id for card in client.models.list()]:
                assert time.monotonic() < deadline
            answer = client.chat.completions.create(model="prod", **CHAT)
            assert answer.model == "prod"
    finally:
        live.stop()


# ---- roll-outs


class Canary:
    """A server whose alias `prod` means the adapter `v1`, and `v2` for half of the users."""

    def __init__(
        self, http: httpx.AsyncClient, engine: FakeEngine, database: Database, service: ServerContext
    ) -> None:
        self.http, self.engine, self.database, self.service = http, engine, database, service
        self.registry = RegistryStore(database)

    async def start(self, share: float = 0.5) -> Rollout:
        for name in ("v1", "v2"):
            self.engine.loaded[name] = replace(self.engine.load_adapter(name, name), digest=name)
        await AliasStore(self.database).set("prod", "v1", "cli")
        version = await self.registry.register("prod", NewVersion("v2"), "cli")
        made = await self.registry.start(version.id, share, {}, "cli", ungated="a test")
        await self.service.aliases.refresh()
        return made

    @staticmethod
    def user_of(rollout: Rollout) -> str:
        """Returns a user who gets the candidate: whom the split takes differs with every roll-out's name."""
        users = (f"user-{number}" for number in range(1000))
        return next(
            one for one in users if takes_candidate(rollout.id, rollout.share, "local", identity_of(one, ""))
        )

    async def end(self, outcome: Outcome) -> None:
        await self.registry.end("prod", outcome, "cli")
        await self.service.aliases.refresh()

    async def served(self, headers: dict[str, str] | None = None, **body: Any) -> str:
        """Returns the adapter that answers a request."""
        answer = await self.http.post(
            "/v1/chat/completions", json={"model": "prod", **CHAT, **body}, headers=headers or {}
        )
        assert answer.status_code == 200 and answer.json()["model"] == "prod", answer.text
        return self.engine.seen[-1].adapter


@pytest.fixture
def canary(http: httpx.AsyncClient, engine: FakeEngine, database: Database, service: ServerContext) -> Canary:
    return Canary(http, engine, database, service)


async def test_users_are_split_by_their_hash_until_the_roll_out_ends(canary: Canary) -> None:
    rollout = await canary.start()
    users = [f"user-{number}" for number in range(40)]
    first = [await canary.served(safety_identifier=user) for user in users]
    assert set(first) == {"v1", "v2"}
    assert [await canary.served(safety_identifier=user) for user in users] == first
    assert [await canary.served(user=user) for user in users] == first, (
        "OpenAI's older field names the same user"
    )
    expected = [takes_candidate(rollout.id, 0.5, "local", identity_of(user, "")) for user in users]
    assert [one == "v2" for one in first] == expected
    assert {await canary.served() for _ in range(5)} == {"v1"}, "a request of nobody gets the current model"
    await canary.end("promoted")
    assert {await canary.served(safety_identifier=user) for user in users} == {"v2"}


async def test_a_roll_out_that_is_rolled_back_gives_everybody_the_model_of_before(canary: Canary) -> None:
    rollout = await canary.start()
    user = canary.user_of(rollout)
    assert await canary.served(user=user) == "v2"
    await canary.end("rolled_back")
    assert await canary.served(user=user) == "v1"


async def test_tenants_are_split_apart_and_keys_stand_for_users(canary: Canary) -> None:
    keys = KeyStore(canary.database)
    made = [(tenant, *keys.create(Tenant(tenant), "app", ["inference"])) for tenant in ("a", "b")]
    rollout = await canary.start()
    for tenant, key, secret in made:
        headers = {"authorization": f"Bearer {secret}"}
        side = takes_candidate(rollout.id, 0.5, tenant, identity_of("", key.id))
        assert await canary.served(headers) == ("v2" if side else "v1")
        for number in range(12):
            user = f"user-{number}"
            side = takes_candidate(rollout.id, 0.5, tenant, identity_of(user, key.id))
            assert await canary.served(headers, safety_identifier=user) == ("v2" if side else "v1")


async def test_a_candidate_that_is_not_served_here_fails_nobody(
    canary: Canary, caplog: pytest.LogCaptureFixture
) -> None:
    user = canary.user_of(await canary.start())
    canary.engine.unload_adapter("v2")
    for _ in range(3):
        assert await canary.served(user=user) == "v1"
    assert [one.message for one in caplog.records if "is not served here" in one.message] == [
        "the candidate v2 of the alias prod is not served here: its model answers"
    ]


async def test_no_cache_gives_one_user_the_answer_of_the_other_side(canary: Canary) -> None:
    rollout = await canary.start()
    sides: dict[bool, str] = {}
    for number in range(20):
        sides.setdefault(takes_candidate(rollout.id, 0.5, "local", f"user:u{number}"), f"u{number}")
    for side, adapter in ((False, "v1"), (True, "v2")):
        assert await canary.served(user=sides[side], temperature=0) == adapter
    count = len(canary.engine.seen)
    await canary.served(user=sides[False], temperature=0)
    assert len(canary.engine.seen) == count, "the cache does answer"
    await canary.end("promoted")
    assert await canary.served(user=sides[False], temperature=0) == "v2"


async def test_the_api_shows_a_roll_out_and_lets_nobody_change_the_alias_beneath_it(canary: Canary) -> None:
    await canary.start(share=0.25)
    [shown] = [one for one in (await canary.http.get("/v1/aliases")).json()["data"] if one["id"] == "prod"]
    assert (shown["model"], shown["candidate"], shown["share"]) == ("v1", "v2", 0.25)
    history = (await canary.http.get("/v1/aliases/prod/history")).json()["data"]
    assert history[0]["candidate"] == "v2" and "candidate" not in history[1]
    changed = await set_alias(canary.http, "prod", "toy")
    assert changed.status_code == 400 and "rollout abort prod" in changed.json()["error"]["message"]
    assert (await canary.http.delete("/v1/aliases/prod")).status_code == 400


async def test_a_tenant_cannot_put_its_own_adapter_in_the_place_of_a_candidate(canary: Canary) -> None:
    _, secret = KeyStore(canary.database).create(Tenant("a"), "app", ["inference"])
    headers = {"authorization": f"Bearer {secret}"}
    for name in ("a::v1", "a::v2"):
        canary.engine.loaded[name] = replace(canary.engine.load_adapter(name, name), digest=name)
    await canary.start()
    sides = {await canary.served(headers, safety_identifier=f"user-{number}") for number in range(40)}
    assert sides == {"v1", "v2"}, "an alias means the same for everybody"


async def test_a_replica_answers_with_its_release_whatever_the_share_says(
    canary: Canary, engine: FakeEngine, codec: Codec, database: Database
) -> None:
    rollout = await canary.start()
    users = [f"user-{number}" for number in range(20)]
    for model, arm in (("v1", "current"), ("v2", "candidate")):
        replica = make_service(engine, codec, model="toy", database=database, release={"prod": model})
        await replica.aliases.refresh()
        meaning = await replica.aliases.meaning_of("prod")
        assert meaning is not None and (meaning.models("local", "user:x"), meaning.side) == ((model,), arm)
        assert (await replica.aliases.models())["prod"] == model
        stored = await replica.aliases.stored_meaning_of("prod")
        assert stored is not None and stored.canary is not None and stored.canary.rollout == rollout.id
        transport = httpx.ASGITransport(create_app(replica))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            replicated = Canary(http, engine, database, replica)
            assert {await replicated.served(user=user) for user in users} == {model}


async def test_a_replica_whose_release_is_not_served_says_so_and_gives_no_other_version(
    canary: Canary, engine: FakeEngine, codec: Codec, database: Database
) -> None:
    await canary.start()
    await canary.end("promoted")
    replica = make_service(engine, codec, model="toy", database=database, release={"prod": "v3"})
    transport = httpx.ASGITransport(create_app(replica))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/v1/chat/completions", json={"model": "prod", **CHAT})
    assert answer.status_code == 404 and "v3" in answer.text


@pytest.mark.parametrize("how", TAMPERINGS)
async def test_a_server_serves_no_version_of_a_ledger_that_does_not_hold(
    http: httpx.AsyncClient,
    engine: FakeEngine,
    service: ServerContext,
    database: Database,
    tmp_path: Path,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    anchors = Anchors(tmp_path / "anchors")
    aliases, registry = AliasStore(database, anchors), RegistryStore(database, Ledger(database, anchors))
    service.state.aliases = aliases
    engine.load_adapter("v2", "/v2")
    await aliases.set("prod", "toy", "cli")
    await registry.register("prod", NewVersion("v1"), "cli")
    await registry.gate("prod#1", {"passed": False, "gates": []}, "cli")
    await registry.register("prod", NewVersion("v2"), "cli")
    await registry.start("prod#2", 0.5, {}, "cli", ungated="a test")
    body = CHAT | {"model": "prod"}
    tamper(database, how)
    refused = await http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 500 and refused.json()["error"]["code"] == "ledger_changed"
    assert "deepwell models log" in refused.json()["error"]["message"]
    assert (await http.post("/v1/chat/completions", json=body | {"model": "toy"})).status_code == 200
    assert (await http.get("/v1/models")).status_code == 200
    assert "no alias is served" in caplog.text


async def test_a_running_server_keeps_the_aliases_that_it_verified(
    http: httpx.AsyncClient, service: ServerContext, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await set_alias(http, "prod")
    body = CHAT | {"model": "prod"}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    change = sa.text("UPDATE model_ledger SET entry = replace(entry, 'toy', 'toz')")
    await database.write(lambda connection: connection.execute(change).rowcount)
    await AliasStore(database).set("other", "toy", "cli")
    await service.aliases.refresh()
    await service.aliases.refresh()
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    assert (await service.aliases.model_of("other")) is None, "it is not verified"
    assert caplog.text.count("aliases stay as they were verified") == 1
    mended = sa.text("UPDATE model_ledger SET entry = replace(entry, 'toz', 'toy')")
    await database.write(lambda connection: connection.execute(mended).rowcount)
    await service.aliases.refresh()
    assert await service.aliases.model_of("other") == "toy"
