"""Engines beyond this machine: the conformance suite against vLLM's shapes, and what only this implementation promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.engine.conformance import EngineConformance, collect, request
from tests.engine.fakes import continuation
from tests.engine.remote.peer import CONTEXT, KEY, Peer, model_folder, running_peer
from tests.waiting import until_async

from deepwell.engine.hosting.remote.address import RemoteAddress, RemoteOptions, is_remote
from deepwell.engine.hosting.remote.engine import RemoteEngine
from deepwell.engine.hosting.remote.probe import open_remote
from deepwell.engine.protocol import Grammar
from deepwell.errors import EngineUnavailable, InvalidRequest, ModelNotFound, UnsupportedModel
from deepwell.settings import Settings


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with running_peer() as peer:
        yield peer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def options(url: str, **values: object) -> RemoteOptions:
    values = {"wait_s": 0.0, "look_s": 0.05} | values
    return RemoteOptions(RemoteAddress.parse(url), **values)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def engine(peer: Peer, folder: Path) -> Iterator[RemoteEngine]:
    with open_remote(options(peer.url), folder) as engine:
        yield engine


class TestConformance(EngineConformance):
    """Against vLLM's shapes around the fake model."""


async def test_what_it_says_is_what_the_model_says(engine: RemoteEngine) -> None:
    asked = request("a", temperature=0.8, seed=5, max_tokens=30, ignore_eos=False)
    answer = await collect(engine, asked)
    assert (answer.tokens, answer.last.finish_reason) == continuation(asked.prompt, asked.params)


def test_the_server_is_known_by_what_it_says_and_does(peer: Peer, engine: RemoteEngine) -> None:
    runs = engine.capabilities()
    assert (runs.backend, runs.model, runs.max_model_len) == ("vllm", "fake", CONTEXT)
    assert runs.architecture == "SomethingForCausalLM", "one that Deepwell's own engine does not run"
    assert set(runs.lacks) == {"window", "bits", "counters", "embed", "grammar"}
    assert engine.address == f"vllm={peer.url}"


async def test_a_salt_does_not_leave_this_machine(peer: Peer, engine: RemoteEngine) -> None:
    await collect(engine, request("a", salt="tenant \ud800 secret"))
    sent = peer.seen[-1]
    assert len(sent["cache_salt"]) == 64 and "secret" not in json.dumps(sent)


async def test_grammars_of_lark_are_refused_where_no_answer_showed_them(engine: RemoteEngine) -> None:
    with pytest.raises(InvalidRequest, match="lark") as caught:
        await engine.prepare(Grammar("lark", 'start: "a"'))
    assert caught.value.param == "grammar" and caught.value.fix


async def test_a_key_is_needed_sent_and_never_told(peer: Peer, folder: Path) -> None:
    peer.key = KEY
    try:
        with pytest.raises(EngineUnavailable, match="refuses the key") as caught:
            open_remote(options(peer.url, key=SecretStr("wrong-key-entirely")), folder)
        assert (
            "wrong-key-entirely" not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
        )
        own = options(peer.url, key=SecretStr(KEY))
        assert KEY not in repr(own)
        with open_remote(own, folder) as engine:
            assert len((await collect(engine, request("a"))).tokens) == 8
    finally:
        peer.key = ""


def test_a_model_that_is_not_served_is_refused_with_those_that_are(peer: Peer, folder: Path) -> None:
    with pytest.raises(ModelNotFound, match="fake") as caught:
        open_remote(options(peer.url, model="other"), folder)
    assert "DEEPWELL_ENGINE_MODEL" in caught.value.fix


def test_a_longer_context_than_the_servers_is_refused(peer: Peer, folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=str(CONTEXT)):
        open_remote(options(peer.url, context=CONTEXT + 1), folder)
    with open_remote(options(peer.url, context=100), folder) as engine:
        assert engine.capabilities().max_model_len == 100


async def test_adapters_are_loaded_asked_for_and_restored(peer: Peer, folder: Path, tmp_path: Path) -> None:
    with open_remote(options(peer.url), folder) as engine:
        with pytest.raises(UnsupportedModel, match="No adapter found"):
            await asyncio.to_thread(engine.load_adapter, "sql", "/nowhere")
        (tmp_path / "adapter_config.json").write_text('{"r": 8}')
        info = await asyncio.to_thread(engine.load_adapter, "sql", str(tmp_path))
        assert (info.name, info.rank, len(info.digest)) == ("sql", 8, 32)
        assert engine.adapters() == (info,)
        await collect(engine, replace(request("a"), adapter="sql"))
        assert peer.seen[-1]["model"] == "sql"
        peer.adapters.clear()  # vLLM was started again
        engine.stats()
        await until_async(lambda: "sql" in peer.adapters)
        await asyncio.to_thread(engine.unload_adapter, "sql")
        assert peer.adapters == {} and engine.adapters() == ()
        with pytest.raises(ModelNotFound):
            await asyncio.to_thread(engine.unload_adapter, "sql")
        with pytest.raises(ModelNotFound):
            await collect(engine, replace(request("b"), adapter="gone"))


async def test_adapters_that_others_loaded_are_found(peer: Peer, folder: Path) -> None:
    peer.adapters["theirs"] = "/adapters/theirs"
    with open_remote(options(peer.url), folder) as engine:
        assert [one.name for one in engine.adapters()] == ["theirs"]
        peer.adapters.clear()
        engine.stats()
        await until_async(lambda: not engine.adapters())


async def test_closing_a_stream_aborts_there(peer: Peer, engine: RemoteEngine) -> None:
    stream = engine.generate(request("a", max_tokens=200))
    await anext(stream)
    await stream.aclose()
    await until_async(lambda: not (peer.engine.stats().running or engine.stats().running))
    assert [delta async for delta in stream] == []


def test_a_server_that_is_not_there_is_told_with_its_place(folder: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
        open_remote(options("http://127.0.0.1:9"), folder)
    assert caught.value.fix and caught.value.status == 503


def test_a_url_is_read_as_people_write_it() -> None:
    for text in (
        "vllm=http://h:8000",
        "vllm=http://h:8000/",
        "vllm=http://h:8000/v1",
        "vllm=http://h:8000/v1/",
    ):
        assert RemoteAddress.parse(text) == RemoteAddress("vllm", "http://h:8000")
    assert RemoteAddress.parse("https://h/models/v1") == RemoteAddress(None, "https://h/models")
    assert is_remote("vllm=http://h") and is_remote("http://h") and not is_remote("vllm")


@pytest.mark.parametrize(
    "text",
    [
        "h:8000",
        "ftp://h",
        "other=http://h",
        "http://",
        "http://h?x=1",
        "http://h:99999",
        "vllm=",
        "http://h/ä",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RemoteAddress.parse(text)
    assert "vllm=http://" in caught.value.fix


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as caught:
        RemoteAddress.parse("http://me:hunter2secret@h:8000")
    assert "hunter2secret" not in str(caught.value) and "DEEPWELL_ENGINE_KEY" in caught.value.fix


def test_the_key_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    settings = Settings(engine="http://h:1", engine_key=SecretStr("no"), engine_key_file=file)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        RemoteOptions.of(settings, name="toy")
    file.write_text("\n")
    with pytest.raises(InvalidRequest, match="holds no key"):
        RemoteOptions.of(settings, name="toy")
    file.write_text(f"{KEY}\n")
    key = RemoteOptions.of(settings, name="toy").key
    assert key is not None and key.get_secret_value() == KEY
