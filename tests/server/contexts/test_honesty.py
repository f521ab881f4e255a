"""Tokens of random requests on every route that answers: by headers, by usage, and by what the engine got."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.knowledge.fitting.talks import TOOLS, conversations
from tests.knowledge.hashing import HashEmbedder
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.dialogue.text import Codec
from deepwell.dialogue.tools import FunctionTool
from deepwell.knowledge.context.fitting.ledger import FATES
from deepwell.server.app import create_app

POLICIES = ("strict", "window", "compress", "retrieve", "auto")
NUMBERS = ("original", "prompt", *FATES, "added")
EVERY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Books:
    """A server over a context of some tokens, and what the checks need of it."""

    def __init__(self, codec: Codec, context: int) -> None:
        self.codec = codec
        self.loop = asyncio.new_event_loop()  # one for all requests, as a server has
        self.engine = FakeEngine(max_model_len=context)
        self.service = make_service(self.engine, codec, model="toy", response_cache_bytes=1 << 20)
        embedder = HashEmbedder()

        async def named(_name: str) -> HashEmbedder:
            return embedder

        self.service.knowledge.embedders.named = named  # type: ignore[method-assign]
        self.app = create_app(self.service)

    def post(self, path: str, body: dict[str, Any], policy: str) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                return await http.post(path, json=body, headers={"x-context-policy": policy})

        return self.loop.run_until_complete(sent())

    def tokens(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> int:
        shown = [FunctionTool(one["function"]["name"], one["function"]["description"]) for one in tools]
        dialect = self.codec.dialect
        rendered = [one.rendered() for one in shown] if shown and dialect.offers else None
        return len(self.codec.encode_chat(dialect.conversation(messages, shown), tools=rendered))

    def check(
        self, answer: httpx.Response, policy: str, tokens: int, read: int, most: int
    ) -> dict[str, int] | None:
        """Checks the headers against the conversation and the engine; returns their numbers, or None for a refusal."""
        if answer.status_code == 400:
            error = answer.json()["error"]
            assert error.get("code", "context_length_exceeded") == "context_length_exceeded", error
            assert not [name for name in answer.headers if name.startswith("x-context")]
            assert policy != "strict" or tokens > most
            return None
        assert answer.status_code == 200, answer.text
        found = {one: int(answer.headers[f"x-context-tokens-{one}"]) for one in NUMBERS}
        assert found["original"] == tokens == sum(found[one] for one in FATES)
        assert min(found[one] for one in FATES) >= 0
        assert found["prompt"] == tokens - found["dropped"] + found["added"] == read
        if answer.headers.get("x-deepwell-cache", "miss") == "miss":
            assert len(self.engine.seen[-1].prompt) == found["prompt"]
        assert answer.headers["x-context-policy"] == policy
        if policy == "strict" or tokens <= most:
            assert found["kept"] == tokens and found["added"] == 0
        if answer.headers["x-context-mechanism"] != "window":
            assert found["prompt"] <= most
        return found


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return make_codec(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def books(codec: Codec) -> Iterator[dict[int, Books]]:
    made = {context: Books(codec, context) for context in (512, 2_000)}
    yield made
    for one in made.values():
        if one.service.kept.is_set():
            one.service.state.close()
        one.loop.close()


def same(details: dict[str, Any], headers: dict[str, int]) -> None:
    """Checks that a usage tells what the headers tell, and its rows what its sums tell."""
    assert {one: details[f"{one}_tokens"] for one in NUMBERS} == headers
    if "messages" in details:
        rows = [*details["messages"], details["template"]]
        assert {one: sum(row.get(one, 0) for row in rows) for one in FATES} == {
            one: headers[one] for one in FATES
        }


@EVERY
@given(conversations(), st.sampled_from(POLICIES), st.sampled_from([512, 2_000]), st.booleans())
def test_a_chat(
    books: dict[int, Books], messages: list[dict[str, Any]], policy: str, context: int, offers: bool
) -> None:
    server, tools = books[context], TOOLS if offers else []
    body = {"model": "toy", "messages": messages, "max_tokens": 8, "temperature": 0} | (
        {"tools": tools} if tools else {}
    )
    tokens = server.tokens(messages, tools)
    for _ in range(3):  # the engine's answer, a kept one, and a replayed one
        answer = server.post("/v1/chat/completions", body, policy)
        read = answer.json()["usage"]["prompt_tokens"] if answer.status_code == 200 else 0
        found = server.check(answer, policy, tokens, read, context - 8)
        if found is None:
            return
        details = answer.json()["usage"]["prompt_tokens_details"]
        assert ("context" in details) == (policy != "strict")
        if policy != "strict":
            same(details["context"], found)


@EVERY
@given(conversations(tools=False), st.sampled_from(POLICIES), st.sampled_from([512, 2_000]))
def test_a_response(
    books: dict[int, Books], messages: list[dict[str, Any]], policy: str, context: int
) -> None:
    server = books[context]
    body = {"model": "toy", "input": messages, "max_output_tokens": 8, "temperature": 0, "store": False}
    answer = server.post("/v1/responses", body, policy)
    read = answer.json()["usage"]["input_tokens"] if answer.status_code == 200 else 0
    found = server.check(answer, policy, server.tokens(messages, []), read, context - 8)
    if found is not None and policy != "strict":
        same(answer.json()["usage"]["input_tokens_details"]["context"], found)


@EVERY
@given(conversations(tools=False), st.sampled_from(POLICIES), st.sampled_from([512, 2_000]))
def test_anthropics_messages(
    books: dict[int, Books], messages: list[dict[str, Any]], policy: str, context: int
) -> None:
    server = books[context]
    said = [one for one in messages if one["role"] in ("user", "assistant")]
    body = {"model": "toy", "messages": said, "max_tokens": 8, "temperature": 0}
    answer = server.post("/v1/messages", body, policy)
    usage = (
        answer.json()["usage"]
        if answer.status_code == 200
        else {"input_tokens": 0, "cache_read_input_tokens": 0}
    )
    read = usage["input_tokens"] + usage["cache_read_input_tokens"]
    counted = server.post("/v1/messages/count_tokens", {"model": "toy", "messages": said}, policy).json()[
        "input_tokens"
    ]
    server.check(answer, policy, counted, read, context - 8)


@EVERY
@given(conversations(tools=False), st.sampled_from(POLICIES), st.sampled_from([512, 2_000]))
def test_ollamas_chat(
    books: dict[int, Books], messages: list[dict[str, Any]], policy: str, context: int
) -> None:
    server = books[context]
    said = [one for one in messages if one["role"] != "developer"]
    body = {
        "model": "toy",
        "messages": said,
        "stream": False,
        "options": {"num_predict": 8, "temperature": 0},
    }
    answer = server.post("/api/chat", body, policy)
    if answer.status_code == 400:
        assert "context" in answer.json()["error"] or "room for" in answer.json()["error"]
        return
    server.check(answer, policy, server.tokens(said, []), answer.json()["prompt_eval_count"], context - 8)


def test_a_plain_prompt_is_kept_whole(books: dict[int, Books]) -> None:
    body = {"model": "toy", "prompt": ["once upon", "a time"], "max_tokens": 4, "temperature": 0}
    answer = books[512].post("/v1/completions", body, "strict")
    found = {one: int(answer.headers[f"x-context-tokens-{one}"]) for one in NUMBERS}
    assert found["kept"] == found["original"] == found["prompt"] == answer.json()["usage"]["prompt_tokens"]


def test_a_refused_request_is_not_counted(codec: Codec) -> None:
    server = Books(codec, 512)
    body = {"model": "toy", "messages": [{"role": "user", "content": "a" * 400}], "max_tokens": 200}
    assert server.post("/v1/chat/completions", body, "strict").status_code == 400

    async def metrics() -> str:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return (await http.get("/metrics")).text

    assert 'deepwell_context_tokens_total{fate="kept"' not in server.loop.run_until_complete(metrics())


def test_a_replayed_answer_is_that_of_its_policy(codec: Codec) -> None:
    server = Books(codec, 2_000)
    body = {
        "model": "toy",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4,
        "temperature": 0,
    }
    told = [server.post("/v1/chat/completions", body, "strict") for _ in range(3)]
    assert [one.headers["x-deepwell-cache"] for one in told] == ["miss", "hit", "hit"]
    assert len({one.headers["x-context-tokens-kept"] for one in told}) == 1
    other = server.post("/v1/chat/completions", body, "auto")
    assert other.headers["x-context-policy"] == "auto"
    assert other.json()["usage"]["prompt_tokens_details"]["context"]["policy"] == "auto"
    assert server.post("/v1/chat/completions", body, "sliding").status_code == 400
