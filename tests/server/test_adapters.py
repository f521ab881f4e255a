"""Adapters as models: listed, chosen, loaded and unloaded over HTTP, and never from outside their directory."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from pydantic import SecretStr
from starlette.testclient import TestClient
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until_async

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import AdapterInfo
from deepwell.engine.weights.adapters import Linear, linears_of
from deepwell.errors import InvalidRequest
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.server.access.adapter_names import adapters_of, check_name, engine_name
from deepwell.server.app import create_app, route_table
from deepwell.storage.batches import BATCH_JOB
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell_bench.workloads.random_adapter import write_random_adapter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one folder that the fake engine takes for an adapter, and things around it."""
    (tmp_path / "adapters" / "sql").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "adapters" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "adapters" / "mixed").mkdir()
    (tmp_path / "adapters" / "mixed" / "adapter_config.json").symlink_to(tmp_path / "outside" / "x")
    return (tmp_path / "adapters").resolve()


def client_of(engine: FakeEngine, codec: Codec, root: Path | None) -> httpx.AsyncClient:
    app = create_app(make_service(engine, codec, model="toy", adapter_dir=root))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_a_loaded_adapter_is_a_model(engine: FakeEngine, codec: Codec, root: Path) -> None:
    async with client_of(engine, codec, root) as http:
        body = {"lora_name": "sql", "lora_path": "sql"}
        assert (await http.post("/v1/load_lora_adapter", json=body)).status_code == 200
        assert engine.loaded["sql"].path == str(root / "sql")
        cards = (await http.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["toy", "sql"]
        assert "parent" not in cards[0] and cards[1]["parent"] == "toy"
        assert (await http.get("/v1/models/sql")).json() == cards[1]
        chat = {"model": "sql", "messages": [{"role": "user", "content": "hi"}]}
        answer = (await http.post("/v1/chat/completions", json=chat)).json()
        assert answer["model"] == "sql" and engine.seen[-1].adapter == "sql"
        answer = (await http.post("/v1/completions", json={"model": "sql", "prompt": "hi"})).json()
        assert answer["model"] == "sql" and engine.seen[-1].adapter == "sql"
        await http.post("/v1/completions", json={"model": "toy", "prompt": "hi"})
        assert engine.seen[-1].adapter == ""
        assert (await http.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})).status_code == 200
        gone = await http.post("/v1/chat/completions", json=chat)
        assert gone.status_code == 404 and gone.json()["error"]["code"] == "model_not_found"
        assert (await http.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})).status_code == 404


@pytest.mark.parametrize(
    "path", ["..", "../outside", "link", "mixed", "/etc", "missing", "sql/../../outside", "a\0b", "x" * 5000]
)
async def test_paths_outside_are_refused(path: str, engine: FakeEngine, codec: Codec, root: Path) -> None:
    async with client_of(engine, codec, root) as http:
        answer = await http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": path})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "lora_path"
    assert not engine.loaded


async def test_the_base_keeps_its_name(engine: FakeEngine, codec: Codec, root: Path) -> None:
    async with client_of(engine, codec, root) as http:
        answer = await http.post("/v1/load_lora_adapter", json={"lora_name": "toy", "lora_path": "sql"})
    assert answer.status_code == 400 and not engine.loaded


async def test_without_a_directory_there_are_no_such_routes(engine: FakeEngine, codec: Codec) -> None:
    async with client_of(engine, codec, None) as http:
        for verb in ("load", "unload"):
            answer = await http.post(f"/v1/{verb}_lora_adapter", json={"lora_name": "x", "lora_path": "sql"})
            assert answer.status_code == 404


# ---- tenants


@pytest.fixture
def embedder(codec: Codec) -> ServedModel:
    return ServedModel("minilm", FakeEngine(), codec, tasks=("embed",))


