"""Models that are loaded when a request names them: real engines in processes of their own, and the routes around them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine
from tests.waiting import until_async

from deepwell.server.app import create_app
from deepwell.server.build import build_context
from deepwell.server.context import ServerContext
from deepwell.server.observe.record import Record, observing
from deepwell.server.options import LimitsConfig, ServerOptions
from deepwell.server.residency.engine import OnDemandEngine
from deepwell.server.residency.host import ModelHost
from deepwell.server.residency.wire import HostState
from deepwell.settings import Settings
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore

ROOM = 400_000_000  # for one of the two generators, and the encoder
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.fixture(scope="module")
def store(smollm2_path: Path, minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with smollm2 under two names, and minilm; the files are those of the real store."""
    root = tmp_path_factory.mktemp("store") / "models"
    for name, source in (
        ("smollm2", smollm2_path.parent),
        ("second", smollm2_path.parent),
        ("minilm", minilm_path),
    ):
        folder = root / name
        folder.mkdir(parents=True)
        for file in source.iterdir():
            if file.name != "manifest.json":
                (folder / file.name).symlink_to(file)
        manifest = json.loads((source / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "name": name}))
    return root


def settings_of(store: Path, **more: Any) -> Settings:
    return Settings(models_dir=store, context=2048, model_loads_per_minute=0, **more)


@pytest.fixture(scope="module")
def host(store: Path) -> Iterator[ModelHost]:
    running = ModelHost(settings_of(store), served=[], budget_bytes=ROOM)
    running.start()
    yield running
    running.close()


def context_at(host: ModelHost, *, wait_s: float = 30.0, database: Database | None = None) -> ServerContext:
    options = ServerOptions(limits=LimitsConfig(max_wait_s=wait_s), model_host=host.address)
    return build_context([], options, database=database)


class Door:
    """A client of one HTTP process, which has a socket only if it has an URL."""

    def __init__(self, context: ServerContext, key: str = "", *, url: str = "") -> None:
        self.context = context
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        transport = None if url else httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(
            transport=transport, base_url=url or "http://test", headers=headers, timeout=60
        )

    async def chat(self, model: str, **more: Any) -> httpx.Response:
        body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 16, **more}
        return await self.http.post("/v1/chat/completions", json=body)

    async def embed(self, model: str = "minilm") -> httpx.Response:
        return await self.http.post("/v1/embeddings", json={"model": model, "input": "hello"})

    async def states(self) -> dict[str, str]:
        answer = await self.http.get("/v1/models")
        return {card["id"]: card["state"] for card in answer.json()["data"]}

    async def until(self, **states: str) -> None:
        """Waits until models have the states."""
        await until_async(self.states, lambda found: states.items() <= found.items())

    async def close(self) -> None:
        await self.http.aclose()
        await self.context.close_background()


@pytest.fixture
async def live(host: ModelHost) -> AsyncIterator[Door]:
    """A server with a socket, whose answers are streamed, and whose requests wait for a model for half a second."""
    running = start(context_at(host, wait_s=0.5), FakeEngine())
    opened = Door(running.service, url=running.url)
    yield opened
    await opened.http.aclose()
    running.stop()


@pytest.fixture
async def door(host: ModelHost) -> AsyncIterator[Door]:
    opened = Door(context_at(host))
    yield opened
    await opened.close()


async def test_a_request_loads_the_model_that_it_names(door: Door, store: Path) -> None:
    answer = await door.chat("smollm2")
    assert answer.status_code == 200
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    assert (await door.states()) == {"smollm2": "loaded", "second": "not_loaded", "minilm": "not_loaded"}
    text = (await door.http.get("/metrics")).text
    assert 'deepwell_steps_total{model="smollm2"}' in text and "deepwell_model_loads_total 1.0" in text


async def test_the_first_page_lists_the_models_that_may_be_loaded(door: Door) -> None:
    text = (await door.http.get("/")).text
    assert all(f"<code>{name}</code>" in text for name in ("smollm2", "second", "minilm"))
    assert "loads a model when a request names it" in text
    assert "MODEL" not in text and "&quot;model&quot;: &quot;minilm&quot;" not in text


async def test_a_damaged_manifest_hides_one_model_and_no_other(door: Door, store: Path) -> None:
    damaged = store / "damaged"
    damaged.mkdir()
    try:
        (damaged / "manifest.json").write_text('{"name": "damaged", "files": [], "of_a_newer_version": 1}')
        assert set(await door.states()) == {"smollm2", "second", "minilm"}
        answer = await door.chat("damaged")
        assert answer.status_code >= 400 and "manifest" in answer.json()["error"]["message"]
    finally:
        shutil.rmtree(damaged)


