"""Ollama's own Python client, and the requests that Open WebUI sends to ollama, against the application."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import ollama
import pytest
from pydantic import BaseModel
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
GREEDY: dict[str, Any] = {"temperature": 0}


class Country(BaseModel):
    """A country, as the format of an answer."""

    name: str
    capital: str


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=8192)


@pytest.fixture(scope="module")
def client(codec: Codec) -> Iterator[ollama.Client]:
    engine = FakeEngine(max_model_len=8192)
    running = start(make_service(engine, codec, model="toy"), engine)
    yield ollama.Client(host=running.url)
    running.stop()


@pytest.fixture
async def http(engine: FakeEngine, codec: Codec) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(make_service(engine, codec, model="toy")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as opened:
        yield opened


def test_chat_whole_and_streamed(client: ollama.Client) -> None:
    text = "x\u2028好"
    whole = client.chat("toy", user(text), options=GREEDY)
    assert whole.message.content == text and whole.done and whole.done_reason == "stop"
    assert whole.eval_count and whole.eval_duration and whole.total_duration and whole.prompt_eval_count
    *parts, last = client.chat("toy", user(text), stream=True, options=ollama.Options(temperature=0))
    assert "".join(part.message.content or "" for part in parts) == text
    assert last.done and last.eval_count == whole.eval_count


def test_generate_whole_streamed_and_raw(client: ollama.Client) -> None:
    assert client.generate("toy", "abc", system="Be brief.", options=GREEDY).response == "abc"
    assert client.generate("toy", "abc", raw=True, options=GREEDY).prompt_eval_count == 3
    parts = list(client.generate("toy", "abc", stream=True, options=GREEDY, keep_alive="5m"))
    assert "".join(part.response or "" for part in parts) == "abc"


def test_tools_are_called_and_answered(client: ollama.Client) -> None:
    messages: list[Any] = user(f"please {CALL}")
    asked = client.chat("toy", messages, tools=[add], options=GREEDY)
    (call,) = list(asked.message.tool_calls or [])
    assert (call.function.name, call.function.arguments) == ("add", {"a": 1, "b": 2})
    messages += [asked.message, {"role": "tool", "tool_name": "add", "content": str(add(1, 2))}, *user("so?")]
    assert client.chat("toy", messages, tools=[add], options=GREEDY).message.content == "so?"
    streamed = client.chat("toy", user(CALL), tools=[add], options=GREEDY, stream=True)
    assert [c.function.name for part in streamed for c in part.message.tool_calls or ()] == ["add"]


def test_formats_and_log_probabilities(client: ollama.Client) -> None:
    text = '{"name": "France", "capital": "Paris"}'
    answer = client.chat("toy", user(text), format=Country.model_json_schema(), options=GREEDY)
    assert Country.model_validate_json(answer.message.content or "").capital == "Paris"
    assert json.loads(client.generate("toy", text, format="json", options=GREEDY).response or "")
    rows = list(client.chat("toy", user("hi"), logprobs=True, top_logprobs=1, options=GREEDY).logprobs or [])
    assert [row.token for row in rows[:2]] == ["h", "i"] and len(rows[0].top_logprobs or ()) == 1


def test_embeddings(client: ollama.Client) -> None:
    both = client.embed("toy", ["a", "bc"], dimensions=4)
    assert [len(vector) for vector in both.embeddings] == [4, 4] and both.prompt_eval_count == 3
    assert client.embeddings("toy", "bc").embedding == client.embed("toy", "bc").embeddings[0]


def test_models_are_listed_shown_and_running(client: ollama.Client) -> None:
    (listed,) = client.list().models
    assert listed.model == "toy:latest" and listed.modified_at and listed.details
    assert (client.show("toy").modelinfo or {})["general.architecture"] == "toy"
    (running,) = client.ps().models
    assert (running.name, running.context_length) == ("toy:latest", 8192) and running.expires_at


def test_errors_say_what_to_do(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="use 'toy'") as missing:
        client.chat("llama3", user("hi"))
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="deepwell pull"):
        client.pull("llama3")
    with pytest.raises(ollama.ResponseError, match="--context 100000"):
        list(client.chat("toy", user("hi"), stream=True, options={"num_ctx": 100_000}))
    with pytest.raises(ollama.ResponseError, match="image"):
        client.generate("toy", "what is this?", images=[b"GIF89a"])
    with pytest.raises(ollama.ResponseError, match="suffix"):
        client.generate("toy", "def f(", suffix="return")


async def test_the_asynchronous_client(engine: FakeEngine, codec: Codec) -> None:
    transport = httpx.ASGITransport(create_app(make_service(engine, codec, model="toy")))
    client = ollama.AsyncClient(host="http://test", transport=transport)
    stream = await client.chat("toy", user("hello"), stream=True, options=GREEDY)
    assert "".join([part.message.content or "" async for part in stream]) == "hello"
    assert len((await client.embed("toy", "a")).embeddings) == 1


async def test_the_requests_of_open_webui(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """The requests that `routers/ollama.py` and `utils/payload.py` of Open WebUI make of its settings."""
    version = (await http.get("/api/version")).json()["version"]
    assert [int(part) for part in version.split(".")] >= [0, 5, 0]
    (model,) = (await http.get("/api/tags")).json()["models"]
    name = model["model"]
    assert name.endswith(":latest"), "a name is looked up with the tag that Open WebUI adds"
    running = (await http.get("/api/ps")).json()["models"]
    assert running[0]["name"] == name and running[0]["expires_at"]
    shown = await http.post("/api/show", json={"name": name, "model": name})
    assert shown.json()["capabilities"] == ["completion", "tools"]
    asked = {
        "model": name,
        "messages": [{"role": "system", "content": "Be brief."}, *user("Hello")],
        "stream": True,
        "options": {
            "temperature": 0.0, "top_p": 0.9, "top_k": 40, "min_p": 0.0, "seed": 1, "num_ctx": 2048, "num_batch": 512,
            "num_keep": 24, "num_predict": 64, "repeat_penalty": 1.1, "num_gpu": 0, "num_thread": 2, "use_mmap": True,
            "use_mlock": False, "stop": ["###"], "presence_penalty": 0.0, "frequency_penalty": 0.0,
        },
        "keep_alive": "5m",
    }  # fmt: skip
    answer = await http.post("/api/chat", json=asked)
    *parts, last = map(json.loads, answer.text.splitlines())
    assert "".join(part["message"]["content"] for part in parts) == "Hello"
    assert last["done"] and all(last[f"{part}_duration"] for part in ("total", "eval", "prompt_eval"))
    tool = {
        "type": "function",
        "function": {"name": "add", "description": "", "parameters": {"type": "object"}},
    }
    called = {"index": 0, "id": "call_1", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = [
        *user("1 + 2?"),
        {"role": "assistant", "tool_calls": [called], "content": ""},
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        *user("so?"),
    ]
    with_tools = asked | {"messages": turns, "tools": [tool], "stream": False, "system": "Be brief."}
    assert (await http.post("/api/chat", json=with_tools)).json()["message"]["content"] == "so?"
    assert "Be brief." in "".join(map(chr, engine.seen[-1].prompt))
    title = {"model": name, "prompt": "A title", "stream": False, "options": {"num_predict": 20}}
    assert (await http.post("/api/generate", json=title)).json()["response"] == "A title"
    embedded = await http.post("/api/embed", json={"model": name, "input": ["a", "b"], "truncate": True})
    assert len(embedded.json()["embeddings"]) == 2
    unload = await http.post("/api/generate", json={"model": name, "keep_alive": 0, "prompt": ""})
    assert unload.status_code == 400 and "stays loaded" in unload.json()["error"]
