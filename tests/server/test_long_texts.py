"""Long texts leave the event loop: they are tokenised in a process, in turn, and only while somebody waits."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.held import hold
from tests.server.conftest import Live, start
from tests.server.fakes import TEMPLATE, FakeEngine, make_service, write_tokenizer
from tests.waiting import until_async

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer

LONG = "a" * 30_000


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    template = ChatTemplate(TEMPLATE, "<|im_start|>", "<|im_end|>")
    return Codec(Tokenizer.load(folder), template, path=folder)


@pytest.fixture
async def live(codec: Codec) -> AsyncIterator[Live]:
    engine = FakeEngine(max_model_len=64_000)
    running = start(make_service(engine, codec, model="toy", max_body_bytes=8 << 20), engine)
    yield running
    await asyncio.to_thread(running.stop)


def model_of(live: Live) -> ServedModel:
    return live.service.main.model


async def post(live: Live, path: str, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=live.url, timeout=60) as client:
        return await client.post(path, json={"model": "toy", **body})


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_a_long_text_is_answered_with_the_same_tokens(live: Live, codec: Codec) -> None:
    answer = await post(live, "/v1/chat/completions", messages=chat(LONG), max_tokens=4)
    assert answer.json()["choices"][0]["message"]["content"] == "aaaa"
    assert list(live.engine.seen[-1].prompt) == codec.encode_chat(chat(LONG))
    answer = await post(live, "/v1/completions", prompt=LONG, max_tokens=4)
    assert list(live.engine.seen[-1].prompt) == codec.encode(LONG)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": chat("a" * 7_000_000)}, "messages"),
        ("/v1/completions", {"prompt": "a" * 7_000_000, "echo": True}, "prompt"),
        ("/v1/completions", {"prompt": [97] * 70_000, "echo": True}, "prompt"),
        ("/v1/responses", {"input": "a" * 70_000}, "input"),
        ("/v1/embeddings", {"input": ["a", "b" * 70_000]}, "input"),
        ("/v1/rerank", {"query": "a", "documents": ["a", "b" * 7_000_000]}, "documents"),
        ("/v1/score", {"text_1": "a" * 70_000, "text_2": "b", "method": "embedding"}, "text_1"),
    ],
)
async def test_a_text_beyond_the_context_is_refused(
    live: Live, path: str, body: dict[str, Any], param: str
) -> None:
    answer = await post(live, path, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    assert "64000" in error["message"]


async def test_a_conversation_is_counted_beyond_the_context(live: Live, codec: Codec) -> None:
    answer = await post(live, "/v1/messages/count_tokens", messages=chat("a" * 70_000))
    assert answer.json() == {"input_tokens": len(codec.encode_chat(chat("a" * 70_000)))}


async def test_a_client_that_leaves_ends_the_work_and_the_next_is_answered(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    await post(live, "/v1/completions", prompt=LONG, max_tokens=1)
    lane = model_of(live)._long
    assert lane is not None
    stopped = lane.process.pid
    hold(monkeypatch, stopped)
    left = asyncio.create_task(post(live, "/v1/completions", prompt=LONG, max_tokens=1))
    await until_async(lambda: not lane._turns.is_idle)
    waits = asyncio.create_task(post(live, "/v1/completions", prompt=LONG + "b", max_tokens=1))
    await until_async(lambda: lane._turns._waiting)
    assert (await post(live, "/v1/completions", prompt="short", max_tokens=1)).status_code == 200
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert (await waits).status_code == 200
    assert lane.process.pid != stopped


async def test_a_child_that_is_killed_is_replaced_and_its_text_answered(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    await post(live, "/v1/completions", prompt=LONG, max_tokens=1)
    lane = model_of(live)._long
    assert lane is not None
    first = lane.process.pid
    hold(monkeypatch, first)
    asked = [
        asyncio.create_task(post(live, "/v1/completions", prompt=LONG + str(number), max_tokens=1))
        for number in range(3)
    ]
    await until_async(lambda: lane._turns._waiting)
    os.kill(first, signal.SIGKILL)
    assert [(await answer).status_code for answer in asked] == [200] * 3
    assert lane.process.pid != first


async def test_a_deadline_holds_for_the_wait_and_the_work(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepwell.server.options import LimitsConfig

    engine = FakeEngine(max_model_len=64_000)
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(request_timeout_s=3.0))
    running = start(service, engine)
    try:
        lane = model_of(running)._long
        assert lane is not None
        await asyncio.to_thread(lane.process.start)
        hold(monkeypatch, lane.process.pid)
        answer = await post(running, "/v1/completions", prompt=LONG, max_tokens=1)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
    finally:
        await asyncio.to_thread(running.stop)
