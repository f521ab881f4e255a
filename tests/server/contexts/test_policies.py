"""Conversations longer than the context, by every policy, through the routes that answer them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError
from tests.knowledge.hashing import HashEmbedder
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext

ROOM = 2_000
FATES = ("kept", "compressed", "recalled", "dropped", "forgotten")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return make_codec(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=ROOM)


@pytest.fixture
def service(engine: FakeEngine, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> ServerContext:
    service = make_service(engine, codec, model="toy")
    embedder = HashEmbedder()

    async def named(_name: str) -> HashEmbedder:
        return embedder

    monkeypatch.setattr(service.knowledge.embedders, "named", named)
    return service


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


def conversation(turns: int = 60) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "Answer in one word."}]
    for number in range(turns):
        fact = (
            "The gate code of Ostrava is 48213."
            if number == 3
            else f"The ferry number {number} sails at noon."
        )
        messages.append({"role": "user", "content": f"Note this. {fact}"})
        messages.append({"role": "assistant", "content": f"I noted item {number}."})
    return [*messages, {"role": "user", "content": "What is the gate code of Ostrava?"}]


def sent(policy: str | None = None, **more: Any) -> dict[str, Any]:
    headers = {} if policy is None else {"x-context-policy": policy}
    return {
        "json": {"model": "toy", "messages": conversation(), "max_tokens": 20, **more},
        "headers": headers,
    }


def fates(headers: httpx.Headers) -> dict[str, int]:
    return {one: int(headers[f"x-context-tokens-{one}"]) for one in (*FATES, "added", "original", "prompt")}


async def test_strict_is_the_default_and_names_the_policies(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await http.post("/v1/chat/completions", **sent())
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert "x-context-policy: auto (or window, compress, retrieve)" in error["message"]
    assert engine.seen == []
    assert not [name for name in answer.headers if name.startswith("x-context")]


async def test_an_answer_that_fills_the_context_leaves_no_room_for_a_conversation(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    error = (await http.post("/v1/chat/completions", **sent("auto", max_tokens=ROOM))).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_tokens")
    assert f"lower max_tokens to at most {ROOM - 1}" in error["message"]
    assert engine.seen == []


async def test_a_strict_answer_says_that_every_token_was_kept(http: httpx.AsyncClient) -> None:
    short = [{"role": "user", "content": "Hi"}]
    answer = await http.post("/v1/chat/completions", **sent(messages=short))
    found = fates(answer.headers)
    assert answer.headers["x-context-policy"] == "strict"
    assert found["kept"] == found["original"] == found["prompt"] == answer.json()["usage"]["prompt_tokens"]
    assert "context" not in answer.json()["usage"]["prompt_tokens_details"]


@pytest.mark.parametrize(
    ("policy", "mechanism"),
    [("compress", "compress"), ("retrieve", "retrieve"), ("auto", "retrieve")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_long_conversation_is_fitted_and_accounted_for(
    http: httpx.AsyncClient, engine: FakeEngine, codec: Codec, policy: str, mechanism: str, stream: bool
) -> None:
    answer = await http.post("/v1/chat/completions", **sent(policy, stream=stream))
    assert answer.status_code == 200, answer.text
    found = fates(answer.headers)
    assert (answer.headers["x-context-policy"], answer.headers["x-context-mechanism"]) == (policy, mechanism)
    assert found["original"] == len(codec.encode_chat(conversation())) == sum(found[one] for one in FATES)
    prompt = list(engine.seen[-1].prompt)
    assert found["prompt"] == len(prompt) <= ROOM - 20
    assert found["prompt"] == found["kept"] + found["compressed"] + found["recalled"] + found["added"]
    said = codec.decode(prompt)
    assert "Answer in one word." in said
    assert "48213" in said
    assert said.count("What is the gate code of Ostrava?") == 1


async def test_the_window_goes_to_the_engine(
    http: httpx.AsyncClient, engine: FakeEngine, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "max_model_len", ROOM)
    answer = await http.post("/v1/chat/completions", **sent("window"))
    request = engine.seen[-1]
    found = fates(answer.headers)
    assert list(request.prompt) == codec.encode_chat(conversation())
    assert request.window is not None and request.window.tokens <= ROOM
    assert found["forgotten"] == request.window.forgotten(len(request.prompt)) > 0
    assert found["kept"] + found["forgotten"] == found["original"] == found["prompt"]


async def test_the_usage_has_the_ledger_message_by_message(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/v1/chat/completions", **sent("retrieve"))).json()
    ledger = answer["usage"]["prompt_tokens_details"]["context"]
    rows = ledger["messages"]
    assert [row["first"] for row in rows[1:]] == [row["last"] + 1 for row in rows[:-1]]
    assert (rows[0]["first"], rows[-1]["last"]) == (0, len(conversation()) - 1)
    counted = sum(row.get(one, 0) for row in [*rows, ledger["template"]] for one in FATES)
    assert counted == ledger["original_tokens"]
    recalled = [row for row in rows if row.get("recalled")]
    assert any(row["first"] <= 7 <= row["last"] for row in recalled)


async def test_an_unknown_policy_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/chat/completions", **sent("sliding"))
    assert answer.status_code == 400
    assert "strict, window, compress, retrieve, adapter, auto" in answer.json()["error"]["message"]


async def test_what_always_stays_whole_must_fit(http: httpx.AsyncClient) -> None:
    messages = [{"role": "system", "content": "a" * 3_000}, {"role": "user", "content": "Hi"}]
    answer = await http.post("/v1/chat/completions", **sent("auto", messages=messages))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")


@pytest.mark.parametrize("place", ["end", "beginning"])
async def test_a_document_with_its_question_in_one_turn_is_fitted(
    http: httpx.AsyncClient, engine: FakeEngine, codec: Codec, place: str
) -> None:
    lines = [f"Section {number} speaks of harbours and of tides." for number in range(200)]
    lines[120] = "The gate code of Ostrava is 48213."
    document, question = "\n".join(lines), "What is the gate code of Ostrava?"
    text = f"{document}\n\n{question}" if place == "end" else f"{question}\n\n{document}"
    answer = await http.post(
        "/v1/chat/completions", **sent("auto", messages=[{"role": "user", "content": text}])
    )
    assert answer.status_code == 200, answer.text
    said = codec.decode(list(engine.seen[-1].prompt))
    assert question in said and lines[120] in said
    assert fates(answer.headers)["compressed"] > 0


async def test_tenants_share_no_memory(service: ServerContext, http: httpx.AsyncClient) -> None:
    await http.post("/v1/chat/completions", **sent("retrieve"))
    memories = service.fitting._memories
    assert memories is not None and len(memories) == 1
    await service.forget_answers()
    assert len(memories) == 0


async def test_the_sdk_takes_the_ledger(service: ServerContext) -> None:
    transport = httpx.ASGITransport(create_app(service))
    async with AsyncOpenAI(
        base_url="http://127.0.0.1/v1",
        api_key="none",
        http_client=httpx.AsyncClient(transport=transport),
        _strict_response_validation=True,
    ) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="toy",
            messages=conversation(),
            max_tokens=8,
            extra_headers={"x-context-policy": "auto"},  # type: ignore[arg-type]
        )
        usage = raw.parse().usage
        assert usage is not None and usage.prompt_tokens_details is not None
        details = usage.prompt_tokens_details
        assert details.model_extra is not None
        assert details.model_extra["context"]["policy"] == raw.headers["x-context-policy"] == "auto"
        text = "\n\n".join(one["content"] for one in conversation(120))
        with pytest.raises(BadRequestError) as caught:
            await client.responses.create(model="toy", input=text)
        assert caught.value.code == "context_length_exceeded"
        response = await client.responses.create(
            model="toy", input=text, truncation="auto", max_output_tokens=8
        )
        assert response.truncation == "auto"
        assert response.usage is not None
        extra = response.usage.input_tokens_details.model_extra
        assert extra is not None and extra["context"]["mechanism"] == "compress"
        stored = await client.responses.retrieve(response.id)
        assert stored.usage is not None and stored.usage.input_tokens_details.model_extra == extra


@pytest.mark.parametrize("path", ["/v1/messages", "/api/chat"])
async def test_other_families_inherit_the_policy(
    engine: FakeEngine, codec: Codec, path: str, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", context_policy="compress")
    transport = httpx.ASGITransport(create_app(service))
    body: dict[str, Any] = {"model": "toy", "messages": conversation()[1:], "stream": False}
    if path == "/v1/messages":
        body["max_tokens"] = 20
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-context-policy"] == "compress"
    assert fates(answer.headers)["dropped"] > 0


async def test_an_answer_longer_than_the_context_leaves_room_for_nothing(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/chat/completions", **sent("auto", max_tokens=ROOM + 1000))
    assert answer.status_code == 400
    assert f"lower max_tokens to at most {ROOM - 1}" in answer.json()["error"]["message"]


async def test_a_window_takes_a_short_question_with_an_answer_longer_than_the_context(
    http: httpx.AsyncClient,
) -> None:
    messages = [{"role": "user", "content": "Tell me a story."}]
    answer = await http.post(
        "/v1/chat/completions", **sent("window", messages=messages, max_tokens=ROOM + 1000)
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-context-mechanism"] == "window"
    told = fates(answer.headers)
    assert told["kept"] == told["original"] == told["prompt"] and told["forgotten"] == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"])
async def test_who_hangs_up_ends_the_fitting(engine: FakeEngine, codec: Codec, path: str) -> None:
    begun, ended, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Endless(HashEmbedder):
        async def embed(self, texts: Any, input_type: Any) -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    embedder = Endless()

    async def named(_name: str) -> HashEmbedder:
        return embedder

    service = make_service(engine, codec, model="toy", context_policy="retrieve")
    service.knowledge.embedders.named = named  # type: ignore[method-assign]
    said = "input" if path == "/v1/responses" else "messages"
    body: dict[str, Any] = {"model": "toy", said: conversation()[1:]}
    if path == "/v1/messages":
        body["max_tokens"] = 20
    sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    answered: list[Any] = []

    async def receive() -> Any:
        if sent:
            return sent.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answered.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    call = asyncio.ensure_future(create_app(service)(scope, receive, send))
    async with asyncio.timeout(60):
        await begun.wait()
        left.set()
        await call
        await ended.wait()
    assert answered == [] and engine.seen == []


async def test_the_metrics_count_policies_and_fates(http: httpx.AsyncClient) -> None:
    await http.post("/v1/chat/completions", **sent("compress"))
    text = (await http.get("/metrics")).text
    assert 'deepwell_context_prompts_total{mechanism="compress",policy="compress"} 1.0' in text
    assert 'deepwell_context_tokens_total{fate="dropped",policy="compress"}' in text


async def test_a_compaction_keeps_user_messages_and_goes_on(
    service: ServerContext, engine: FakeEngine, codec: Codec
) -> None:
    transport = httpx.ASGITransport(create_app(service))
    async with AsyncOpenAI(
        base_url="http://127.0.0.1/v1",
        api_key="none",
        http_client=httpx.AsyncClient(transport=transport),
        _strict_response_validation=True,
    ) as client:
        talk: Any = [one for one in conversation(6) if one["role"] != "system"]
        talk[1]["content"] = "The lighthouse keeper is called Brigita. " * 2 + "Nothing else. " * 60
        compacted = await client.responses.compact(model="toy", input=talk)
        said: list[Any] = [item.model_dump() for item in compacted.output]
        assert compacted.object == "response.compaction"
        assert [one["type"] for one in said] == ["compaction"]
        assert compacted.usage.output_tokens <= ROOM // 4
        more: Any = [said[-1], {"role": "user", "content": "And who keeps the lighthouse?"}]
        await client.responses.create(model="toy", input=more, max_output_tokens=8)
        prompt = codec.decode(list(engine.seen[-1].prompt))
        assert all(one["content"] in prompt for one in talk if one["role"] == "user")
        assert "The lighthouse keeper" in prompt and prompt.count("Nothing else.") < 60
        forged: Any = [{"type": "compaction", "encrypted_content": "none of ours"}]
        with pytest.raises(BadRequestError):
            await client.responses.create(model="toy", input=forged)
