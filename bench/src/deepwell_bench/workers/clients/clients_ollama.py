"""Ollama's own Python client, and the requests that Open WebUI sends to ollama, against a running server with keys.

The interpreter that has the client runs it:

    python clients_ollama.py URL KEY MODEL OTHER_MODEL EMBEDDER

Prints one line of JSON for each check: its client, its name, whether it passed, and what was wrong.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Literal

import httpx
import ollama
from pydantic import BaseModel, Field

URL, KEY, MODEL, OTHER_MODEL, EMBEDDER = sys.argv[1:6]
QUESTION = [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
# Ollama's API has no `tool_choice`, and the smallest models call nothing by themselves: this one does as it is shown.
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
SHOWN = [{"role": "user", "content": f"Repeat: {CALL}"}]
GREEDY = {"temperature": 0, "num_predict": 60}
CHECKS: list[tuple[str, Callable[[], None]]] = []


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=30)
    celsius: int = Field(ge=-50, le=60)
    sky: Literal["clear", "cloudy", "rain"]


def get_weather(city: str) -> str:
    """Current weather in a city.

    Args:
        city: name of the city
    """
    return f"sunny in {city}, 24 degrees"


def check(client: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(run: Callable[[], None]) -> Callable[[], None]:
        CHECKS.append((client, run))
        return run

    return add


def client() -> Any:
    """Returns a client as users make it: both the address and the key come from the environment."""
    os.environ["OLLAMA_HOST"], os.environ["OLLAMA_API_KEY"] = URL, KEY
    return ollama.Client()


def text_of(parts: Any) -> str:
    return "".join(part.message.content or "" for part in parts)


@check("ollama")
def chat() -> None:
    answer = client().chat(MODEL, QUESTION, options=GREEDY)
    assert answer.message.content and answer.done and answer.done_reason in ("stop", "length")
    assert 0 < answer.eval_count <= 60 and answer.prompt_eval_count > 0
    assert answer.total_duration >= answer.eval_duration + answer.prompt_eval_duration > 0


@check("ollama")
def chat_streamed_equals_chat() -> None:
    whole = client().chat(MODEL, QUESTION, options=GREEDY)
    *parts, last = client().chat(MODEL, QUESTION, options=GREEDY, stream=True)
    assert len(parts) > 3 and text_of(parts) == whole.message.content
    assert last.done and last.eval_count == whole.eval_count


@check("ollama")
def chat_as_the_openai_route_answers() -> None:
    body = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 60}
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{URL}/v1/chat/completions", json=body, headers=headers, timeout=120).json()
    ours = client().chat(MODEL, QUESTION, options=GREEDY)
    assert answer["choices"][0]["message"]["content"] == ours.message.content


@check("ollama")
def chat_asynchronous() -> None:
    async def run() -> str:
        client()
        parts = await ollama.AsyncClient().chat(MODEL, QUESTION, options=GREEDY, stream=True)
        return "".join([part.message.content or "" async for part in parts])

    assert asyncio.run(run())


@check("ollama")
def chat_with_history_and_a_tag() -> None:
    first = client().chat(f"{MODEL}:latest", QUESTION, options=GREEDY)
    messages = [*QUESTION, first.message, {"role": "user", "content": "Say it in five words."}]
    second = client().chat(MODEL, messages, options=GREEDY)
    assert second.message.content and second.prompt_eval_count > first.prompt_eval_count


@check("ollama")
def generate() -> None:
    answer = client().generate(MODEL, "Name three colours.", system="Be brief.", options=GREEDY)
    assert answer.response and answer.done


@check("ollama")
def generate_streamed_and_raw() -> None:
    raw = client().generate(MODEL, "The capital of France is", raw=True, options=GREEDY | {"stop": ["."]})
    assert "Paris" in raw.response
    parts = client().generate(MODEL, "The capital of France is", raw=True, stream=True, options=GREEDY)
    assert "Paris" in "".join(part.response for part in parts)


@check("ollama")
def seeds_repeat() -> None:
    options = {
        "temperature": 0.9,
        "seed": 7,
        "num_predict": 24,
        "top_p": 0.9,
        "top_k": 40,
        "repeat_penalty": 1.1,
    }
    answers = {client().chat(MODEL, QUESTION, options=options).message.content for _ in range(2)}
    assert len(answers) == 1


@check("ollama")
def format_by_schema() -> None:
    schema = Weather.model_json_schema()
    answer = client().chat(MODEL, WEATHER, format=schema, options=GREEDY | {"num_predict": 200})
    assert Weather.model_validate_json(answer.message.content)


@check("ollama")
def format_json() -> None:
    asked = "Give the name and the age of a cat as JSON."
    answer = client().generate(OTHER_MODEL, asked, format="json", options=GREEDY | {"num_predict": 300})
    assert isinstance(json.loads(answer.response), dict)


@check("ollama")
def log_probabilities() -> None:
    answer = client().chat(
        MODEL, QUESTION, options=GREEDY | {"num_predict": 4}, logprobs=True, top_logprobs=2
    )
    assert len(answer.logprobs) == 4 and all(len(row.top_logprobs) == 2 for row in answer.logprobs)


def _calls(stream: bool) -> list[Any]:
    said = client().chat(MODEL, SHOWN, tools=[get_weather], options=GREEDY, stream=stream)
    return [call for part in (said if stream else [said]) for call in part.message.tool_calls or ()]


@check("ollama")
def tools() -> None:
    (call,) = _calls(False)
    assert call.function.name == "get_weather" and "Paris" in call.function.arguments["city"]


@check("ollama")
def tools_streamed() -> None:
    (call,) = _calls(True)
    assert call.function.name == "get_weather" and "Paris" in call.function.arguments["city"]


@check("ollama")
def tools_answered() -> None:
    asked = client().chat(MODEL, SHOWN, tools=[get_weather], options=GREEDY)
    results = [
        {"role": "tool", "tool_name": c.function.name, "content": get_weather(**c.function.arguments)}
        for c in asked.message.tool_calls
    ]
    messages = [*SHOWN, asked.message, *results]
    answer = client().chat(MODEL, messages, tools=[get_weather], options=GREEDY)
    assert len(results) == 1 and answer.message.content and not answer.message.tool_calls


@check("ollama")
def embeddings() -> None:
    texts = ["The cat sits on the mat.", "A cat is on a rug.", "Stocks fell on Monday."]
    one, other, far = client().embed(EMBEDDER, texts).embeddings
    alike, unlike = (sum(a * b for a, b in zip(one, two, strict=True)) for two in (other, far))
    assert len(one) == 384 and alike > unlike + 0.2
    assert client().embeddings(EMBEDDER, texts[0]).embedding == one
    assert len(client().embed(EMBEDDER, texts[0], dimensions=128).embeddings[0]) == 128


@check("ollama")
def models() -> None:
    names = {f"{name}:latest" for name in (MODEL, OTHER_MODEL, EMBEDDER)}
    assert {model.model for model in client().list().models} == names
    running = client().ps().models
    assert {model.name for model in running} == names and all(model.size > 0 for model in running)
    assert "tools" in client().show(OTHER_MODEL).capabilities
    assert client().show(EMBEDDER).capabilities == ["embedding"]


def _refusal(run: Callable[[], Any]) -> ollama.ResponseError:
    try:
        run()
    except ollama.ResponseError as error:
        return error
    raise AssertionError("it was accepted")


@check("ollama")
def errors() -> None:
    missing = _refusal(lambda: client().chat("llama3.2", QUESTION))
    assert missing.status_code == 404 and MODEL in missing.error
    assert "deepwell pull" in _refusal(lambda: client().pull("llama3.2")).error
    long = _refusal(lambda: client().embed(EMBEDDER, "word " * 2000))
    assert long.status_code == 400 and "maximum context length" in long.error
    assert "mirostat" in _refusal(lambda: client().chat(MODEL, QUESTION, options={"mirostat": 2})).error
    large = {"num_ctx": 1_000_000}
    assert "--context" in _refusal(lambda: client().chat(MODEL, QUESTION, options=large)).error
    os.environ.pop("OLLAMA_API_KEY", None)
    unknown = _refusal(lambda: ollama.Client(host=URL).chat(MODEL, QUESTION))
    assert unknown.status_code == 401 and isinstance(unknown.error, str)


@check("ollama")
def loading() -> None:
    assert client().chat(MODEL, []).done_reason == "load"
    assert client().generate(MODEL, keep_alive="10m").done_reason == "load"


def webui(path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """Sends what Open WebUI sends: JSON as bytes, the key of the connection."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    method, data = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
    answer = httpx.request(method, URL + path, content=data, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer


def asked(model: str, messages: list[Any], **more: Any) -> dict[str, Any]:
    options = {
        "temperature": 0.0, "top_p": 0.9, "top_k": 40, "min_p": 0.0, "seed": 1, "num_ctx": 2048, "num_batch": 512,
        "num_keep": 24, "num_predict": 60, "repeat_penalty": 1.1, "num_gpu": 0, "num_thread": 2, "use_mmap": True,
        "use_mlock": False, "stop": ["###"],
    }  # fmt: skip
    return {"model": f"{model}:latest", "messages": messages, "options": options, "keep_alive": "5m", **more}


@check("open-webui")
def connection_is_verified() -> None:
    version = webui("/api/version").json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 5)


