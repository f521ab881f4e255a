"""Ollama's API: what each request becomes in the engine, what is refused by name, and the shapes of answers and errors."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.server.fakes import TEMPLATE, FakeEngine, make_service, write_tokenizer
from tests.server.test_streams import Caller

from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import AdapterInfo
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.access.quota import RateLimits
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.families.ollama.family import FAMILY
from deepwell.server.families.ollama.keep_alive import keep_alive_s
from deepwell.server.options import LimitsConfig

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": %d}}\n</tool_call>'
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
GREEDY = {"temperature": 0}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=4096)


def said(text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"model": "toy", "messages": [message], "stream": False, "options": GREEDY} | more


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


async def refused(http: httpx.AsyncClient, path: str, body: Any, status: int = 400) -> str:
    answer = await http.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return answer.json()["error"]


@asynccontextmanager
async def client_of(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_answers_stream_as_lines_unless_asked_otherwise(http: httpx.AsyncClient) -> None:
    text = "a\n\nb 好\u2028\u2029\x85"
    body = said(text)
    del body["stream"]
    response = await http.post("/api/chat", json=body)
    assert response.headers["content-type"] == "application/x-ndjson"
    *pieces, last = lines_of(response)
    assert "".join(piece["message"]["content"] for piece in pieces) == text
    assert all(piece["done"] is False and "eval_count" not in piece for piece in pieces)
    whole = (await http.post("/api/chat", json=said(text))).json()
    assert whole["message"] == {"role": "assistant", "content": text}
    for end in (last, whole):
        assert (end["done"], end["done_reason"], end["model"]) == (True, "stop", "toy")
        assert end["eval_count"] == len(text.encode()) + 1 and end["prompt_eval_count"] > end["eval_count"]
        times = [end[f"{name}_duration"] for name in ("prompt_eval", "eval", "load", "total")]
        assert all(isinstance(time, int) and time > 0 for time in times)
        assert sum(times[:3]) <= times[3]


async def test_the_chat_and_the_openai_route_ask_the_engine_the_same(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    options = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "seed": 7, "num_predict": 9,
        "repeat_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3, "stop": "zz",
    }  # fmt: skip
    assert (await http.post("/api/chat", json=said("hi", options=options))).status_code == 200
    openai = {name: value for name, value in options.items() if name not in ("num_predict", "repeat_penalty")}
    openai |= {"max_tokens": 9, "repetition_penalty": 1.1, "model": "toy"}
    openai["messages"] = said("hi")["messages"]
    assert (await http.post("/v1/chat/completions", json=openai)).status_code == 200
    ours, theirs = engine.seen
    assert list(ours.prompt) == list(theirs.prompt) and ours.params == theirs.params


async def test_without_a_limit_an_answer_may_fill_the_context(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for limit in (None, -1, -2):
        await http.post("/api/chat", json=said("hi", options={"num_predict": limit, "seed": -1}))
    for request in engine.seen:
        assert len(request.prompt) + request.params.max_tokens == 4096 and request.params.seed is None


async def test_options_of_the_machine_change_nothing(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    machine = {
        "num_thread": 8, "num_gpu": 1, "main_gpu": 0, "num_batch": 2, "numa": False, "low_vram": True,
        "f16_kv": True, "use_mmap": True, "use_mlock": False, "logits_all": False, "num_keep": 5, "num_ctx": 4096,
        "mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "typical_p": 1, "tfs_z": 1.0, "repeat_last_n": -1,
        "penalize_newline": True, "vocab_only": False,
    }  # fmt: skip
    for more in ({}, machine):
        await http.post("/api/chat", json=said("hi", options=GREEDY | more))
    assert engine.seen[0].params == engine.seen[1].params


REFUSED_IN_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"options": {"num_ctx": 5000}}, "--context 5000"),
    ({"options": {"num_predict": 0}}, "'options.num_predict'"),
    ({"options": {"num_predict": 5000}}, "4096"),
    ({"options": {"mirostat": 1}}, "mirostat is not supported"),
    ({"options": {"typical_p": 0.7}}, "'options.typical_p'"),
    ({"options": {"tfs_z": 2.0}}, "'options.tfs_z'"),
    ({"options": {"tfs_z": True}}, "'options.tfs_z'"),
    ({"options": {"repeat_last_n": 64}}, "send -1"),
    ({"options": {"penalize_newline": False}}, "'options.penalize_newline'"),
    ({"options": {"temprature": 0}}, "unknown parameter 'options.temprature'"),
    ({"options": {"temperature": -1}}, "'options.temperature'"),
    ({"options": {"stop": [""]}}, "'options.stop'"),
    ({"optons": {}}, "did you mean 'options'?"),
    ({"format": "xml"}, "send 'json' or a JSON schema"),
    ({"format": 3}, "'format'"),
    ({"template": "{{ .Prompt }}"}, "'template'"),
    ({"think": True}, "'think': this model does not reason"),
    ({"think": "high"}, "'think'"),
    ({"think": "hihg"}, "'think'"),
    ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
    ({"keep_alive": "five minutes"}, "'five minutes' is no duration"),
    ({"messages": [{"role": "user", "content": "x", "images": ["%"]}]}, "not base64"),
    ({"messages": [{"role": "developer", "content": "x"}]}, "the role 'developer' is not supported"),
    ({"messages": [{"role": "user", "content": "x", "tool_name": "f"}]}, "belongs to messages"),
    ({"messages": [{"role": "tool", "content": "x", "tool_name": "f"}]}, "the tool call 'f'"),
    ({"tools": [{"type": "retrieval", "function": {"name": "f"}}]}, "'retrieval'"),
]
REFUSED_IN_TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"suffix": "end"}, "suffix"),
    ({"context": [1, 2]}, "/api/chat"),
    ({"images": ["%"]}, "not base64"),
    ({"template": "x"}, "'template'"),
    ({"width": 512}, "unknown parameter 'width'"),
    ({"raw": True, "system": "x"}, "raw goes with neither"),
]


async def test_what_cannot_be_honoured_is_refused_by_name(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for extra, says in REFUSED_IN_CHATS:
        assert says in await refused(http, "/api/chat", said("hi") | extra), extra
    for extra, says in REFUSED_IN_TEXTS:
        assert says in await refused(http, "/api/generate", {"model": "toy", "prompt": "hi"} | extra), extra
    assert engine.seen == []


async def test_what_the_command_line_of_ollama_sends_empty_is_accepted(http: httpx.AsyncClient) -> None:
    empty = {"suffix": "", "system": "", "template": "", "context": [], "images": [], "options": None}
    sent = {"format": "", "keep_alive": None, "_debug_render_only": False, "truncate": True, "shift": True}
    body = {"model": "toy", "prompt": "hi", "stream": False} | empty | sent
    assert (await http.post("/api/generate", json=body)).json()["response"]
    shown = {"model": "", "name": "toy", "verbose": False, "system": "", "template": "", "options": {}}
    assert (await http.post("/api/show", json=shown)).status_code == 200


async def test_a_prompt_is_a_message_or_stands_raw(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    body: dict[str, Any] = {"model": "toy", "prompt": "abc", "stream": False, "options": GREEDY}
    answer = (await http.post("/api/generate", json=body | {"system": "Be brief."})).json()
    assert answer["response"] == "abc" and "context" not in answer
    raw = (await http.post("/api/generate", json=body | {"raw": True, "format": "json"})).json()
    assert raw["response"] == "abc" and raw["prompt_eval_count"] == 3
    framed, plain = ("".join(map(chr, request.prompt[1:])) for request in engine.seen)
    assert framed.startswith("system\nBe brief.") and plain == "bc"
    assert engine.grammars == [engine.seen[1].params.grammar]
    *pieces, last = lines_of(await http.post("/api/generate", json=body | {"stream": True}))
    assert "".join(piece["response"] for piece in pieces) == "abc" and last["response"] == ""


async def test_formats_bind_the_answer(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    for format in ("json", schema):
        assert (await http.post("/api/chat", json=said("hi", format=format))).status_code == 200
    sources = [json.loads(grammar.source) for grammar in engine.grammars]
    assert sources == [{"type": "object"}, schema]
    assert [request.params.grammar for request in engine.seen] == engine.grammars


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_come_whole_with_arguments_as_objects(http: httpx.AsyncClient, stream: bool) -> None:
    body = said(f"look {CALL % 1}\n{CALL % 2}", tools=[TOOL], stream=stream)
    objects = lines_of(await http.post("/api/chat", json=body)) if stream else []
    if not stream:
        objects = [(await http.post("/api/chat", json=body)).json()]
    calls = [call for one in objects for call in one["message"].get("tool_calls", ())]
    assert [call["function"] for call in calls] == [
        {"name": "f", "arguments": {"a": 1}, "index": 0},
        {"name": "f", "arguments": {"a": 2}, "index": 1},
    ]
    assert len({call["id"] for call in calls}) == 2
    assert "".join(one["message"]["content"] for one in objects).strip() == "look"
    assert objects[-1]["done_reason"] == "stop"


async def test_a_call_that_was_cut_off_is_passed_on_as_it_is(http: httpx.AsyncClient) -> None:
    cut = (CALL % 1)[:-20]
    body = said(cut, tools=[TOOL], options=GREEDY | {"num_predict": len(cut)})
    answer = (await http.post("/api/chat", json=body)).json()
    assert answer["done_reason"] == "length"
    assert all(
        isinstance(call["function"]["arguments"], dict) for call in answer["message"].get("tool_calls", ())
    )


async def test_results_find_their_calls_by_id_by_name_or_in_order(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"a": 1}}, **more}

    def asked(calls: list[Any], results: list[dict[str, Any]]) -> dict[str, Any]:
        tools = [{"role": "tool", "content": "it rains", **result} for result in results]
        question = {"role": "user", "content": "and now?"}
        return said("x", messages=[question, {"role": "assistant", "tool_calls": calls}, *tools, question])

    for body in (
        asked([call("f")], [{}]),
        asked([call("f"), call("g")], [{"tool_name": "g"}, {"tool_name": "f"}]),
        asked([call("f", id="one"), call("f", id="two")], [{"tool_call_id": "two"}, {"tool_call_id": "one"}]),
        asked([call("f", id=None, index=0, type="function")], [{"tool_call_id": ""}]),
    ):
        answer = await http.post("/api/chat", json=body)
        assert answer.json()["message"]["content"] == "and now?", answer.text
    assert all("it rains" in "".join(map(chr, request.prompt)) for request in engine.seen)
    lost = asked([call("f")], [{"tool_name": "g"}])
    assert "'g'" in await refused(http, "/api/chat", lost)


async def test_thoughts_come_apart(tmp_path: Path, engine: FakeEngine) -> None:
    template = (
        TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    )
    codec = Codec(
        Tokenizer.load(write_tokenizer(tmp_path)), ChatTemplate(template, "<|im_start|>", "<|im_end|>")
    )
    text = "<think>hm</think>hi"
    async with client_of(make_service(engine, codec, model="toy")) as http:
        answer = (await http.post("/api/chat", json=said(text, think=True))).json()
        assert answer["message"] == {"role": "assistant", "content": "hi", "thinking": "hm"}
        *pieces, _ = lines_of(await http.post("/api/chat", json=said(text, stream=True)))
        assert "".join(piece["message"].get("thinking", "") for piece in pieces) == "hm"
        generated = {"model": "toy", "prompt": text, "stream": False, "options": GREEDY}
        assert (await http.post("/api/generate", json=generated)).json()["thinking"] == "hm"
        answer = (await http.post("/api/chat", json=said(text, think="high"))).json()
        assert answer["message"]["thinking"] == "hm"
        refusal = await refused(http, "/api/chat", said(text, think="low"))
        assert "use 'high' to turn reasoning on, or false to turn it off" in refusal
        off = (await http.post("/api/chat", json=said("hi", think=False))).json()
        assert "thinking" not in off["message"]
        shown = (await http.post("/api/show", json={"model": "toy"})).json()
        assert shown["capabilities"] == ["completion", "tools", "thinking"] and shown["template"] == template


async def test_log_probabilities_are_openais(http: httpx.AsyncClient) -> None:
    asked = {"logprobs": True, "top_logprobs": 2}
    ours = (await http.post("/api/chat", json=said("hi", **asked))).json()["logprobs"]
    body = {"model": "toy", "messages": said("hi")["messages"], "temperature": 0, **asked}
    theirs = (await http.post("/v1/chat/completions", json=body)).json()["choices"][0]
    assert ours == theirs["logprobs"]["content"]
    streamed = lines_of(await http.post("/api/chat", json=said("hi", stream=True, **asked)))
    assert [row for line in streamed for row in line.get("logprobs", ())] == ours


async def test_a_request_without_input_loads_and_never_pretends_to_unload(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for path, empty in (
        ("/api/chat", {"messages": []}),
        ("/api/generate", {}),
        ("/api/generate", {"prompt": ""}),
    ):
        answer = (await http.post(path, json={"model": "toy:latest", "keep_alive": "5m", **empty})).json()
        assert (answer["done"], answer["done_reason"]) == (True, "load")
        assert "stays loaded" in await refused(http, path, {"model": "toy", "keep_alive": 0, **empty})
    assert engine.seen == []


async def test_embeddings_are_those_of_the_openai_route(http: httpx.AsyncClient) -> None:
    theirs = (await http.post("/v1/embeddings", json={"model": "toy", "input": ["a", "bc"]})).json()["data"]
    vectors = [row["embedding"] for row in theirs]
    answer = (await http.post("/api/embed", json={"model": "toy:latest", "input": ["a", "bc"]})).json()
    assert answer["embeddings"] == vectors and answer["prompt_eval_count"] == 3
    assert answer["total_duration"] >= answer["load_duration"] > 0
    one = (await http.post("/api/embeddings", json={"model": "toy", "prompt": "bc"})).json()
    assert one == {"embedding": vectors[1]}
    short = (await http.post("/api/embed", json={"model": "toy", "input": "bc", "dimensions": 4})).json()
    assert len(short["embeddings"][0]) == 4
    for path, empty, nothing in (
        ("/api/embed", {"input": ""}, "embeddings"),
        ("/api/embed", {"input": []}, "embeddings"),
        ("/api/embeddings", {}, "embedding"),
    ):
        assert (await http.post(path, json={"model": "toy", **empty})).json()[nothing] == []


async def test_an_input_is_never_cut(http: httpx.AsyncClient) -> None:
    for truncate in (None, True, False):
        body = {"model": "toy", "input": ["a", "b" * 5000], "truncate": truncate}
        assert "4096 tokens, but input 1 has 5000" in await refused(http, "/api/embed", body)
        long = said("b" * 5000, truncate=truncate)
        assert "maximum context length is 4096" in await refused(http, "/api/chat", long)
    assert "prompt 0" in await refused(http, "/api/embeddings", {"model": "toy", "prompt": "b" * 5000})


async def test_models_are_listed_with_tags_and_answer_with_and_without(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.loaded["sql"] = AdapterInfo("sql", "", "0" * 32, 8)
    listed = (await http.get("/api/tags")).json()["models"]
    assert [one["name"] for one in listed] == ["toy:latest", "sql:latest"] == [one["model"] for one in listed]
    assert listed[0]["details"]["quantization_level"] == "INT8" and len(listed[0]["digest"]) == 64
    assert listed[1]["details"]["parent_model"] == "toy:latest" and listed[0]["digest"] != listed[1]["digest"]
    for name in ("toy", "toy:latest", "sql", "sql:latest"):
        answer = (await http.post("/api/chat", json=said("hi", model=name))).json()
        assert answer["message"]["content"] == "hi" and answer["model"] == name
    assert [request.adapter for request in engine.seen] == ["", "", "sql", "sql"]
    assert "'toy'" in await refused(http, "/api/chat", said("hi", model="toy:7b"), 404)
    (running,) = (await http.get("/api/ps")).json()["models"]
    assert (running["name"], running["size"], running["context_length"]) == ("toy:latest", 2, 4096)
    shown = (await http.post("/api/show", json={"model": "toy:latest"})).json()
    assert shown["model_info"]["toy.context_length"] == 4096 and "temperature 1" in shown["parameters"]
    version = (await http.get("/api/version")).json()["version"]
    assert all(part.isdigit() for part in version.split("."))


async def test_what_is_not_served_names_deepwells_way(http: httpx.AsyncClient) -> None:
    for operation, way in FAMILY.declaration.not_served.items():
        method, path = operation.split(" ")
        answer = await http.request(method, path.replace("{digest}", "sha256:00"), json={"model": "toy"})
        assert answer.status_code == 404
        assert method == "HEAD" or way in answer.json()["error"]


async def test_errors_have_ollamas_shape_wherever_they_come_from(
    codec: Codec, engine: FakeEngine, http: httpx.AsyncClient
) -> None:
    assert "not valid JSON" in (await http.post("/api/chat", content="{")).json()["error"]
    assert "use POST" in (await http.get("/api/chat")).json()["error"]
    large = await http.post("/api/chat", json=said("a" * 70_000))
    assert large.status_code == 413 and "larger than" in large.json()["error"]
    service = make_service(engine, codec, model="toy", api_keys=(SecretStr("key-of-one-user-0001"),))
    async with client_of(service) as keyed:
        for method, path in [("GET", "/api/tags"), ("POST", "/api/chat"), ("POST", "/api/pull")]:
            answer = await keyed.request(method, path, json=said("hi") if method == "POST" else None)
            assert answer.status_code == 401 and isinstance(answer.json()["error"], str)
        bearer = {"authorization": "Bearer key-of-one-user-0001"}
        assert (await keyed.post("/api/chat", json=said("hi"), headers=bearer)).status_code == 200
        assert (await keyed.head("/")).status_code == (await keyed.get("/")).status_code == 200
    chinese = await http.post(
        "/api/chat", json={"model": "toy", "optons": {}}, headers={"accept-language": "zh"}
    )
    assert "未知参数" in chinese.json()["error"]


async def test_a_failure_within_a_stream_is_its_last_line(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail_at = 0
    assert "the model broke" in await refused(http, "/api/chat", said("hi", stream=True), 503)
    engine.fail_at = 2
    *pieces, last = lines_of(await http.post("/api/chat", json=said("hello", stream=True)))
    assert len(pieces) == 2 and set(last) == {"error"} and "the model broke" in last["error"]


async def test_any_content_type_is_read_as_json(http: httpx.AsyncClient) -> None:
    data = json.dumps(said("hi"))
    for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
        headers = {"content-type": kind} if kind else {}
        answer = await http.post("/api/chat", content=data, headers=headers)
        assert answer.json()["message"]["content"] == "hi"
        wrong = await http.post("/api/chat", content='{"strem": 1}', headers=headers)
        assert "did you mean 'stream'" in wrong.json()["error"]
    foreign = {"origin": "https://elsewhere.example", "content-type": "text/plain"}
    assert (await http.post("/api/chat", content=data, headers=foreign)).status_code == 403


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_stops_costing_when_its_client_leaves(
    service: ServerContext, engine: FakeEngine, stream: bool
) -> None:
    caller = Caller(lambda messages: False)
    call = asyncio.create_task(caller.post(create_app(service), "/api/chat", said("a" * 1000, stream=stream)))
    while engine.steps < 5:
        await asyncio.sleep(0)
    caller.hang_up()
    await call
    assert engine.steps <= 6 and engine.aborted == 1


async def test_limits_count_as_everywhere(codec: Codec, engine: FakeEngine) -> None:
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(rates=RateLimits(3, 400)))
    async with client_of(service) as http:
        first = await http.post("/api/chat", json=said("hi", options={"num_predict": 8}))
        assert first.headers["x-ratelimit-remaining-requests"] == "2"
        left = int(first.headers["x-ratelimit-remaining-tokens"])
        embedded = await http.post("/api/embed", json={"model": "toy", "input": "a" * 100})
        assert int(embedded.headers["x-ratelimit-remaining-tokens"]) <= left - 100 + 10
        assert "tokens" in await refused(http, "/api/chat", said("b" * 300), 429)
        limited = await http.get("/api/tags")
        assert limited.status_code == 429 and isinstance(limited.json()["error"], str)
        assert int(limited.headers["retry-after"]) > 0
    assert len(engine.seen) == 1


async def test_a_request_has_a_deadline_as_everywhere(codec: Codec, engine: FakeEngine) -> None:
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(request_timeout_s=1e-9))
    async with client_of(service) as http:
        assert "took longer" in await refused(http, "/api/chat", said("a" * 400), 504)


async def test_an_equal_question_is_answered_from_the_cache(codec: Codec, engine: FakeEngine) -> None:
    async with client_of(make_service(engine, codec, model="toy", response_cache_bytes=1 << 20)) as http:
        answers = [await http.post("/api/chat", json=said("hi")) for _ in range(2)]
        other = {"model": "toy", "messages": said("hi")["messages"], "temperature": 0}
        answers.append(await http.post("/v1/chat/completions", json=other))
    assert [answer.headers["x-deepwell-cache"] for answer in answers] == ["miss", "hit", "hit"]
    assert answers[0].json()["message"] == answers[1].json()["message"] and len(engine.seen) == 1


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        (None, None), (0, 0), ("0", 0), ("0s", 0), ("-0", 0), (300, 300), ("300", 300), (1.5, 1.5), ("5m", 300),
        ("1h30m", 5400), ("1.5h", 5400), (".5s", 0.5), ("300ms", 0.3), ("2us", 2e-6), ("2µs", 2e-6), ("7ns", 7e-9),
        ("+5m", 300), (-1, math.inf), ("-1", math.inf), ("-5m", math.inf), (10**400, math.inf),
    ],
)  # fmt: skip
def test_keep_alive_is_read_as_ollama_reads_it(given_: object, seconds: float | None) -> None:
    assert keep_alive_s(given_) == (seconds if seconds is None else pytest.approx(seconds))


@given(
    st.lists(st.tuples(st.integers(0, 999), st.sampled_from(["h", "m", "s", "ms"])), min_size=1, max_size=6)
)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert keep_alive_s(text) == pytest.approx(sum(number * units[unit] for number, unit in parts))


@given(st.one_of(st.text(max_size=80), st.floats(), st.booleans(), st.lists(st.integers(), max_size=2)))
def test_anything_is_a_duration_or_a_plain_refusal(value: object) -> None:
    try:
        seconds = keep_alive_s(value)
    except ValueError:
        seconds = 0.0
    assert seconds is not None and seconds >= 0
