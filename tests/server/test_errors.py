"""Requests that cannot be served: each gets OpenAI's error body, which names the parameter and the fix."""

from __future__ import annotations

import json
import logging
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message
from tests.server.conftest import Live
from tests.server.fakes import FakeEngine

from deepwell.server.app import create_app
from deepwell.server.context import ServerContext

CHAT: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "toy", "prompt": "hi"}
EMBED: dict[str, Any] = {"model": "toy", "input": "hi"}


async def refused(http: httpx.AsyncClient, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    response = await http.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"].startswith("req_")
    return error


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/embeddings", "/v1/conversations", "/v1/files", "/tokenize", "/v2/rerank"],
)
async def test_a_client_that_leaves_within_its_body_is_no_failure(
    service: ServerContext, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"model": "toy", "mess', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"500")],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    with caplog.at_level(logging.WARNING):
        await create_app(service)(scope, receive, send)
    assert not [message for message in sent if message.get("status", 0) >= 500]
    assert not caplog.records


@pytest.mark.parametrize(
    ("extra", "param", "says"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"zzz": 1}, "zzz", "unknown parameter"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"temperature": True}, "temperature", "valid number"),
        ({"top_p": 1.1}, "top_p", "less than or equal to 1"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 129}, "n", "128"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "max_completion_tokens alone"),
        ({"min_tokens": 7, "max_tokens": 6}, "min_tokens", "lower min_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "must not be empty"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"presence_penalty": -3}, "presence_penalty", "-2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        ({"logit_bias": {"5": 101}}, "logit_bias[5]", "100"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "0 to 257"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "0 to 257"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "'custom'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        ({"tools": [TOOL, TOOL]}, "tools", "two tools"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tools": [TOOL], "tool_choice": "some"}, "tool_choice", "'required'"),
        ({"tools": [TOOL], "tool_choice": named("g")}, "tool_choice", "'f'"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice", "needs"),
        ({"tools": [strict({"uniqueItems": True})]}, "tools", "/uniqueItems"),
        ({"functions": [{}]}, "functions", "use tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "missing",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"json": 3}}, "structured_outputs.json", "dict"),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "structured_outputs", "ignore_eos"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs", "enable_thinking"),
        ({"modalities": ["text", "audio"]}, "audio", "send its voice and format"),
        ({"audio": {"voice": "x"}}, "audio.format", "missing"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "leave it out"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hi"}, "messages", "valid list"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "content is missing"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role", "'user'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "a"}]}, "messages", "did not make"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, "messages", "has no answer"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0]", "assistant"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]", "content is missing"),
        (
            {"messages": [{"role": "user", "content": "x", "nam": "y"}]},
            "messages[0].nam",
            "unknown parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "neither a data URL nor",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].id",
            "missing",
        ),
    ],
)
async def test_chat_refuses_by_name(
    http: httpx.AsyncClient, engine: FakeEngine, extra: dict[str, Any], param: str | None, says: str
) -> None:
    error = await refused(http, "/v1/chat/completions", CHAT | extra)
    assert error["param"] == param
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert engine.seen == []


