"""Adapters as models: listed, chosen, loaded and unloaded over HTTP, and never from outside their directory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.bench.workloads.random_adapter import write_random_adapter
from deepwell.dialogue.text import Codec
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.weights.adapters import Linear, linears_of
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.server.app import create_app


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
    from pydantic import SecretStr
    from starlette.testclient import TestClient

    service = make_service(
        FakeEngine(), codec, model="toy", api_keys=[SecretStr("k" * 16)], adapter_dir=tmp_path
    )
    client = TestClient(create_app(service))
    for verb in ("load", "unload"):
        assert client.post(f"/v1/{verb}_lora_adapter", json={"lora_name": "x"}).status_code == 401