async def test_errors_of_the_host_are_said_in_the_language_of_the_request(door: Door) -> None:
    answer = await door.http.get("/v1/models/qwen3-4b", headers={"accept-language": "zh-CN"})
    assert answer.status_code == 404 and "无需重启" in answer.json()["error"]["message"]


async def test_concurrent_requests_share_one_load_and_another_model_takes_the_room(door: Door) -> None:
    await door.chat("smollm2")
    before = door.context.on_demand.state.loads if door.context.on_demand else 0
    answers = await asyncio.gather(*(door.chat("second", max_tokens=4) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert door.context.on_demand is not None and door.context.on_demand.state.loads == before + 1
    await door.until(smollm2="not_loaded", second="loaded")


@contextmanager
def standing_still(host: ModelHost, model: str) -> Iterator[None]:
    """The engine of a model makes no step within the block, so that no answer ends there."""
    pid = host.pids()[model]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_stream_is_never_cut_for_another_model(host: ModelHost, door: Door, live: Door) -> None:
    await door.chat("smollm2", max_tokens=2)
    body = {"model": "smollm2", "messages": QUESTION, "max_tokens": 600, "stream": True, "ignore_eos": True}
    async with live.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        with standing_still(host, "smollm2"):
            refused = await live.chat("second")
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "model_not_loaded"
        assert "'smollm2'" in refused.json()["error"]["message"]
        rest = [line async for line in lines]
    assert [line for line in rest if line][-1] == "data: [DONE]"


async def test_embeddings_and_grammars_hold_the_model_too(door: Door) -> None:
    assert len((await door.embed()).json()["data"][0]["embedding"]) == 384
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 9}},
        "required": ["city"],
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": False}}
    answer = await door.chat("smollm2", response_format=format_, max_tokens=60)
    assert set(json.loads(answer.json()["choices"][0]["message"]["content"])) == {"city"}


async def test_a_model_is_unloaded_by_hand_once_nobody_uses_it(
    host: ModelHost, door: Door, live: Door
) -> None:
    await door.chat("smollm2", max_tokens=2)
    body = {"model": "smollm2", "messages": QUESTION, "max_tokens": 600, "stream": True, "ignore_eos": True}
    async with live.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        await anext(stream.aiter_lines())
        with standing_still(host, "smollm2"):
            busy = await door.http.delete("/v1/models/smollm2")
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "model_busy")
    gone = await until_async(
        lambda: door.http.delete("/v1/models/smollm2"), lambda answer: answer.status_code != 409
    )
    assert gone.json() == {"object": "model", "id": "smollm2", "deleted": True}
    await door.until(smollm2="not_loaded")
    assert (await door.http.delete("/v1/models/smollm2")).status_code == 404
    assert (await door.chat("smollm2", max_tokens=2)).status_code == 200


async def test_only_an_administrator_unloads_what_all_tenants_share(
    host: ModelHost, door: Door, tmp_path: Path
) -> None:
    await door.chat("smollm2", max_tokens=2)
    database = Database.open(tmp_path / "keys.db")
    keys = KeyStore(database)
    for scopes, status in ((["inference"], 403), (["admin"], 200)):
        _, key = keys.create(Tenant("a"), "k", scopes)
        keyed = Door(context_at(host, database=database), key)
        assert (await keyed.http.delete("/v1/models/smollm2")).status_code == status
        await keyed.http.aclose()
        await keyed.context.close_background()
    database.close()


@pytest.mark.parametrize(
    "name", ["nothing", "../smollm2", "/etc/passwd", "./second", "smollm2/", ".partial", ""]
)
async def test_only_names_of_the_store_are_loaded(door: Door, name: str, store: Path) -> None:
    answer = await door.chat(name)
    assert answer.status_code in (400, 404)
    assert str(store) not in answer.text


async def test_a_name_of_the_catalog_is_not_pulled_but_says_how(door: Door) -> None:
    answer = await door.chat("qwen2.5-7b")
    assert answer.status_code == 404
    assert "deepwell pull qwen2.5-7b" in answer.json()["error"]["message"]


async def test_two_http_processes_see_one_state(host: ModelHost, door: Door) -> None:
    other = Door(context_at(host))
    await door.chat("second", max_tokens=2)
    assert (await other.states())["second"] == "loaded"
    assert (await other.chat("second", max_tokens=2)).status_code == 200
    assert (await other.http.delete("/v1/models/second")).status_code == 200
    await door.until(second="not_loaded")
    assert (await door.chat("second", max_tokens=2)).status_code == 200
    await other.close()


async def test_the_leases_of_a_process_that_is_gone_end(host: ModelHost, door: Door) -> None:
    other = Door(context_at(host))
    assert other.context.on_demand is not None
    await other.context.on_demand.client.acquire("smollm2", "t", 30.0)
    assert (await door.http.delete("/v1/models/smollm2")).status_code == 409
    await other.close()
    await until_async(
        lambda: door.http.delete("/v1/models/smollm2"), lambda answer: answer.status_code != 409
    )


