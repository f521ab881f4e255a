"""A server beside erasures: its caches are emptied, and what another process left is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until_async

from deepwell.dialogue.text import Codec
from deepwell.safety.privacy.attribution import Subject
from deepwell.safety.privacy.erase import Eraser
from deepwell.server import housekeeping
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.housekeeping import Housekeeper, erasing
from deepwell.server.options import FileOptions, SemanticOptions
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.safety.verify import verify_chain

CHAT = {"model": "toy", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}


@pytest.fixture
def context(codec: Codec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ServerContext]:
    monkeypatch.setattr(housekeeping, "_EVERY_S", 0.01)
    monkeypatch.setattr(housekeeping, "_ERASE_S", 0.01)
    database = Database.open(tmp_path / "deepwell.db")
    yield make_service(FakeEngine(), codec, model="toy", database=database, response_cache_bytes=1 << 20)
    database.close()


async def test_an_erasure_empties_the_caches_of_every_process(context: ServerContext, tmp_path: Path) -> None:
    transport = httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
    exact = context.served[0].caches.exact
    assert exact is not None
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(2):
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert len(exact.store) == 1 and exact.store.nbytes
    housekeeper = Housekeeper(context)
    housekeeper.start()
    await asyncio.sleep(0)
    database = context.state.database
    looked = asyncio.Event()
    record = database.record

    async def recorded() -> None:
        await record()
        looked.set()

    database.record = recorded  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(2):  # the first look remembers what was erased before
        looked.clear()
        await asyncio.wait_for(looked.wait(), 30)
    assert len(exact.store) == 1
    await Eraser(database, FileStore(database, tmp_path / "files"), vacuum=False).erase(
        Subject(Tenant("gone"))
    )
    while len(exact.store):
        looked.clear()
        await asyncio.wait_for(looked.wait(), 30)
    assert exact.store.nbytes == 0
    await housekeeper.stop()


async def test_a_server_finishes_an_erasure_that_another_process_left(context: ServerContext) -> None:
    async def content():
        yield b"secret"

    state = context.state
    stored = await state.files.create(LOCAL, filename="a", purpose="user_data", content=content())
    id = await erasing(context).request(Subject(LOCAL))
    housekeeper = Housekeeper(context)
    housekeeper.start()
    eraser = erasing(context)
    await until_async(lambda: eraser.result(id))
    await until_async(lambda: eraser.is_open(id), lambda is_open: not is_open)
    await housekeeper.stop()
    assert not state.files.blobs.path(stored.sha256).exists()


def test_emptied_caches_hold_nothing() -> None:
    from deepwell.server.caches.response_cache import ByteLru
    from deepwell.server.caches.semantic_cache import SemanticCache

    lru = ByteLru[str, str](100)
    lru.keep("a", "b", 10, float("inf"))
    lru.clear()
    assert (len(lru), lru.nbytes, lru.find("a")) == (0, 0, None)

    async def embed(_text: str) -> None: ...

    semantic = SemanticCache(embed, SemanticOptions())
    semantic.clear()
    assert (len(semantic), semantic.nbytes) == (0, 0)


async def test_what_a_guard_reports_is_in_the_trail_when_the_server_has_stopped(
    codec: Codec, tmp_path: Path
) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    options = FileOptions(folder=tmp_path / "files", anchors=tmp_path / "anchors")
    context = make_service(FakeEngine(), codec, model="toy", database=database, files=options)
    for number in range(3):
        await context.audit.record(LOCAL, AuditRecord("decision", number))
    await context.close_state()
    database = Database.open(tmp_path / "deepwell.db")
    store = AuditStore(database, Anchors(tmp_path / "anchors"))
    [chain] = await store.chains(LOCAL)
    result = await asyncio.to_thread(verify_chain, store, chain.id)
    assert (result.holds, result.entries, result.anchors) == (True, 3, [chain.head])
    database.close()