class Door:
    """One application with keys of two tenants, an administrator and the application's engine."""

    def __init__(
        self, engine: FakeEngine, codec: Codec, root: Path, embedder: ServedModel, database: Database
    ):
        service = make_service(
            engine,
            codec,
            model="toy",
            adapter_dir=root,
            embedder=embedder,
            database=database,
            response_cache_bytes=1 << 20,
        )
        keys = KeyStore(database)
        scopes = {
            "a": ["inference", "files", "adapters"],
            "b": ["inference", "files", "adapters"],
            "root": ["admin"],
        }
        self.texts = {name: keys.create(Tenant(name), name, given)[1] for name, given in scopes.items()}
        self.service = service
        self.engine = engine
        self.app = create_app(service)

    async def post(self, who: str, path: str, **body: object) -> httpx.Response:
        return await self._ask(who, "POST", path, json=body)

    async def get(self, who: str, path: str) -> httpx.Response:
        return await self._ask(who, "GET", path)

    async def _ask(self, who: str, method: str, path: str, **more: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.texts[who]}"}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://test"
        ) as client:
            return await client.request(method, f"/v1/{path}", headers=headers, **more)  # type: ignore[arg-type]

    async def load(self, who: str, name: str, **more: object) -> int:
        answer = await self.post(who, "load_lora_adapter", lora_name=name, lora_path="sql", **more)
        return answer.status_code

    async def unload(self, who: str, name: str, **more: object) -> int:
        return (await self.post(who, "unload_lora_adapter", lora_name=name, **more)).status_code

    async def models(self, who: str) -> list[str]:
        return [card["id"] for card in (await self.get(who, "models")).json()["data"]]

    async def complete(self, who: str, model: str) -> httpx.Response:
        return await self.post(who, "completions", model=model, prompt="hi", temperature=0)


@pytest.fixture
def door(
    engine: FakeEngine, codec: Codec, root: Path, embedder: ServedModel, tmp_path: Path
) -> Iterator[Door]:
    database = Database.open(tmp_path / "keys.db")
    yield Door(engine, codec, root, embedder, database)
    database.close()


async def test_an_adapter_takes_no_name_of_a_served_model(door: Door) -> None:
    for who in ("a", "root"):
        for name in ("minilm", "toy", "a::sql", "b::", "", "line\nbreak", "x" * 257):
            assert await door.load(who, name) == 400
            assert await door.load(who, name, shared=True) in (400, 403)
    assert not door.engine.loaded
    answer = await door.post("b", "embeddings", model="minilm", input="hi")
    assert answer.status_code == 200 and answer.json()["model"] == "minilm"


async def test_a_model_answers_by_its_name_even_if_the_engine_has_an_adapter_of_it(door: Door) -> None:
    door.engine.load_adapter("minilm", "/somewhere")
    assert (await door.service.find("minilm", Tenant("a")))[1] == ""


async def test_a_tenant_loads_a_bounded_number_and_may_still_swap_its_own(door: Door) -> None:
    assert [await door.load("a", f"sql-{number}") for number in range(17)] == [200] * 16 + [400]
    assert await door.load("a", "sql-3") == 200 and await door.load("b", "sql") == 200


async def test_tenants_have_adapters_of_one_name_and_see_their_own(door: Door) -> None:
    assert await door.load("a", "sql") == 200
    assert await door.models("a") == ["toy", "minilm", "sql"]
    for who in ("b", "root"):
        assert await door.models(who) == ["toy", "minilm"]
        assert (await door.get(who, "models/sql")).status_code == 404
        answer = await door.complete(who, "sql")
        assert answer.status_code == 404 and "sql" not in answer.json()["error"]["message"].replace(
            "'sql' is", ""
        )
        assert await door.unload(who, "sql") == 404
        assert (await door.complete(who, "a::sql")).status_code == 404
        assert await door.unload(who, "a::sql") == 404
    assert await door.load("b", "sql") == 200
    assert len(door.engine.loaded) == 2
    for who in ("a", "b"):
        answer = await door.complete(who, "sql")
        assert answer.json()["model"] == "sql" and door.engine.seen[-1].adapter == f"{who}::sql"
        card = (await door.get(who, "models/sql")).json()
        assert card["id"] == "sql" and card["parent"] == "toy"
    assert await door.unload("b", "sql") == 200
    assert await door.models("a") == ["toy", "minilm", "sql"] and await door.models("b") == ["toy", "minilm"]