@check("open-webui")
def models_are_listed() -> None:
    names = [model["model"] for model in webui("/api/tags").json()["models"]]
    assert f"{MODEL}:latest" in names
    assert {model["name"] for model in webui("/api/ps").json()["models"]} == set(names)
    assert webui("/api/show", {"name": names[0], "model": names[0]}).json()["details"]


@check("open-webui")
def chat_streams() -> None:
    lines = webui("/api/chat", asked(MODEL, QUESTION, stream=True)).text.splitlines()
    *parts, last = map(json.loads, lines)
    assert "".join(part["message"]["content"] for part in parts)
    assert last["done"] and all(last[f"{part}_duration"] > 0 for part in ("total", "prompt_eval", "eval"))


@check("open-webui")
def chat_with_its_tools() -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    body = asked(MODEL, SHOWN, tools=[tool], stream=False)
    del body["options"]["repeat_penalty"]  # it keeps the model from repeating what it is shown
    (call,) = webui("/api/chat", body).json()["message"]["tool_calls"]
    assert "Paris" in call["function"]["arguments"]["city"]
    turns = [
        *SHOWN,
        {"role": "assistant", "tool_calls": [{"index": 0, **call}], "content": ""},
        {"role": "tool", "content": get_weather("Paris"), "tool_call_id": call["id"]},
    ]
    answer = webui("/api/chat", asked(MODEL, turns, tools=[tool], stream=False)).json()
    assert answer["message"]["content"]


@check("open-webui")
def titles_and_tags() -> None:
    body = {"model": f"{MODEL}:latest", "prompt": "A title for a chat about the sky:", "stream": False}
    assert webui("/api/generate", body | {"options": {"num_predict": 20}}).json()["response"]


@check("open-webui")
def documents_are_embedded() -> None:
    body = {"model": EMBEDDER, "input": ["one", "two"], "truncate": True}
    assert len(webui("/api/embed", body).json()["embeddings"]) == 2
    assert len(webui("/api/embeddings", {"model": EMBEDDER, "prompt": "one"}).json()["embedding"]) == 384


def main() -> None:
    """Runs every check; none stops the others."""
    for name, run_check in CHECKS:
        try:
            run_check()
            problem = ""
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {error} ({place.name}:{place.lineno})"[:600]
        line = {"client": name, "check": run_check.__name__, "passed": not problem, "problem": problem}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
