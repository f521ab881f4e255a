"""Requests harm no model on demand, whatever they name and whenever they leave."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine
from tests.waiting import until_async

from deepwell.dialogue.opening import host_model
from deepwell.engine.hosting.process import EngineProcess
from deepwell.server.app import create_app
from deepwell.server.build import build_context
from deepwell.server.context import ServerContext
from deepwell.server.options import CacheOptions, LimitsConfig, ServerOptions
from deepwell.server.residency.host import ModelHost
from deepwell.server.residency.models import OnDemandModels
from deepwell.settings import Settings

ROOM = 400_000_000  # for one of the two generators
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


def put(root: Path, name: str, source: Path, *, vouched: bool = True) -> None:
    """Puts the files of a model of the real store under a name; they replace those that had it."""
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name != "manifest.json":
            (folder / file.name).symlink_to(file)
    manifest = json.loads((source / "manifest.json").read_text())
    if not vouched:
        for number, file in enumerate(manifest["files"]):
            file["sha256"] = f"{number:064x}"
    (folder / "manifest.json").write_text(json.dumps({**manifest, "name": name}))


@pytest.fixture
def store(smollm2_path: Path, minilm_path: Path, tmp_path: Path) -> Path:
    """A store with smollm2 under two names."""
    for name in ("first", "second"):
        put(tmp_path / "models", name, smollm2_path.parent)
    return tmp_path / "models"


def settings_of(store: Path, **more: Any) -> Settings:
    return Settings(models_dir=store, context=2048, model_loads_per_minute=0, **more)


@pytest.fixture
def host(store: Path) -> Iterator[ModelHost]:
    settings = settings_of(store)
    running = ModelHost(settings, served=[], budget_bytes=ROOM)
    running.start()
    yield running
    running.close()


class Worker:
    """A client of one HTTP process."""

    def __init__(self, host: ModelHost, *, wait_s: float = 30.0, response_bytes: int = 0) -> None:
        options = ServerOptions(
            limits=LimitsConfig(max_wait_s=wait_s),
            caches=CacheOptions(response_bytes=response_bytes),
            model_host=host.address,
        )
        self.context: ServerContext = build_context([], options)
        transport = httpx.ASGITransport(create_app(self.context), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60)

    @property
    def models(self) -> OnDemandModels:
        assert self.context.on_demand is not None
        return self.context.on_demand

    async def post(self, path: str, **body: Any) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return await self.http.post(path, content=json.dumps(body), headers=headers)

    async def chat(self, model: str, **more: Any) -> httpx.Response:
        body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 4, **more}
        return await self.post("/v1/chat/completions", **body)

    async def close(self) -> None:
        await self.http.aclose()
        await self.context.close_background()


@pytest.fixture
async def worker(host: ModelHost) -> AsyncIterator[Worker]:
    opened = Worker(host, response_bytes=1 << 20)
    yield opened
    await opened.close()


async def test_a_name_that_no_model_can_have_ends_no_lease(host: ModelHost, worker: Worker) -> None:
    await worker.models.find("first")
    await worker.models.client.acquire("first", "t", 30.0)
    other = Worker(host)
    for name in ("x" * 5_000_000, "\ud800", "a\0b", "../first", "ﬁrst", "first\n"):
        for path, more in (
            ("/v1/chat/completions", {"messages": QUESTION}),
            ("/api/generate", {"keep_alive": 0}),
        ):
            answer = await worker.post(path, model=name, **more)
            assert answer.status_code in (400, 404), (name[:9], answer.text[:200])
        assert (await other.http.delete("/v1/models/first")).status_code == 409, name[:9]
    await other.close()


async def test_requests_of_one_process_that_overlap_do_not_keep_another_model_out(host: ModelHost) -> None:
    worker = Worker(host)
    await worker.chat("first")
    ended = False

    async def busy() -> None:
        while not ended:
            answer = await worker.chat("first", max_tokens=40, ignore_eos=True, seed=len(answers))
            answers.append(answer.status_code)
            assert answer.status_code == 200, answer.text

    answers: list[int] = []
    streams = []
    for number in range(4):
        streams.append(asyncio.create_task(busy()))
        await until_async(lambda begun=number: len(answers) > begun)  # each begins within another's answer
    try:
        answer = await worker.chat("second")
    finally:
        ended = True
        await asyncio.gather(*streams)
    await worker.close()
    assert answer.status_code == 200, answer.text
    assert set(answers) == {200}


async def test_files_that_replace_a_model_are_loaded_and_never_mixed_with_its_old_ones(
    host: ModelHost, worker: Worker, store: Path, minilm_path: Path
) -> None:
    assert (await worker.post("/tokenize", model="first", prompt="hello")).json()["max_model_len"] == 2048
    put(store, "first", minilm_path)
    other = Worker(host)
    vector = (await other.post("/v1/embeddings", model="first", input="hello")).json()["data"][0]["embedding"]
    assert len(vector) == 384
    answer = await worker.post("/v1/embeddings", model="first", input="hello")
    assert answer.json()["data"][0]["embedding"] == vector
    await other.close()


async def test_files_that_replace_a_model_are_found_while_they_are_being_loaded(
    host: ModelHost, worker: Worker, store: Path, minilm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await worker.post("/tokenize", model="first", prompt="hello")).json()["max_model_len"] == 2048
    put(store, "first", minilm_path)
    found = threading.Event()

    def held(*arguments: Any, **more: Any) -> EngineProcess:
        assert found.wait(60)
        return host_model(*arguments, **more)

    monkeypatch.setattr("deepwell.server.residency.host.host_model", held)
    other = Worker(host)
    loading = asyncio.create_task(other.post("/v1/embeddings", model="first", input="hello"))
    await until_async(lambda: any(one.state == "loading" for one in worker.models.state.residents))
    try:
        assert not (await worker.models.find("first")).model.capabilities.generates
    finally:
        found.set()
    answer = await worker.post("/v1/embeddings", model="first", input="hello")
    assert answer.json()["data"] == (await loading).json()["data"]
    await other.close()


async def test_a_model_that_was_replaced_while_it_was_loaded_is_loaded_anew_once_it_is_idle(
    host: ModelHost, worker: Worker, store: Path, minilm_path: Path
) -> None:
    assert (await worker.chat("first")).status_code == 200
    put(store, "first", minilm_path)
    other = Worker(host)
    assert (
        len((await other.post("/v1/embeddings", model="first", input="hello")).json()["data"][0]["embedding"])
        == 384
    )
    assert (await worker.chat("first")).status_code == 400  # it embeds, and answers no more
    await other.close()


async def test_no_answer_of_a_model_outlives_its_replacement(
    host: ModelHost, worker: Worker, store: Path, minilm_path: Path
) -> None:
    running = start(Worker(host, response_bytes=1 << 20).context, FakeEngine())
    body = {"model": "first", "messages": QUESTION, "temperature": 0, "max_tokens": 4}
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as http:
        answers = [await http.post("/v1/chat/completions", json=body) for _ in range(3)]
        assert [one.headers["x-deepwell-cache"] for one in answers] == ["miss", "hit", "hit"]
        await http.delete("/v1/models/first")
        put(store, "first", minilm_path)
        await worker.models.find("first")
        await until_async(lambda: not worker.models.state.residents)
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 400
    running.stop()


def text_processes() -> int:
    """Returns the number of this process's children that tokenise."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            found += parent == os.getpid() and b"text_process" in (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
    return found


