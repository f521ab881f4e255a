"""SSE framing, clients that hang up, and failures in the middle of a stream."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.server.conftest import Live
from tests.server.fakes import FakeEngine

from deepwell.server.app import create_app
from deepwell.server.context import ServerContext

ENDLESS: dict[str, Any] = {
    "model": "toy",
    "messages": [{"role": "user", "content": "abc"}],
    "ignore_eos": True,
    "max_tokens": 400,
}


def data_of(text: str) -> list[Any]:
    """The events' payloads; every event must be one data line and a blank one."""
    *events, rest = text.split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event[6:] if event[6:] == "[DONE]" else json.loads(event[6:]) for event in events]


async def test_events_are_framed_and_closed(http: httpx.AsyncClient) -> None:
    body = {"model": "toy", "messages": [{"role": "user", "content": "a\n\nb 好\u2028"}], "stream": True}
    response = await http.post("/v1/chat/completions", json=body | {"temperature": 0})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "content-length" not in response.headers
    *chunks, done = data_of(response.text)
    assert done == "[DONE]"
    assert all(chunk["object"] == "chat.completion.chunk" and "usage" not in chunk for chunk in chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "a\n\nb 好\u2028"


async def test_a_failure_before_the_first_event_is_an_ordinary_error(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail_at = 0
    response = await http.post("/v1/chat/completions", json=ENDLESS | {"stream": True})
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/json"


async def test_a_later_failure_is_an_error_event_and_no_done(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail_at = 2
    response = await http.post("/v1/chat/completions", json=ENDLESS | {"stream": True})
    assert response.status_code == 200
    events = data_of(response.text)
    assert events[-1]["error"]["code"] == "generation_failed"
    assert "[DONE]" not in events


class Caller:
    """An ASGI client that hangs up when `leave` says so of the messages it got."""

    def __init__(self, leave: Callable[[list[Any]], bool]) -> None:
        self.messages: list[Any] = []
        self._leave = leave
        self._left = asyncio.Event()
        self._asked = False

    async def receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.messages.append(message)
        if self._leave(self.messages):
            self._left.set()

    def hang_up(self) -> None:
        self._left.set()

    async def post(self, app: Any, path: str, body: dict[str, Any]) -> None:
        self.body = json.dumps(body).encode()
        headers = [(b"host", b"test"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "headers": headers, "scheme": "http",
            "server": ("test", 80), "client": ("test", 1), "root_path": "",
        }  # fmt: skip
        await app(scope, self.receive, self.send)


@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_stops_costing_within_one_step_of_the_hang_up(
    service: ServerContext, engine: FakeEngine, n: int
) -> None:
    steps_at_leaving: list[int] = []

    def leave(messages: list[Any]) -> bool:
        if len(messages) < 12:
            return False
        steps_at_leaving.append(engine.steps)
        return True

    caller = Caller(leave)
    await caller.post(create_app(service), "/v1/chat/completions", ENDLESS | {"stream": True, "n": n})
    assert engine.steps <= steps_at_leaving[0] + n  # the step under way
    assert engine.aborted == n
    assert steps_at_leaving[0] < 400


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_whole_answer_stops_costing_when_its_client_leaves(
    service: ServerContext, engine: FakeEngine, path: str
) -> None:
    caller = Caller(lambda messages: False)
    body = (
        ENDLESS
        if "chat" in path
        else {"model": "toy", "prompt": "abc", "ignore_eos": True, "max_tokens": 400}
    )
    call = asyncio.create_task(caller.post(create_app(service), path, body))
    while engine.steps < 5:
        await asyncio.sleep(0)
    caller.hang_up()
    await call
    assert engine.steps <= 6
    assert engine.aborted == 1
    assert caller.messages == []


async def test_a_stop_string_aborts_the_request_in_the_engine(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    response = await http.post("/v1/chat/completions", json=ENDLESS | {"stop": "ca", "temperature": 0})
    assert response.json()["choices"][0]["message"]["content"] == "ab"
    assert (engine.steps, engine.aborted) == (4, 1)


def test_closing_the_socket_ends_the_request(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    live.engine.endless = True
    body = json.dumps(ENDLESS | {"stream": True}).encode()
    with socket.create_connection((host, int(port)), timeout=30) as client:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.recv(64).startswith(b"HTTP/1.1 200")
    assert live.engine.ended.wait(timeout=30)
    assert live.engine.aborted == 1


def test_stopping_the_server_ends_streams_with_an_error_event(live: Live) -> None:
    live.engine.endless = True
    with httpx.stream(
        "POST", f"{live.url}/v1/chat/completions", json=ENDLESS | {"stream": True}, timeout=30
    ) as response:
        lines = (line for line in response.iter_lines() if line)
        next(lines)
        live.stop()
        last = json.loads(list(lines)[-1].removeprefix("data: "))
    assert last["error"]["code"] == "shutting_down"
    assert live.engine.aborted == 1


async def test_a_draining_server_is_not_ready_but_healthy(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    assert (await http.get("/readyz")).json() == {"status": "ready", "model": "toy", "engine_restarts": 0}
    service.draining = True
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/healthz")).status_code == 200
