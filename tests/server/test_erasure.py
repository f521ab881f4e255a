"""A server beside erasures: its caches are emptied, and what another process left is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.safety.privacy.attribution import Subject
from deepwell.safety.privacy.erase import Eraser
from deepwell.server import housekeeping
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.housekeeping import Housekeeper, erasing
from deepwell.server.options import SemanticOptions
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.files import FileStore

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
    async with asyncio.timeout(30):
        while await eraser.result(id) is None or await eraser.is_open(id):
            await asyncio.sleep(0.005)
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
