"""Anthropic's Messages API: blocks, tools, events, errors in its own shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from tests.server.conftest import Live
from tests.server.fakes import FakeEngine, make_service, write_tokenizer
from tests.server.test_tools import QWEN

from deepwell.dialogue.text import Codec
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.app import create_app

CALL = 'look<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=4096)


async def ask(http: httpx.AsyncClient, text: Any = "hello", status: int = 200, **more: Any) -> dict[str, Any]:
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    body = {"model": "toy", "max_tokens": 200, "messages": messages, "temperature": 0, **more}
    response = await http.post("/v1/messages", json=body)
    assert response.status_code == status, response.text
    return response.json()


async def events_of(http: httpx.AsyncClient, text: str, **more: Any) -> list[dict[str, Any]]:
    messages = [{"role": "user", "content": text}]
    body = {"model": "toy", "max_tokens": 200, "messages": messages, "temperature": 0, "stream": True, **more}
    response = await http.post("/v1/messages", json=body)
    events = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


async def test_a_message_is_answered_and_counted(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    system = [
        {"type": "text", "text": "be"},
        {"type": "text", "text": "brief", "cache_control": {"type": "ephemeral"}},
    ]
    answer = await ask(http, "hé", system=system)
    assert answer["content"] == [{"type": "text", "text": "hé"}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    prompt = bytes(token for token in engine.seen[-1].prompt if token < 256).decode()
    assert prompt == "system\nbe\nbrief\nuser\nhé\nassistant\n"
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(engine.seen[-1].prompt)
    counted = await http.post(
        "/v1/messages/count_tokens",
        json={"model": "toy", "messages": [{"role": "user", "content": "hé"}], "system": system},
    )
    assert counted.json() == {"input_tokens": len(engine.seen[-1].prompt)}


async def test_a_stop_sequence_is_named(http: httpx.AsyncClient) -> None:
    answer = await ask(http, "one. two", stop_sequences=["x", ". t"])
    assert answer["content"][0]["text"] == "one"
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", ". t")
    assert (await ask(http, "abcdef", max_tokens=3))["stop_reason"] == "max_tokens"


async def test_tools_are_called_and_answered(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await ask(http, CALL, tools=[TOOL])
    text, call = answer["content"]
    assert text == {"type": "text", "text": "look"}
    assert (call["name"], call["input"], answer["stop_reason"]) == ("weather", {"city": "Oslo"}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "rain", "is_error": True}
    again = await ask(
        http,
        [
            {"role": "user", "content": CALL},
            {"role": "assistant", "content": answer["content"]},
            {"role": "user", "content": [result, {"type": "text", "text": "so?"}]},
        ],
        tools=[TOOL],
    )
    assert again["content"][0]["text"] == "so?"
    prompt = bytes(token for token in engine.seen[-1].prompt if token < 256).decode()
    assert "Error: rain" in prompt
    orphan = await ask(http, [{"role": "user", "content": [result]}], 400)
    assert orphan["error"]["type"] == "invalid_request_error"


async def test_a_stream_says_what_the_whole_says(http: httpx.AsyncClient) -> None:
    events = await events_of(http, CALL, tools=[TOOL])
    assert [e["type"] for e in events if e["type"] != "content_block_delta"] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    assert "".join(d.get("text", "") for d in deltas) == "look"
    assert json.loads("".join(d.get("partial_json", "") for d in deltas)) == {"city": "Oslo"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_failures_have_anthropics_shape(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    for extra, says in (
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"messages": [{"role": "system", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "document"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "assistant's",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "budget"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
        ({"tool_choice": {"type": "tool"}}, "name"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"temperature": 1.5}, "less than or equal to 1"),
        ({"max_tokens": 10_000}, "context length"),
    ):
        error = await ask(http, "x", 400, **extra)
        assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"
        assert says in error["error"]["message"], error
    missing = await ask(http, "x", 404, model="claude")
    assert missing["error"]["type"] == "not_found_error"
    engine.fail_at = 0
    assert (await ask(http, "x", 503))["error"]["type"] == "overloaded_error"
    engine.fail_at = 1
    assert (await events_of(http, "xyz"))[-1]["type"] == "error"


async def test_what_coding_tools_ask_for_by_default_is_taken(http: httpx.AsyncClient) -> None:
    """Each of these asks for what is done anyway."""
    keep = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    for more in (
        {"output_config": {"effort": "high"}},
        {"context_management": {"edits": []}},
        {"context_management": keep},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
    ):
        assert (await ask(http, "hi", **more))["content"] == [{"type": "text", "text": "hi"}]
    for more, says in (
        ({"output_config": {"effort": "low"}}, "effort"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "compacted"),
        ({"thinking": {"type": "adaptive", "display": "loud"}}, "display"),
    ):
        assert says in (await ask(http, "hi", 400, **more))["error"]["message"]


async def test_thinking_may_be_omitted(engine: FakeEngine, tmp_path: Path) -> None:
    """The block stays, so that a client knows of it; its text does not come, whole or as a stream."""
    codec = Codec(Tokenizer.load(write_tokenizer(tmp_path)), ChatTemplate(QWEN, "<|im_start|>", "<|im_end|>"))
    app = create_app(make_service(engine, codec, model="toy"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for display, shown in (("summarized", "I wonder"), ("omitted", "")):
            thinking = {"type": "adaptive", "display": display}
            block, text = (await ask(http, "<think>I wonder</think>yes", thinking=thinking))["content"]
            assert (block["type"], block["thinking"], text["text"]) == ("thinking", shown, "yes")
            events = await events_of(http, "<think>I wonder</think>yes", thinking=thinking)
            deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
            assert "".join(delta.get("thinking", "") for delta in deltas) == shown


@pytest.mark.parametrize(
    ("kind", "opening"), [("adaptive", "<think>"), ("disabled", "</think>"), (None, "</think>")]
)
async def test_adaptive_thinking_turns_a_switch_on(
    kind: str | None, opening: str, engine: FakeEngine, tmp_path: Path
) -> None:
    """A template such as DeepSeek-V4's does not open reasoning unless it is asked to."""
    source = "{{ messages[-1].content }}{{ '<think>' if thinking else '</think>' }}"
    codec = Codec(
        Tokenizer.load(write_tokenizer(tmp_path)), ChatTemplate(source, "<|im_start|>", "<|im_end|>")
    )
    app = create_app(make_service(engine, codec, model="toy"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        await ask(http, "hi", **({"thinking": {"type": kind}} if kind else {}))
    prompt = bytes(token for token in engine.seen[-1].prompt if token < 256).decode()
    assert prompt == f"hi{opening}"


async def test_the_key_may_come_as_anthropic_sends_it(engine: FakeEngine, codec: Codec) -> None:
    service = make_service(engine, codec, model="toy", api_keys=[SecretStr("k" * 16)])
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = {"model": "toy", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        assert (
            await http.post("/v1/messages", json=body, headers={"x-api-key": "k" * 16})
        ).status_code == 200
        refused = await http.post("/v1/messages", json=body, headers={"x-api-key": "no"})
        assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"


async def test_keys_do_not_share_what_is_stored(engine: FakeEngine, codec: Codec) -> None:
    keys = ["a" * 16, "b" * 16]
    service = make_service(engine, codec, model="toy", api_keys=[SecretStr(key) for key in keys])
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        mine, theirs = ({"authorization": f"Bearer {key}"} for key in keys)
        response = await http.post("/v1/responses", json={"model": "toy", "input": "x"}, headers=mine)
        path = f"/v1/responses/{response.json()['id']}"
        assert (await http.get(path, headers=mine)).status_code == 200
        for method, route in (
            ("GET", path),
            ("DELETE", path),
            ("POST", f"{path}/cancel"),
            ("GET", f"{path}/input_items"),
        ):
            assert (await http.request(method, route, headers=theirs)).status_code == 404


async def test_a_thread_is_refused_by_the_code_that_lets_sdks_go_on_without_one(
    http: httpx.AsyncClient,
) -> None:
    answer = await ask(http, "hi", 400, thread={"type": "new"})
    error = answer["error"]
    assert error["type"] == "invalid_request_error" and "without thread" in error["message"]
    assert error["details"] == {"error_code": "thread_unsupported_request"}
    assert "details" not in (await ask(http, "hi", 400, nonsense=1))["error"]
    await ask(http, "hi", thread=None)


async def test_every_answer_names_its_request_as_anthropics_sdk_reads_it(http: httpx.AsyncClient) -> None:
    for status, body in ((200, {"model": "toy", "max_tokens": 5}), (400, {"zzz": 1})):
        body = {"messages": [{"role": "user", "content": "hi"}], **body}
        answer = await http.post("/v1/messages", json=body)
        assert answer.status_code == status
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert "request-id" not in (await http.get("/v1/models")).headers


async def test_a_tool_result_with_an_image_is_refused_by_name(http: httpx.AsyncClient) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {}}]}
    error = (await ask(http, [{"role": "user", "content": [result]}], 400))["error"]
    assert "'image' are not supported" in error["message"]


def test_the_tool_runner_of_the_sdk_runs_tools_to_the_end(live: Live) -> None:
    """It begins a thread by itself, and goes on without one when it is told that there are none."""
    import anthropic

    ran: list[str] = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather in a city.

        Args:
            city: its name.
        """
        ran.append(city)
        return "rain"

    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as client:
        runner = client.beta.messages.tool_runner(
            model="toy",
            max_tokens=400,
            tools=[weather],
            messages=[{"role": "user", "content": CALL}],
            max_iterations=2,
        )
        messages = list(runner)
    assert ran[:1] == ["Oslo"] and len(messages) == 2
    assert messages[0].stop_reason == "tool_use"
