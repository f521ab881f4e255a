"""Lists of messages, items and parts: how many a request may have, and what is said of more."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.http.json_size import MAX_MEMBERS
from deepwell.server.http.schema import MAX_ENTRIES

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
USER = {"role": "user", "content": "a"}
PART = {CHAT: "text", MESSAGES: "text", RESPONSES: "input_text"}


def body(path: str, messages: list[Any]) -> dict[str, Any]:
    if path == RESPONSES:
        return {"model": "toy", "input": messages}
    return {"model": "toy", "messages": messages, "max_tokens": 5}


def parts(path: str, count: int) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": PART[path], "text": ""}] * count}


@pytest.fixture
def wide(engine: FakeEngine, codec: Codec) -> httpx.AsyncClient:
    app = create_app(make_service(engine, codec, model="toy"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def refused(http: httpx.AsyncClient, path: str, body: Any, kind: str = "application/json") -> str:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await http.post(path, content=data, headers={"content-type": kind})
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_a_request_has_a_number_of_messages_at_most(wide: httpx.AsyncClient, path: str) -> None:
    said = await refused(wide, path, body(path, [USER] * (MAX_ENTRIES + 1)))
    assert "at most 2048" in said and "send at most 2048" in said
    assert ("input" if path == RESPONSES else "messages") in said
    said = await refused(wide, path, body(path, [USER] * MAX_ENTRIES))
    assert "tokens" in said, "as many are only too long for the context"


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_a_message_has_a_number_of_parts_at_most(wide: httpx.AsyncClient, path: str) -> None:
    said = await refused(wide, path, body(path, [parts(path, MAX_ENTRIES + 1)]))
    assert "send at most 2048" in said and "content" in said


@pytest.mark.parametrize(
    "kind", ["application/json", "application/any+json", "Application/JSON ; charset=utf-8"]
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_a_request_has_a_number_of_parts_at_most(wide: httpx.AsyncClient, path: str, kind: str) -> None:
    said = await refused(wide, path, body(path, [parts(path, 2000)] * 5), kind)
    assert "more than 8192" in said and "join texts" in said


@pytest.mark.parametrize("member", ["", "metadata", "logit_bias"])
async def test_a_request_and_its_objects_have_a_number_of_members_at_most(
    wide: httpx.AsyncClient, member: str
) -> None:
    many = {str(number): "1" for number in range(MAX_MEMBERS + 1)}
    said = await refused(wide, CHAT, body(CHAT, [USER]) | ({member: many} if member else many))
    assert f"has {MAX_MEMBERS + (1 if member else 4)} members" in said, said
    assert (member or "the request") in said and f"send at most {MAX_MEMBERS}" in said


async def test_calls_count_as_parts(wide: httpx.AsyncClient) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    many = [{"role": "assistant", "tool_calls": [call] * 128}] * 65
    assert "tool calls" in await refused(wide, CHAT, body(CHAT, many))


async def test_a_large_body_is_refused_in_the_same_words_as_a_small_one(wide: httpx.AsyncClient) -> None:
    for wrong in (
        {"messages": [USER | {"role": "nobody"}]},
        {"messages": [USER], "max_tokns": 1},
        {"messages": [USER | {"content": 5}]},
        {},
    ):
        labels = ("x", "x" * 70_000)
        said = [await refused(wide, CHAT, {"model": "toy", "user": label} | wrong) for label in labels]
        assert said[0] == said[1]
    long = b" " * 70_000
    for broken in (b'{"model": "toy",\n\n "messages": [}', b"", b"[]", b'{"model": "to'):
        assert (await refused(wide, CHAT, long + broken)).split(":")[0] == (
            await refused(wide, CHAT, b" " + broken)
        ).split(":")[0]


async def test_the_limits_stand_in_the_document(wide: httpx.AsyncClient) -> None:
    schemas = (await wide.get("/openapi.json")).json()["components"]["schemas"]
    for name, field in (("ChatRequest", "messages"), ("MessagesRequest", "messages")):
        assert schemas[name]["properties"][field]["maxItems"] == MAX_ENTRIES
    assert f'"maxItems": {MAX_ENTRIES}' in json.dumps(schemas["ChatMessage"])