async def test_every_route_that_takes_a_model_takes_the_tenants_own_adapters_alone(door: Door) -> None:
    assert await door.load("a", "sql") == 200
    for operation in route_table().operations.values():
        if (
            operation.example is None or operation.name == "moderation"
        ):  # which no model that is served answers
            continue
        body = json.loads(Template(operation.example).substitute(model="sql", text="hi"))
        path = f"../{operation.path.removeprefix('/')}"
        assert (await door.post("a", path, **body)).status_code == 200, path
        answer = await door.post("b", path, **body)
        assert answer.status_code == 404 and "a::sql" not in answer.text, path


async def test_an_administrator_shares_an_adapter_and_no_other_takes_it_away(door: Door) -> None:
    assert await door.load("a", "house", shared=True) == 403
    assert await door.load("root", "house", shared=True) == 200
    assert (await door.complete("b", "house")).json()["model"] == "house"
    assert door.engine.seen[-1].adapter == "house"
    assert await door.load("a", "house") == 400
    assert await door.unload("a", "house") == 403
    assert await door.unload("a", "house", shared=True) == 403
    assert await door.unload("root", "house", shared=True) == 200
    assert await door.models("b") == ["toy", "minilm"]


async def test_sharing_changes_nothing_that_a_tenant_has(door: Door) -> None:
    assert await door.load("a", "sql") == 200
    assert await door.load("root", "sql", shared=True) == 200
    for who, expected in (("a", "a::sql"), ("b", "sql")):
        await door.complete(who, "sql")
        assert door.engine.seen[-1].adapter == expected
        assert await door.models(who) == ["toy", "minilm", "sql"]
    assert await door.load("a", "sql") == 200  # a swap of its own


async def test_batches_and_stored_completions_keep_to_the_adapters_of_their_tenant(door: Door) -> None:
    assert await door.load("a", "sql") == 200
    state = door.service.state
    line = '{"custom_id":"1","method":"POST","url":"/v1/completions","body":{"model":"sql","prompt":"hi"}}'

    async def content() -> AsyncIterator[bytes]:
        yield line.encode()

    ended = {}
    for worker in door.app.state.workers:
        worker.start()
    try:
        for who in ("a", "b"):
            tenant = Tenant(who)
            file = await state.files.create(tenant, filename="in", purpose="batch", content=content())
            batch = await state.batches.create(
                tenant, endpoint="/v1/completions", input_file_id=file.id, completion_window="24h"
            )
            state.wake(BATCH_JOB)
            ended[who] = await until_async(
                partial(state.batches.get, tenant, batch.id), lambda now: now.ended
            )
    finally:
        for worker in door.app.state.workers:
            await worker.stop()
    assert (ended["a"].status, ended["b"].status) == ("completed", "failed")
    assert "model_not_found" in (ended["b"].errors or "")
    chat = {"model": "sql", "messages": [{"role": "user", "content": "hi"}], "store": True}
    assert (await door.post("a", "chat/completions", **chat)).status_code == 200
    assert (await door.get("a", "chat/completions?model=sql")).json()["data"][0]["model"] == "sql"
    assert (await door.get("b", "chat/completions?model=sql")).json()["data"] == []