@pytest.mark.parametrize(
    "extra",
    [
        {"response_format": {"type": "text"}},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"tools": None, "functions": None, "modalities": ["text"]},
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"stop": None, "seed": None, "n": None, "max_tokens": None, "logit_bias": None, "stream": None},
        {"top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": False, "stop_token_ids": [5]},
        {
            "messages": [
                {"role": "developer", "content": "x"},
                {"role": "user", "content": [{"type": "text", "text": "h"}]},
            ]
        },
    ],
)
async def test_harmless_values_are_accepted(http: httpx.AsyncClient, extra: dict[str, Any]) -> None:
    response = await http.post("/v1/chat/completions", json=CHAT | extra)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("extra", "param", "says"),
    [
        ({"suffix": "x"}, "suffix", "leave suffix out"),
        ({"best_of": 2}, "best_of", "use n"),
        ({"max_tokens": 0}, "max_tokens", "echo: true"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "not empty"),
        ({"prompt": ["a", 1]}, "prompt", "only"),
        ({"prompt": [[1], []]}, "prompt", "non-empty"),
        ({"prompt": [-1]}, "prompt", "only"),
        ({"prompt": [258]}, "prompt", "0 to 257"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt", "at most 128"),
        ({"prompt": ["a"] * 129}, "prompt", "at most 128"),
        ({"prompt": {"a": 1}}, "prompt", "string"),
        ({"logprobs": 21}, "logprobs", "20"),
        ({"messages": []}, "messages", "unknown parameter"),
    ],
)
async def test_completions_refuse_by_name(
    http: httpx.AsyncClient, engine: FakeEngine, extra: dict[str, Any], param: str | None, says: str
) -> None:
    error = await refused(http, "/v1/completions", TEXT | extra)
    assert error["param"] == param
    assert says in error["message"]
    assert engine.seen == []


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"dimensions": 9}, "from 1 to 8"),
        ({"encoding_format": "hex"}, "'float' or 'base64'"),
        ({"input": ""}, "empty"),
        ({"input": "x" * 513}, "512 tokens"),
    ],
)
async def test_embeddings_refuse(http: httpx.AsyncClient, extra: dict[str, Any], says: str) -> None:
    assert says in (await refused(http, "/v1/embeddings", EMBED | extra))["message"]


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)])
async def test_what_does_not_fit_the_context_is_refused_with_the_numbers(
    http: httpx.AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    error = await refused(http, path, body | {"max_tokens": 512})
    assert error["code"] == "context_length_exceeded"
    assert "512 tokens" in error["message"] and "lower max_tokens to at most" in error["message"]
    assert engine.seen == []
    most = int(error["message"].rsplit(" ", 1)[1])
    assert (await http.post(path, json=body | {"max_tokens": most})).status_code == 200


async def test_without_a_limit_chat_may_use_the_rest_of_the_context(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await http.post("/v1/chat/completions", json=CHAT)
    request = engine.seen[0]
    assert len(request.prompt) + request.params.max_tokens == engine.max_model_len


async def test_parameters_reach_the_engine_and_defaults_are_openais(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await http.post("/v1/chat/completions", json=CHAT)
    defaults = engine.seen[0].params
    assert (defaults.temperature, defaults.top_p, defaults.seed, defaults.logprobs) == (1.0, 1.0, None, None)
    sent = {
        "temperature": 0.5, "top_p": 0.9, "seed": -3, "presence_penalty": 1, "frequency_penalty": -1,
        "logit_bias": {"97": -5}, "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 1,
        "max_tokens": 4, "stop_token_ids": [9], "ignore_eos": True, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    await http.post("/v1/chat/completions", json=CHAT | sent)
    params = engine.seen[1].params
    expected = sent | {"logit_bias": {97: -5.0}, "stop_token_ids": (9,), "logprobs": 2}
    del expected["top_logprobs"]
    assert {name: getattr(params, name) for name in expected} == expected
    assert {engine.seen[0].cache_salt, engine.seen[1].cache_salt} == {""}


async def test_unknown_routes_and_methods(http: httpx.AsyncClient) -> None:
    missing = await http.get("/v1/nothing")
    assert missing.status_code == 404 and "/v1/chat/completions" in missing.json()["error"]["message"]
    wrong = await http.get("/v1/embeddings")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"
    assert "use POST" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "JSON object"),
        (b"\xff\xfe{}", "JSON"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"a":' * 10_000, "nested too deeply"),
        (b'{"model": ' + b"1" * 5000 + b"}", "JSON"),
        (b'{"model":"toy","messages":[{"role":"user","content":"\\ud800"}]}', "lone surrogate"),
        (b'{"model":"toy","messages":[{"role":"user","content":"x"}],"temperature":NaN}', "finite"),
        (b'{"model":"toy","messages":[{"role":"user","content":"x"}],"temperature":1e999}', "finite"),
    ],
)
async def test_hostile_bodies(http: httpx.AsyncClient, body: bytes, says: str) -> None:
    response = await http.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]["message"]


async def test_a_body_without_the_json_content_type_is_told_so(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", content=json.dumps(CHAT))
    assert response.status_code == 400
    assert "Content-Type: application/json" in response.json()["error"]["message"]


async def test_a_long_body_is_refused_declared_or_not(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    declared = await http.post("/v1/chat/completions", content=b"x" * 65_537, headers=headers)

    async def parts() -> Any:
        for _ in range(70):
            yield b"x" * 1024

    chunked = await http.post("/v1/chat/completions", content=parts(), headers=headers)
    for response in (declared, chunked):
        assert response.status_code == 413
        assert "DEEPWELL_MAX_BODY_BYTES" in response.json()["error"]["message"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(
    [
        "messages",
        "prompt",
        "input",
        "stop",
        "logit_bias",
        "stream_options",
        "response_format",
        "max_tokens",
        "n",
        "seed",
        "tokens",
        "tools",
        "chat_template_kwargs",
        "documents",
        "top_n",
        "text_1",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(
        [
            ("/v1/chat/completions", CHAT),
            ("/v1/completions", TEXT),
            ("/v1/embeddings", EMBED),
            ("/tokenize", {"model": "toy", "prompt": "hi"}),
            ("/tokenize", {"model": "toy", "messages": CHAT["messages"]}),
            ("/detokenize", {"model": "toy", "tokens": [97]}),
            ("/v2/rerank", {"model": "toy", "query": "hi", "documents": ["a"]}),
            ("/v1/score", {"model": "toy", "text_1": "hi", "text_2": ["a"]}),
        ]
    ),
    extra=st.dictionaries(names, json_values, max_size=3),
)
async def test_no_body_makes_the_server_fail(
    http: httpx.AsyncClient, path: tuple[str, dict[str, Any]], extra: dict[str, Any]
) -> None:
    response = await http.post(
        path[0], content=json.dumps(path[1] | extra), headers={"content-type": "application/json"}
    )
    assert response.status_code in (200, 400), response.text
    assert "error" in response.json() or response.status_code == 200


async def test_an_engine_that_gives_up_is_a_503(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.fail_at = 1
    error = await refused(http, "/v1/chat/completions", CHAT, 503)
    assert "the model broke" in error["message"] and error["code"] == "generation_failed"


async def test_a_grammar_that_cannot_go_on_is_a_400_that_nobody_retries(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail_at, engine.fail_code = 1, "grammar_failed"
    for changes in ({}, {"n": 3, "temperature": 1}):
        error = await refused(http, "/v1/chat/completions", CHAT | changes, 400)
        assert error["type"] == "invalid_request_error" and error["code"] == "grammar_failed"
        assert "the model broke" in error["message"] and "send the request again" not in error["message"]


async def test_a_bug_is_a_500_that_shows_nothing(
    http: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(engine, "generate", broken)
    response = await http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 500
    assert "secret" not in response.text and response.json()["error"]["type"] == "server_error"


RESPONSE: dict[str, Any] = {"model": "toy", "input": "hi"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", CHAT | {"stream_options": {}}, "stream_options"),
        ("chat/completions", CHAT | {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ("chat/completions", CHAT | {"top_logprobs": 1}, "top_logprobs"),
        (
            "chat/completions",
            CHAT | {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
        (
            "chat/completions",
            CHAT | {"structured_outputs": {"regex": "a"}, "ignore_eos": True},
            "structured_outputs",
        ),
        ("completions", TEXT | {"max_tokens": 0}, "max_tokens"),
        ("completions", TEXT | {"prompt": ["a"] * 100, "n": 2}, "prompt"),
        ("responses", RESPONSE | {"stream_options": {}}, "stream_options"),
        ("responses", RESPONSE | {"background": True, "store": False}, "background"),
        ("responses", RESPONSE | {"top_logprobs": 1}, "top_logprobs"),
        ("responses", {"model": "toy"}, "input"),
        ("responses", RESPONSE | {"previous_response_id": "a", "conversation": "b"}, "previous_response_id"),
    ],
)
async def test_parameters_that_do_not_go_together_are_named(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    error = await refused(http, f"/v1/{path}", body, 400)
    assert error["param"] == param and param in error["message"]


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_prompt_cache_options_ask_for_nothing(http: httpx.AsyncClient, path: str) -> None:
    body = CHAT if path == "chat/completions" else RESPONSE
    answer = await http.post(f"/v1/{path}", json=body | {"prompt_cache_options": None})
    assert answer.status_code == 200, answer.text
    error = await refused(http, f"/v1/{path}", body | {"prompt_cache_options": {"ttl": "24h"}}, 400)
    assert error["param"] == "prompt_cache_options" and "always cached" in error["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_all_of_a_long_body_first_reads_the_413(shared_live: Live, chunked: bool) -> None:
    """More than the buffers of both sides hold: a server that closed at once would reset the connection."""
    piece = b"x" * (1 << 20)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += b"transfer-encoding: chunked\r\n\r\n" if chunked else b"content-length: %d\r\n\r\n" % (24 << 20)
    target = urlsplit(shared_live.url)
    with socket.create_connection((target.hostname or "", target.port or 0), timeout=60) as connection:
        connection.sendall(head)
        for _ in range(24):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 413") and b"DEEPWELL_MAX_BODY_BYTES" in answer


def test_a_client_that_closes_behind_its_body_reads_an_error_that_came_before_the_end(
    shared_live: Live,
) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nx\r\n' * 8000
    head = b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    head += b"content-type: multipart/form-data; boundary=b\r\ncontent-length: %d\r\n\r\n" % (8 << 20)
    target = urlsplit(shared_live.url)
    with socket.create_connection((target.hostname or "", target.port or 0), timeout=60) as connection:
        connection.sendall(head + body.ljust(8 << 20, b"x"))
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400"), answer


def test_a_client_that_waits_to_be_told_to_go_on_is_not_told(shared_live: Live) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += b"expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n"
    target = urlsplit(shared_live.url)
    with socket.create_connection((target.hostname or "", target.port or 0), timeout=60) as connection:
        connection.sendall(head)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