async def test_models_that_are_only_looked_at_keep_few_tokenizers(
    worker: Worker, store: Path, minilm_path: Path
) -> None:
    before = text_processes()
    for number in range(7):
        put(store, f"look{number}", minilm_path, vouched=False)
        assert (await worker.post("/tokenize", model=f"look{number}", prompt="hello")).status_code == 200
        assert (await worker.post("/api/show", model=f"look{number}")).status_code == 200
    await until_async(lambda: text_processes() - before <= 4)
    answer = await worker.post("/tokenize", model="look0", prompt="hello")
    assert answer.status_code == 200 and answer.json()["count"] == 3


def engine_folders() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"deepwell-engine-{os.getpid()}-*"))


def hosting(factory: str) -> Callable[..., EngineProcess]:
    return lambda *_args, **_more: EngineProcess({}, factory=f"tests.server.hosted:{factory}")


async def test_a_load_that_fails_leaves_no_socket_behind(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = engine_folders()
    monkeypatch.setattr("deepwell.server.residency.host.host_model", hosting("broken"))
    assert (await worker.chat("first")).status_code == 500
    assert engine_folders() == before


def test_closing_the_host_ends_a_model_that_is_being_loaded(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.server.residency.host.host_model", hosting("never"))
    before = engine_folders()
    running = ModelHost(settings_of(store), served=[], budget_bytes=ROOM)
    running.start()

    async def ask() -> None:
        worker = Worker(running)
        asking = asyncio.create_task(worker.chat("first"))
        await until_async(lambda: any(one.state == "loading" for one in worker.models.state.residents))
        async with asyncio.timeout(60):
            await asyncio.to_thread(running.close)
        assert (await asking).status_code == 503
        await worker.close()

    asyncio.run(ask())
    assert not running.pids() and engine_folders() == before


async def test_a_damaged_model_hides_no_other_and_tells_no_path(worker: Worker, store: Path) -> None:
    await worker.models.find("first")
    next((store / "first").glob("*.gguf")).unlink()
    put(store, "third", (store / "second").resolve())
    (store / "second" / "manifest.json").write_text("{")
    listed = await worker.http.get("/v1/models")
    assert listed.status_code == 200 and "third" in [card["id"] for card in listed.json()["data"]]
    for name in ("first", "second", "none"):
        answer = await worker.chat(name)
        assert answer.status_code in (404, 422) and str(store) not in answer.text, answer.text