async def test_an_engine_that_dies_is_replaced(host: ModelHost, door: Door) -> None:
    await door.chat("smollm2", max_tokens=2)
    os.kill(host.pids()["smollm2"], signal.SIGKILL)
    assert (await door.chat("smollm2", max_tokens=2)).status_code == 200


async def test_hostile_bytes_end_only_their_connection(host: ModelHost, door: Door) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(host.address)
        sock.sendall(b"\xff\xff\xff\xffnonsense")
        sock.settimeout(30)
        while sock.recv(1 << 16):
            pass
    assert await door.states()


def test_the_list_of_allowed_models_limits_what_is_offered(store: Path) -> None:
    from deepwell.errors import ModelNotFound
    from deepwell.server.residency.shelf import ModelShelf

    shelf = ModelShelf(settings_of(store, allowed_models="minilm second"), ["second"])
    assert [offer.name for offer in shelf.list()] == ["minilm"]
    with pytest.raises(ModelNotFound, match="may not be loaded"):
        shelf.look("smollm2")


def test_a_damaged_model_is_left_out_and_says_why(store: Path, tmp_path: Path) -> None:
    from deepwell.errors import UnsupportedModel
    from deepwell.server.residency.shelf import ModelShelf

    root = tmp_path / "models"
    shutil.copytree(store, root, symlinks=True)
    (path,) = (root / "second").glob("*.gguf")
    path.unlink()
    path.write_bytes(b"GGUF" + b"\xff" * 60)
    shelf = ModelShelf(settings_of(root), [])
    assert [offer.name for offer in shelf.list()] == ["smollm2", "minilm"]
    with pytest.raises(UnsupportedModel):
        shelf.look("second")


def test_closing_the_host_leaves_no_process(store: Path) -> None:
    running = ModelHost(settings_of(store), served=[], budget_bytes=ROOM)
    running.start()

    async def use() -> None:
        door = Door(context_at(running))
        await door.embed()
        await door.close()

    asyncio.run(use())
    (pid,) = running.pids().values()
    folder = Path(running.address).parent
    running.close()
    assert not Path(f"/proc/{pid}").exists() and not folder.exists()


async def test_uses_of_one_model_never_end_each_others(host: ModelHost, door: Door) -> None:
    await door.chat("smollm2", max_tokens=2)
    models = door.context.on_demand
    assert models is not None and models.client.on_state is not None
    first = (await models.find("smollm2")).model.engine
    assert isinstance(first, OnDemandEngine)
    async with first.lease.used():
        models.client.on_state(HostState())  # as told while a request that has found the model waits for it
        second = (await models.find("smollm2")).model.engine
        assert second is not first
        await second.embed([1])
        assert (await door.http.delete("/v1/models/smollm2")).status_code == 409


async def test_ollamas_clients_load_list_and_unload(door: Door) -> None:
    async def ask(path: str, **body: Any) -> dict[str, Any]:
        answer = await door.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    await door.chat("second", max_tokens=2)
    listed = (await door.http.get("/api/tags")).json()["models"]
    assert {one["name"] for one in listed} == {"smollm2:latest", "second:latest", "minilm:latest"}
    assert (await ask("/api/show", model="minilm"))["capabilities"] == ["embedding"]
    assert (await ask("/api/chat", model="smollm2:latest", messages=[]))["done_reason"] == "load"
    await door.until(smollm2="loaded")
    running = {one["name"]: one for one in (await door.http.get("/api/ps")).json()["models"]}
    assert running["smollm2:latest"]["size"] > 10**8
    assert running["smollm2:latest"]["expires_at"] < "9999" and "minilm:latest" not in running
    options = {"temperature": 0, "num_predict": 16}
    answer = await ask("/api/chat", model="smollm2", messages=QUESTION, stream=False, options=options)
    assert "Paris" in answer["message"]["content"]
    gone = await ask("/api/generate", model="smollm2:latest", keep_alive=0)
    assert gone["done_reason"] == "unload"
    await door.until(smollm2="not_loaded")


async def test_the_wait_for_a_model_is_a_span_of_its_request(host: ModelHost, door: Door) -> None:
    await door.http.delete("/v1/models/smollm2")
    await door.until(smollm2="not_loaded")
    models = door.context.on_demand
    assert models is not None
    engine = (await models.find("smollm2")).model.engine
    record = Record.begin("POST", "/v1/chat/completions", None, None)
    observing(record)
    await engine.embed([1])
    await engine.embed([1])
    (phase,) = [one for one in record.phases if one.name == "load" and one.end - one.begin > 0.1]
    assert phase.attributes == {"gen_ai.request.model": "smollm2"}
