"""Requests that Open WebUI's backend sends to an OpenAI connection, and what it reads of the answers.

    python clients_webui.py URL KEY MODEL EMBEDDER

The shapes are those of Open WebUI 0.12 (`backend/open_webui/routers/openai.py`, `utils/middleware.py`, `retrieval/utils.py`,
`routers/audio.py`, `routers/images.py`). Prints one line of JSON for each check.
"""

# pyright: basic

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import httpx

URL, KEY, MODEL, EMBEDDER = sys.argv[1:5]
BASE = f"{URL}/v1"
QUESTION = [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
# ENABLE_FORWARD_USER_INFO_HEADERS adds these.
USER = {
    "X-OpenWebUI-User-Name": "%E5%BC%A0%E4%B8%89",
    "X-OpenWebUI-User-Id": "5f0c2a6e-0000-4000-8000-000000000001",
    "X-OpenWebUI-User-Email": "user@example.com",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "5f0c2a6e-0000-4000-8000-000000000002",
}
CHECKS: list[Callable[[], None]] = []


def check(run: Callable[[], None]) -> Callable[[], None]:
    CHECKS.append(run)
    return run


def send(method: str, path: str, body: Any = None, *, key: str = KEY, **more: Any) -> httpx.Response:
    """Sends JSON as bytes with the connection's key and the user's headers, as aiohttp does there."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}", **USER}
    data = None if body is None else json.dumps(body).encode()
    return httpx.request(method, BASE + path, content=data, headers=headers, timeout=120, **more)


def answered(path: str, body: Any) -> Any:
    answer = send("POST", path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 40, **more}


def streamed(body: dict[str, Any]) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """Returns text, tool calls and usage of a stream, read as the middleware reads it."""
    answer = send("POST", "/chat/completions", body | {"stream": True})
    assert answer.status_code == 200 and "text/event-stream" in answer.headers["Content-Type"], answer.text
    text, calls, usage, ended = "", [], {}, False
    for line in answer.text.split("\n"):
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            ended = True
            continue
        event = json.loads(data)
        usage = event.get("usage") or usage
        for choice in event.get("choices", []):
            delta = choice.get("delta", {})
            text += delta.get("content") or ""
            for part in delta.get("tool_calls") or []:
                known = next((one for one in calls if one["index"] == part["index"]), None)
                if known is None:
                    part.setdefault("function", {}).setdefault("arguments", "")
                    calls.append(part)
                else:
                    known["function"]["arguments"] += part.get("function", {}).get("arguments", "")
    assert ended
    return text, calls, usage


@check
def connection_is_verified() -> None:
    answer = send("GET", "/models")
    assert answer.status_code == 200 and isinstance(answer.json()["data"], list)
    refused = send("GET", "/models", key="wrong")
    assert refused.status_code == 401 and isinstance(refused.json()["error"], dict | str)


@check
def models_are_listed() -> None:
    models = send("GET", "/models").json()["data"]
    assert {MODEL, EMBEDDER} <= {model["id"] for model in models}
    assert all(isinstance(model.get("name", model["id"]), str) for model in models)


@check
def chat_answers() -> None:
    body = answered("/chat/completions", chat(stream=False))
    assert body["choices"][0]["message"]["content"] and body["usage"]["total_tokens"] > 0


@check
def chat_streams_with_usage() -> None:
    text, _, usage = streamed(chat(stream_options={"include_usage": True}))
    assert text and usage["completion_tokens"] > 0
    assert text == answered("/chat/completions", chat())["choices"][0]["message"]["content"]


@check
def chat_takes_every_control() -> None:
    controls = {
        "temperature": 0.7, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.1, "seed": 42, "stop": ["###"],
        "max_tokens": 20, "logit_bias": {"5432": -100}, "response_format": {"type": "text"}, "top_k": 40, "min_p": 0.05,
        "repetition_penalty": 1.1,
    }  # fmt: skip
    text, _, _ = streamed(chat(**controls))
    assert text
    assert answered("/chat/completions", chat(max_tokens=None, max_completion_tokens=20))["choices"]


@check
def chat_with_parts_and_a_system_prompt() -> None:
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": [{"type": "text", "text": "Say hello."}]},
    ]
    assert streamed(chat(messages=messages))[0]


@check
def documents_ground_a_chat() -> None:
    context = '<source id="1" name="sky.md">Rayleigh scattering makes the sky blue.</source>'
    asked = f"### Task:\nUse the context, cite as [1].\n\n<context>\n{context}\n</context>\n\nWhy is the sky blue?"
    assert streamed(chat(messages=[{"role": "user", "content": asked}]))[0]


@check
def native_tools() -> None:
    shown = [{"role": "user", "content": f"Repeat: {CALL}"}]
    _, calls, _ = streamed(chat(messages=shown, tools=[TOOL], max_tokens=60))
    (call,) = calls
    assert call["id"] and "Paris" in json.loads(call["function"]["arguments"])["city"]
    turns = [
        *shown,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny, 24 degrees"},
    ]
    assert streamed(chat(messages=turns, tools=[TOOL]))[0]


@check
def background_tasks() -> None:
    history = "<chat_history>\nUSER: Why is the sky blue?\nASSISTANT: Rayleigh scattering.\n</chat_history>"
    for task in ("Generate a concise title", "Generate 1-3 tags", "Suggest 3-5 follow-up questions"):
        messages = [{"role": "user", "content": f"### Task:\n{task} as JSON.\n### Chat History:\n{history}"}]
        body = {"model": MODEL, "messages": messages, "stream": False, "max_completion_tokens": 30}
        assert answered("/chat/completions", body)["choices"][0]["message"]["content"] is not None


@check
def documents_are_embedded() -> None:
    body = {"input": ["The cat sits on the mat.", "Stocks fell on Monday."], "model": EMBEDDER}
    data = answered("/embeddings", body)["data"]
    assert [len(one["embedding"]) for one in data] == [384, 384] and [one["index"] for one in data] == [0, 1]


@check
def passages_are_reranked() -> None:
    documents = ["Stocks fell on Monday.", "A cat is on a rug."]
    body = {"model": EMBEDDER, "query": "Where is the cat?", "documents": documents, "top_n": len(documents)}
    results = answered("/rerank", body)["results"]
    best = max(results, key=lambda one: one["relevance_score"])
    assert len(results) == 2 and best["index"] == 1


@check
def responses_api() -> None:
    item = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "Why is the sky blue?"}],
    }
    body = {
        "model": MODEL,
        "input": [item],
        "instructions": "Be brief.",
        "max_output_tokens": 30,
        "temperature": 0,
    }
    answer = send("POST", "/responses", body | {"stream": True})
    events = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]
    kinds = [event["type"] for event in events]
    assert "response.output_text.delta" in kinds and kinds[-1] in (
        "response.completed",
        "response.incomplete",
    )


@check
def errors_are_shown() -> None:
    missing = send("POST", "/chat/completions", chat(model="gpt-4o", stream=True))
    assert missing.status_code == 404 and MODEL in missing.json()["error"]["message"]
    long = send("POST", "/chat/completions", chat(messages=[{"role": "user", "content": "word " * 20_000}]))
    assert long.status_code == 400 and long.json()["error"]["code"] == "context_length_exceeded"


@check
def what_is_not_built_says_so() -> None:
    speech = {"model": "tts-1", "input": "hello", "voice": "alloy"}
    for path, body in (("/audio/speech", speech), ("/images/generations", {"prompt": "a cat", "n": 1})):
        answer = send("POST", path, body)
        assert answer.status_code in (200, 404, 501), answer.status_code
        assert answer.status_code == 200 or answer.json()["error"]["message"]
    sound = httpx.post(
        f"{BASE}/audio/transcriptions",
        headers={"Authorization": f"Bearer {KEY}", **USER},
        files={"file": ("sound.wav", b"RIFF", "audio/wav")},
        data={"model": "whisper-1"},
        timeout=60,
    )
    assert sound.status_code in (404, 501) and sound.json()["error"]["message"]


def main() -> None:
    """Runs every check; none stops the others."""
    for run_check in CHECKS:
        try:
            run_check()
            problem = ""
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {error} ({place.name}:{place.lineno})"[:600]
        line = {
            "client": "open-webui",
            "check": run_check.__name__,
            "passed": not problem,
            "problem": problem,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
