"""The catalog over HTTP: what could be fetched, the memory that it would need, and pulls that resume and can be cancelled."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.models.builders import TINY, write_model_directory
from tests.models.http_files import FileServer, serve_files
from tests.models.test_sources import publish_hub
from tests.server.fakes import VOCAB, FakeEngine, make_service, write_tokenizer
from tests.waiting import until_async

from deepwell.dialogue.opening import plan_model
from deepwell.dialogue.text import Codec
from deepwell.models.store.catalog import CatalogEntry, shipped_catalog
from deepwell.models.store.store import ModelStore
from deepwell.server.app import create_app
from deepwell.server.build import build_context
from deepwell.server.context import ServerContext
from deepwell.server.families.catalog.child import Received
from deepwell.server.families.catalog.plans import ModelPlans
from deepwell.server.families.catalog.updates import UPDATES_JOB, update_chores
from deepwell.server.families.catalog.worker import PULL_JOB, payload_of, pull_worker
from deepwell.server.families.job_worker import JobWorker
from deepwell.server.options import CatalogOptions, FileOptions, ServerOptions
from deepwell.server.residency.host import ModelHost
from deepwell.settings import Settings
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.keys import KeyStore

RECEIVED = 40_000  # bytes of the weights that arrive before the hub stops


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


def publish_tiny(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[FileServer]:
    """Runs a hub with a small model that can be served, until the generator goes on."""
    files_at = write_model_directory(write_tokenizer(folder / "model"), replace(TINY, vocab_size=VOCAB))
    with serve_files() as server:
        files = sorted(files_at.iterdir(), key=lambda path: path.suffix != ".safetensors")
        publish_hub(server, {path.name: path.read_bytes() for path in files})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
        if server.held is not None:
            server.held.set()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    yield from publish_tiny(monkeypatch, tmp_path)


def hold_in_the_weights(hub: FileServer) -> None:
    """Sends the two documents of the hub and the configuration, and stops within the weights."""
    hub.held, hub.cut_after = threading.Event(), [1 << 20] * 3 + [RECEIVED]


def release(hub: FileServer) -> None:
    """Lets the hub send everything from now on."""
    assert hub.held is not None
    hub.held.set()
    hub.cut_after.clear()
    hub.ranges.clear()


@dataclass
class Door:
    """One HTTP process with its pulls."""

    context: ServerContext
    http: httpx.AsyncClient
    store: ModelStore

    async def pull(self, model: str = "tiny") -> dict[str, Any]:
        answer = await self.http.post("/v1/catalog/pull", json={"model": model})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def job(self, id: str) -> dict[str, Any]:
        return (await self.http.get(f"/v1/jobs/{id}")).json()

    async def ended(self, id: str) -> dict[str, Any]:
        return await self.until(id, lambda job: job["finished_at"] is not None)

    async def until(self, id: str, holds: Any) -> dict[str, Any]:
        return await until_async(lambda: self.job(id), holds)


def entry(**changes: Any) -> CatalogEntry:
    return replace(CatalogEntry("tiny", "A small model", "MIT", ("hf:org/m",), languages=("en",)), **changes)


def options_of(root: Path, **settings: Any) -> CatalogOptions:
    return CatalogOptions(Settings(models_dir=root / "models", **settings), {"tiny": entry()})


@asynccontextmanager
async def opened(context: ServerContext, *, pulls: bool = True) -> AsyncIterator[Door]:
    catalog = context.options.catalog
    assert catalog is not None
    worker = pull_worker(context)
    transport = httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        if pulls:
            worker.start()
        yield Door(context, http, ModelStore(catalog.settings.models_dir))
        await worker.stop()
    await context.close_background()


def service_of(
    codec: Codec, database: Database, options: CatalogOptions, *, lease_s: float = 10.0
) -> ServerContext:
    return make_service(
        FakeEngine(),
        codec,
        model="toy",
        database=database,
        catalog=options,
        files=FileOptions(job_lease_s=lease_s),
    )


@pytest.fixture
async def door(codec: Codec, database: Database, tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(service_of(codec, database, options_of(tmp_path), lease_s=1.0)) as found:
        yield found


@pytest.fixture
async def shipped(codec: Codec, database: Database, tmp_path: Path) -> AsyncIterator[Door]:
    """The shipped catalog over an empty store."""
    catalog = CatalogOptions(Settings.load(models_dir=tmp_path / "models"))
    async with opened(service_of(codec, database, catalog), pulls=False) as found:
        yield found


async def test_the_catalog_tells_what_could_be_fetched(shipped: Door) -> None:
    page = (await shipped.http.get("/v1/catalog")).json()
    assert [one["id"] for one in page["data"]] == list(shipped_catalog())
    assert (page["object"], page["has_more"]) == ("list", False)
    assert page["first_id"] == "smollm2" and page["last_id"] == page["data"][-1]["id"]
    models = {one["id"]: one for one in page["data"]}
    small = models["smollm2"]
    memory = small["memory_bytes"]
    assert 100e6 < memory < 400e6
    assert small == {
        "object": "catalog.model",
        "id": "smollm2",
        "kind": "chat",
        "description": shipped_catalog()["smollm2"].summary,
        "languages": ["en"],
        "license": "Apache-2.0",
        "parameters": 134_515_008,
        "download_bytes": 98_362_432,
        "memory_bytes": memory,
        "downloaded": False,
        "served": False,
    }
    kinds = {name for name, one in models.items() if one["kind"] == "embedding"}
    assert kinds == {"minilm", "e5-small", "e5-small-q4"}
    assert all(
        one["memory_bytes"] and one["parameters"]
        for one in models.values()
        if one["kind"] in ("chat", "embedding")
    )


async def test_the_catalog_has_pages_in_both_directions(shipped: Door) -> None:
    names, seen, after = list(shipped_catalog()), [], None
    for _ in names:
        query = {"limit": 7, "order": "desc"} | ({} if after is None else {"after": after})
        page = (await shipped.http.get("/v1/catalog", params=query)).json()
        seen += [one["id"] for one in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == names[::-1]
    assert (await shipped.http.get("/v1/catalog", params={"after": "none"})).status_code == 400


async def test_the_plan_of_a_model_that_is_not_here(shipped: Door) -> None:
    query = {"precision": "int4", "context": 4096}
    plan = (await shipped.http.get("/v1/catalog/qwen3-8b/plan", params=query)).json()
    assert (plan["object"], plan["model"]) == ("memory_plan", "qwen3-8b")
    assert (plan["precision"], plan["context"]) == ("int4", 4096)
    assert [line["name"] for line in plan["lines"]] == ["weights", "kv_cache", "workspace", "server"]
    assert sum(line["bytes"] for line in plan["lines"]) == plan["total_bytes"] > 4e9
    assert plan["fits"] == (plan["total_bytes"] <= plan["available_bytes"])
    assert (plan["advice"] is None) == plan["fits"]
    auto = (await shipped.http.get("/v1/catalog/qwen3-8b/plan")).json()
    assert auto["precision"] == "int8" and auto["total_bytes"] > plan["total_bytes"]


async def test_a_plan_that_does_not_fit_says_what_would(shipped: Door, tmp_path: Path) -> None:
    settings = Settings.load(models_dir=tmp_path / "models")
    plans = ModelPlans(CatalogOptions(settings))
    made, error = plans.plan("qwen2.5-0.5b", settings.model_copy(update={"precision": "bf16"}), 900_000_000)
    assert made.total_bytes > 900_000_000
    assert error is not None and "--precision int8" in error.fix


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("none/plan", 404),
        ("..%2f..%2fetc%2fpasswd/plan", 404),
        ("smollm2/plan?precision=int3", 400),
        ("smollm2/plan?context=0", 400),
        ("smollm2/plan?context=99999", 400),
        ("smollm2/plan?threads=1", 400),
        ("a%00b/plan", 404),
    ],
)
async def test_a_plan_of_nothing_is_refused(shipped: Door, path: str, status: int) -> None:
    answer = await shipped.http.get(f"/v1/catalog/{path}")
    assert answer.status_code == status, answer.text


async def test_a_pull_brings_a_model_with_its_progress(door: Door, hub: FileServer) -> None:
    queued = await door.pull()
    assert (queued["object"], queued["kind"], queued["error"]) == ("job", "model.pull", None)
    job = await door.ended(queued["id"])
    assert job["status"] == "succeeded", job
    manifest = door.store.get("tiny").manifest
    assert manifest is not None
    assert job["result"] == {
        "model": "tiny",
        "size_bytes": manifest.size_bytes,
        "source": "hf:org/m",
        "revision": "c" * 40,
        "license": "MIT",
    }
    assert job["progress"]["done"] == manifest.size_bytes and job["progress"]["unit"] == "bytes"
    assert job["progress"]["model"] == "tiny"
    [listed] = (await door.http.get("/v1/catalog")).json()["data"]
    assert listed["downloaded"] and not listed["served"]
    assert listed["download_bytes"] == manifest.size_bytes
    options = door.context.options.catalog
    assert options is not None
    planned = plan_model(options.settings.with_model("tiny"), is_additional=True, available_bytes=1 << 50)
    assert listed["memory_bytes"] == planned.memory.total_bytes
    plan = (await door.http.get("/v1/catalog/tiny/plan")).json()
    assert plan["fits"] and plan["total_bytes"] == planned.memory.total_bytes
    again = await door.ended((await door.pull())["id"])
    assert again["status"] == "succeeded" and again["result"] == job["result"]


async def test_a_pull_that_runs_is_joined_cancelled_and_later_resumed(door: Door, hub: FileServer) -> None:
    hold_in_the_weights(hub)
    job = await door.pull()
    assert (await door.pull())["id"] == job["id"], "the same pull is not queued twice"
    await door.until(
        job["id"], lambda now: now["progress"] is not None and now["progress"]["done"] > RECEIVED
    )
    asked = (await door.http.post(f"/v1/jobs/{job['id']}/cancel")).json()
    assert asked["cancel_requested"]
    ended = await door.ended(job["id"])
    assert (ended["status"], ended["result"]) == ("cancelled", None)
    assert door.store.names() == []
    release(hub)
    again = await door.ended((await door.pull())["id"])
    assert again["status"] == "succeeded" and again["id"] != job["id"]
    [resumed] = [one for one in hub.ranges if one is not None]
    assert int(resumed.removeprefix("bytes=").removesuffix("-")) > RECEIVED // 2, "what was received stays"


async def test_a_pull_of_a_server_that_was_killed_is_taken_over(
    codec: Codec, database: Database, tmp_path: Path, hub: FileServer
) -> None:
    context = service_of(codec, database, options_of(tmp_path), lease_s=0.3)
    jobs = context.state.jobs
    queued = await jobs.enqueue_once(LOCAL, PULL_JOB, payload_of("tiny"))
    assert (await jobs.claim([PULL_JOB], "a server that is dead", 0.3)) is not None
    async with opened(context) as door:
        job = await door.ended(queued.id)
        assert (job["status"], job["attempts"]) == ("succeeded", 2), job
        assert door.store.names() == ["tiny"]


async def test_a_server_that_stops_leaves_a_pull_to_the_next(
    codec: Codec, database: Database, tmp_path: Path, hub: FileServer
) -> None:
    hold_in_the_weights(hub)
    async with opened(service_of(codec, database, options_of(tmp_path))) as first:
        job = await first.pull()
        await first.until(job["id"], lambda now: now["progress"] is not None)
    release(hub)
    async with opened(service_of(codec, database, options_of(tmp_path))) as second:
        assert (await second.ended(job["id"]))["status"] == "succeeded"


async def test_a_pull_that_fails_says_why_and_not_where_the_store_is(door: Door, hub: FileServer) -> None:
    hub.files["/org/m/resolve/" + "c" * 40 + "/config.json"] = b"{}"
    job = await door.ended((await door.pull())["id"])
    assert job["status"] == "failed" and job["error"]
    assert str(door.store.root) not in job["error"]
    assert door.store.names() == []


@pytest.mark.parametrize(
    "model",
    [
        "none",
        "hf:org/m",
        "/etc/passwd",
        "../tiny",
        "http://127.0.0.1/m.gguf",
        "pypi:x#y",
        "",
        "t\x00",
        7,
        None,
    ],
)
async def test_nothing_but_names_of_the_catalog_is_fetched(door: Door, model: Any) -> None:
    answer = await door.http.post("/v1/catalog/pull", json={"model": model})
    assert answer.status_code in (400, 404), answer.text
    assert (await door.http.get("/v1/jobs")).json()["data"] == []


async def test_a_server_without_a_network_refuses_at_once(
    codec: Codec, database: Database, tmp_path: Path
) -> None:
    async with opened(service_of(codec, database, options_of(tmp_path, offline=True)), pulls=False) as door:
        answer = await door.http.post("/v1/catalog/pull", json={"model": "tiny"})
        assert answer.status_code >= 400 and "offline" in answer.json()["error"]["message"].lower()


async def test_only_an_administrator_pulls_and_only_its_tenant_sees_the_job(
    door: Door, database: Database, hub: FileServer
) -> None:
    keys = KeyStore(database)
    headers = {
        name: {"authorization": f"Bearer {keys.create(Tenant(name), name, [scope])[1]}"}
        for name, scope in (("admin", "admin"), ("user", "inference"))
    }
    body = {"model": "tiny"}
    for given in (body, {}, {"model": "none"}):
        refused = await door.http.post("/v1/catalog/pull", json=given, headers=headers["user"])
        assert refused.status_code == 403 and refused.json()["error"]["code"] == "insufficient_scope"
    job = (await door.http.post("/v1/catalog/pull", json=body, headers=headers["admin"])).json()
    path = f"/v1/jobs/{job['id']}"
    assert (await door.http.get(path, headers=headers["admin"])).status_code == 200
    assert (await door.http.get(path, headers=headers["user"])).status_code == 404
    assert (await door.http.get("/v1/catalog", headers=headers["user"])).status_code == 200


async def test_models_on_demand_offer_a_new_model_at_once(
    database: Database, tmp_path: Path, hub: FileServer
) -> None:
    catalog = options_of(tmp_path)
    host = ModelHost(catalog.settings, served=[], budget_bytes=400_000_000)
    host.start()
    try:
        options = ServerOptions(model_host=host.address, catalog=catalog)
        async with opened(build_context([], options, database=database)) as door:
            assert (await door.http.get("/v1/models")).json()["data"] == []
            plan = await door.http.get("/v1/catalog/tiny/plan")
            assert plan.status_code == 404 and "not known here" in plan.json()["error"]["message"]
            await door.ended((await door.pull())["id"])
            assert [card["id"] for card in (await door.http.get("/v1/models")).json()["data"]] == ["tiny"]
            [listed] = (await door.http.get("/v1/catalog")).json()["data"]
            assert listed["served"]
            plan = (await door.http.get("/v1/catalog/tiny/plan")).json()
            assert plan["available_bytes"] == 400_000_000
            await door.http.post("/v1/aliases", json={"name": "prod", "model": "tiny"})
            counted = await door.http.post("/tokenize", json={"model": "prod", "prompt": "hello"})
            assert counted.status_code == 200, "an alias may mean a model that is not loaded"
    finally:
        host.close()


def test_bytes_of_a_package_are_counted_once() -> None:
    received = Received(entry(sources=("pypi:llm-x==1#m.gguf",)), 100)
    assert received.count("llm-x==1", 60, None)["done"] == 60
    assert received.count("llm-x==1", 100, None)["done"] == 100
    unpacked = received.count("m.gguf", 90, None)
    assert (unpacked["done"], unpacked["total"], unpacked["step"]) == (100, 100, "m.gguf")


def test_bytes_of_several_files_add_up() -> None:
    received = Received(entry(), None)
    assert received.count("a", 4, 10) == {"done": 4, "total": 10, "unit": "bytes", "step": "a"}
    received.count("a", 10, 10)
    assert received.count("b", 5, 7) == {"done": 15, "total": None, "unit": "bytes", "step": "b"}
    assert json.dumps(received.count("b", 3, 7)["done"]) == "15", (
        "a file that begins again takes nothing back"
    )


async def test_new_revisions_are_looked_for_as_a_job(door: Door, hub: FileServer) -> None:
    assert (await door.http.get("/v1/catalog/updates")).json() == {
        "object": "catalog.updates",
        "checked_at": None,
        "data": [],
    }
    await door.ended((await door.pull())["id"])
    about = json.loads(hub.files["/api/models/org/m/revision/main"])
    for path in [one for one in hub.files if "/tree/" in one]:
        hub.files[path.replace("c" * 40, "d" * 40)] = hub.files[path].replace(b'"size": ', b'"size": 1')
    hub.put_json("/api/models/org/m/revision/main", {**about, "sha": "d" * 40})
    asked = (await door.http.post("/v1/catalog/updates", json={})).json()
    assert asked["kind"] == UPDATES_JOB
    job = await door.ended(asked["id"])
    assert (job["status"], job["error"]) == ("succeeded", None)
    assert job["result"]["new"] == ["tiny"] and job["result"]["unasked"] == 0
    report = (await door.http.get("/v1/catalog/updates")).json()
    assert report["checked_at"] is not None
    (model,) = report["data"]
    assert (model["id"], model["state"]) == ("tiny", "new")
    (source,) = model["sources"]
    assert (source["source"], source["revision_now"]) == ("hf:org/m", "d" * 40)
    assert source["fetch"] == f"hf:org/m@{'d' * 40}"
    door.store.remove("tiny")  # what is gone is no longer reported
    assert (await door.http.get("/v1/catalog/updates")).json()["data"] == []


@pytest.mark.parametrize(("every", "queued"), [("weekly", 1), ("daily", 1), ("off", 0)])
async def test_a_schedule_asks_when_nobody_has_looked_for_long(
    codec: Codec, database: Database, hub: FileServer, tmp_path: Path, every: str, queued: int
) -> None:
    options = options_of(tmp_path, model_updates=every)
    async with opened(service_of(codec, database, options), pulls=False) as door:
        await asyncio.to_thread(door.store.pull, "tiny", catalog={"tiny": entry()})
        schedule = JobWorker(door.context, (), update_chores(door.context, options))
        schedule.start()
        answer = await until_async(
            lambda: door.http.get("/v1/jobs", params={"kind": UPDATES_JOB}),
            lambda answer: len(answer.json()["data"]) >= queued,
        )
        await schedule.stop()
        assert [one["status"] for one in answer.json()["data"]] == ["queued"] * queued
