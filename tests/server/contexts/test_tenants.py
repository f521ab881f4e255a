"""Memories of one tenant's conversations serve no other tenant."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.knowledge.hashing import HashEmbedder
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.server.app import create_app
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore

SECRET = "The vault of Brno opens with 90417."


def talk(first: str) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": "Keep these notes."}, {"role": "assistant", "content": first}]
    for number in range(60):
        messages.append({"role": "user", "content": f"Ship {number} sails at noon."})
        messages.append({"role": "assistant", "content": f"I noted ship {number}."})
    return [*messages, {"role": "user", "content": "How does the vault of Brno open?"}]


async def test_a_memory_belongs_to_one_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database.temporary()
    store = KeyStore(database)
    keys = [store.create(Tenant(name), name, ["inference"])[1] for name in ("one", "two")]
    engine, codec = FakeEngine(max_model_len=2_000), make_codec(tmp_path / "tokenizer")
    service = make_service(engine, codec, model="toy", database=database, context_policy="retrieve")
    embedder = HashEmbedder()

    async def named(_name: str) -> HashEmbedder:
        return embedder

    monkeypatch.setattr(service.knowledge.embedders, "named", named)
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:

        async def ask(key: object, first: str) -> str:
            body = {"model": "toy", "messages": talk(first), "max_tokens": 8}
            answer = await http.post(
                "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
            )
            assert answer.status_code == 200, answer.text
            return codec.decode(list(engine.seen[-1].prompt))

        assert SECRET in await ask(keys[0], SECRET)
        added = len(embedder.embedded)
        assert "90417" not in await ask(keys[1], "There is nothing to note.")
        assert len(embedder.embedded) > added  # its first turns are the same, and were embedded anew
        added = len(embedder.embedded)
        assert SECRET in await ask(keys[0], SECRET)
        assert len(embedder.embedded) == added  # its own memory is still there
