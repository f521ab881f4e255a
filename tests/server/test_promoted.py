"""Versions of the registry that aliases mean: a server loads them by itself, and survives those that are missing or changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.fakes import TEMPLATE, FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.families.aliases.promoted import PromotedModels
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion, RegistryStore
from deepwell.tuning.train.artefact import artefact_hash

CHAT: dict[str, Any] = {
    "model": "prod",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 4,
    "user": "lin",
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
def service(engine: FakeEngine, codec: Codec, database: Database) -> ServerContext:
    return make_service(engine, codec, model="toy", database=database)


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def adapter(folder: Path, bytes: bytes = b"weights", template: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(bytes)
    template_hash = template or hashlib.sha256(TEMPLATE.encode()).hexdigest()
    record = {"format": 1, "base_fingerprint": "0", "template_hash": template_hash}
    (folder / "deepwell.json").write_text(json.dumps(record))
    return folder


class Loop:
    """Promotes versions of `prod`, whose base is `toy`, as `deepwell improve` does."""

    def __init__(self, database: Database, service: ServerContext, folder: Path) -> None:
        self.registry = RegistryStore(database)
        self.aliases = AliasStore(database)
        self.service = service
        self.folder = folder

    async def start(self, name: str, share: float = 0.99, **more: Any) -> Path:
        folder = adapter(self.folder / name, name.encode(), **more)
        if (await self.aliases.names()).models.get("prod") is None:
            await self.aliases.set("prod", "toy", "cli")
        version = NewVersion(name, str(folder), artefact_hash(folder), ["toy"])
        made = await self.registry.register("prod", version, "cli")
        await self.registry.start(made.id, share, {}, "cli", ungated="a test")
        await self.service.aliases.refresh()
        return folder

    async def promote(self, name: str, **more: Any) -> Path:
        folder = await self.start(name, **more)
        await self.registry.end("prod", "promoted", "cli")
        await self.service.aliases.refresh()
        return folder


@pytest.fixture
def loop(database: Database, service: ServerContext, tmp_path: Path) -> Loop:
    return Loop(database, service, tmp_path / "adapters")


async def served(http: httpx.AsyncClient, engine: FakeEngine) -> str:
    answer = await http.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200, answer.text
    return engine.seen[-1].adapter


async def test_a_promoted_adapter_and_a_candidate_are_served_without_being_named(
    http: httpx.AsyncClient, engine: FakeEngine, loop: Loop, service: ServerContext
) -> None:
    await loop.promote("v1")
    await loop.start("v2", share=0.01)
    models = PromotedModels(service)
    await models.load_all()
    assert sorted(one.name for one in engine.adapters()) == ["v1", "v2"]
    assert await served(http, engine) in ("v1", "v2")


async def test_the_first_request_waits_for_the_adapter_and_does_not_get_the_base(
    http: httpx.AsyncClient, engine: FakeEngine, loop: Loop
) -> None:
    await loop.promote("v1")
    assert await served(http, engine) == "v1"


@pytest.mark.parametrize("harm", ["missing", "changed", "template", "link", "pipe"])
async def test_the_version_of_before_answers_for_one_that_is_not_as_it_was_registered(
    http: httpx.AsyncClient, engine: FakeEngine, loop: Loop, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    await loop.promote("v1")
    folder = await loop.promote("v2", **({"template": "0" * 64} if harm == "template" else {}))
    if harm == "missing":
        folder.rename(folder.with_name("elsewhere"))
    if harm == "changed":
        (folder / "adapter_model.safetensors").write_bytes(b"other")
    if harm == "link":
        weights = folder / "adapter_model.safetensors"
        weights.rename(loop.folder / "elsewhere")
        weights.symlink_to(loop.folder / "elsewhere")  # the bytes are the same, and may be others later
    if harm == "pipe":
        os.mkfifo(folder / "pipe")
    for _ in range(3):
        assert await served(http, engine) == "v1"
    said = [one.message for one in caplog.records if "not served here" in one.message]
    reason = {
        "missing": "is missing",
        "changed": "not the one that was",
        "template": "chat template",
        "link": "is a link",
        "pipe": "a pipe",
    }[harm]
    assert len(said) == 2 and reason in said[0] and said[1].endswith("v1 answers"), said


async def test_the_base_answers_where_no_version_is_left(
    http: httpx.AsyncClient, engine: FakeEngine, loop: Loop
) -> None:
    for name in ("v1", "v2"):
        (await loop.promote(name)).rename(loop.folder / f"lost {name}")
    assert await served(http, engine) == ""


async def test_a_lost_candidate_costs_nobody_an_answer(
    http: httpx.AsyncClient, engine: FakeEngine, loop: Loop
) -> None:
    await loop.promote("v1")
    (await loop.start("v2")).rename(loop.folder / "lost")
    assert await served(http, engine) == "v1"


async def test_an_artefact_that_comes_back_is_loaded_and_one_that_no_alias_means_is_let_go(
    engine: FakeEngine, loop: Loop, service: ServerContext
) -> None:
    now = 0.0
    models = PromotedModels(service, clock=lambda: now)
    folder = await loop.promote("v1")
    folder.rename(loop.folder / "lost")
    await models.load_all()
    assert list(engine.adapters()) == []
    (loop.folder / "lost").rename(folder)
    await models.load_all()
    assert list(engine.adapters()) == [], "it is not looked for with every request"
    now = 31.0
    await models.load_all()
    assert [one.name for one in engine.adapters()] == ["v1"]
    await loop.aliases.set("prod", "toy", "cli")
    await service.aliases.refresh()
    await models.load_all()
    assert [one.name for one in engine.adapters()] == ["v1"], "a roll-out may come back to it at once"
    now = 92.0
    await models.load_all()
    assert list(engine.adapters()) == []