def test_a_neighbours_adapters_do_not_show_in_the_cache(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is given again, by the bytes of its request, as if nobody else had loaded anything."""
    asked = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
    rendered: list[object] = []
    model = door.service.main.model
    original = model.encode_chat

    async def encode_chat(*given: Any, **more: Any) -> list[int]:
        rendered.append(given)
        return await original(*given, **more)

    monkeypatch.setattr(model, "encode_chat", encode_chat)
    with TestClient(door.app) as client:

        def post(who: str, path: str, body: dict[str, object]) -> None:
            headers = {"authorization": f"Bearer {door.texts[who]}"}
            assert client.post(f"/v1/{path}", json=body, headers=headers).status_code == 200

        for _ in range(2):  # the second is a hit, and is kept by its bytes
            post("a", "chat/completions", asked)
        assert len(rendered) == 2
        post("b", "load_lora_adapter", {"lora_name": "sql", "lora_path": "sql"})
        post("a", "chat/completions", asked)
        assert len(rendered) == 2
        post("a", "load_lora_adapter", {"lora_name": "sql", "lora_path": "sql"})
        post("a", "chat/completions", asked)
        assert len(rendered) == 3


@pytest.mark.parametrize("name", ["../x", "a/../b", "/x", "x/", "a//b", ".", ".."])
def test_a_name_that_clients_would_shorten_in_a_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="/v1/models/NAME"):
        check_name(name, ())


def test_a_name_of_a_conversation_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="adapters of conversations"):
        check_name("session:0f", ())


def test_a_name_may_have_an_owner_before_it() -> None:
    check_name("acme/sql.v2", ())


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "a", "b", "ab", "a-b"]),
            st.sampled_from(["x", "y", "a", "b:", ":b", "a:x"]),
        ),
        max_size=8,
    )
)
def test_names_in_the_engine_are_unambiguous(loads: list[tuple[str | None, str]]) -> None:
    infos = {}
    for owner, name in loads:
        check_name(name, ())
        known = engine_name(None if owner is None else Tenant(owner), name)
        infos[known] = AdapterInfo(known, f"{owner}/{name}", "0" * 32, 8)
    assert len(infos) == len(set(loads))
    for tenant in ("a", "b", "ab", "a-b"):
        expected = {name: f"{None}/{name}" for owner, name in loads if owner is None}
        expected |= {name: f"{owner}/{name}" for owner, name in loads if owner == tenant}
        found = adapters_of(list(infos.values()), Tenant(tenant))
        assert {name: info.path for name, info in found.items()} == expected


# ---- the real engine


@pytest.fixture
def linears(smollm2_path: Path) -> dict[str, Linear]:
    checkpoint = open_checkpoint(smollm2_path)
    return linears_of(tensor_plan(checkpoint.config), checkpoint)


@pytest.fixture
def real(smollm2_path: Path, tmp_path: Path) -> Iterator[Live]:
    engine = open_engine(smollm2_path, EngineOptions(context=512), quiet=True)
    service = make_service(engine, Codec.load(smollm2_path), model="smollm2", adapter_dir=tmp_path)
    running = start(service, engine)
    yield running
    running.stop()
    engine.close()


def test_load_swap_and_unload_while_serving(real: Live, linears: dict[str, Linear], tmp_path: Path) -> None:
    for seed in range(2):
        write_random_adapter(tmp_path / str(seed), linears, rank=8, seed=seed, alpha=80)
    question = [{"role": "user", "content": "What is the capital of France?"}]

    def manage(verb: str, **body: str) -> httpx.Response:
        return httpx.post(f"{real.url}/v1/{verb}_lora_adapter", json={"lora_name": "a", **body}, timeout=60)

    with OpenAI(
        base_url=f"{real.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as sdk:

        def ask(model: str) -> str:
            answer = sdk.chat.completions.create(
                model=model, messages=question, temperature=0, max_tokens=12, extra_body={"ignore_eos": True}
            )
            assert answer.model == model
            return answer.choices[0].message.content or ""

        plain = ask("smollm2")
        assert manage("load", lora_path="0").status_code == 200
        first = ask("a")
        assert [model.id for model in sdk.models.list()] == ["smollm2", "a"]

        # The base answers beside it, and its answer does not move.
        answers: list[str] = []
        threads = [threading.Thread(target=lambda m=m: answers.append(ask(m))) for m in ("smollm2", "a") * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == sorted([plain, first] * 2)

        assert manage("load", lora_path="1").status_code == 200  # a swap
        second = ask("a")
        assert len({plain, first, second}) == 3
        (tmp_path / "1" / "adapter_config.json").write_text("{}")
        assert manage("load", lora_path="1").status_code == 422
        assert ask("a") == second  # a refused file changes nothing
        assert manage("unload").status_code == 200
        with pytest.raises(openai.NotFoundError):
            ask("a")
        assert ask("smollm2") == plain


def test_the_keys_guard_the_routes(codec: Codec, tmp_path: Path) -> None:
    service = make_service(
        FakeEngine(), codec, model="toy", api_keys=[SecretStr("k" * 16)], adapter_dir=tmp_path
    )
    client = TestClient(create_app(service))
    for verb in ("load", "unload"):
        assert client.post(f"/v1/{verb}_lora_adapter", json={"lora_name": "x"}).status_code == 401
