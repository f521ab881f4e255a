"""Requests that one process passes on to another over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from tests.server.test_streams import Caller

from deepwell.server.workers.forward import Forward, Forwarded

app = FastAPI()
left = asyncio.Event()


@app.api_route("/v1/responses/{rest:path}", methods=["GET", "POST", "DELETE"])
async def echo(request: Request, rest: str) -> dict[str, Any]:
    body = await request.body()
    return {
        "method": request.method,
        "path": request.url.path,
        "query": request.url.query,
        "key": request.headers.get("authorization", ""),
        "body": body.decode(),
        "server": list(request.scope["server"] or ()),
        "client": list(request.scope["client"] or ()),
    }


@app.get("/v1/responses-endless")
async def endless() -> StreamingResponse:
    async def events() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: {}\n\n"
                await asyncio.sleep(0)
        finally:
            left.set()

    return StreamingResponse(events())


@pytest.fixture
async def forward(tmp_path: Path) -> AsyncIterator[Forward]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    server = uvicorn.Server(uvicorn.Config(Forwarded(app), lifespan="off", log_level="warning"))
    server.capture_signals = contextlib.nullcontext
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0)
    yield Forward(FastAPI(), prefixes=("/v1/responses",), address=str(tmp_path / "socket"))
    server.should_exit = True
    await running


@pytest.fixture
async def http(forward: Forward) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(forward), base_url="http://here") as client:
        yield client


async def test_a_request_arrives_as_it_was_sent(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/responses/a%2Fb?x=1&y=%20", content="好", headers={"authorization": "Bearer key"}
    )
    assert answer.json() == {
        "method": "POST",
        "path": "/v1/responses/a/b",
        "query": "x=1&y=%20",
        "key": "Bearer key",
        "body": "好",
        "server": ["here", None],
        "client": ["127.0.0.1", 123],
    }
    assert (await http.delete("/v1/responses/a")).json()["method"] == "DELETE"


async def test_what_a_client_says_of_addresses_is_not_passed_on(http: httpx.AsyncClient) -> None:
    told = '[["evil.example",80],["10.0.0.1",1]]'
    answer = await http.get("/v1/responses/a", headers={"x-deepwell-addresses": told})
    assert (answer.json()["server"], answer.json()["client"]) == (["here", None], ["127.0.0.1", 123])


async def test_a_connection_with_addresses_of_its_own_keeps_them() -> None:
    async def with_port(scope: Scope, receive: Receive, send: Send) -> None:
        await Forwarded(app)(dict(scope) | {"server": ("here", 80)}, receive, send)

    transport = httpx.ASGITransport(with_port)
    told = '[["evil.example",80],["10.0.0.1",1]]'
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/v1/responses/a", headers={"x-deepwell-addresses": told})
    assert (answer.json()["server"], answer.json()["client"]) == (["here", 80], ["127.0.0.1", 123])


async def test_other_paths_stay_here(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models")).json() == {"detail": "Not Found"}


async def test_a_hang_up_is_passed_on(forward: Forward) -> None:
    left.clear()
    caller = Caller(lambda messages: len(messages) > 2)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/responses-endless",
        "raw_path": b"/v1/responses-endless",
        "query_string": b"",
        "headers": [],
    }
    caller.body = b""
    await asyncio.wait_for(forward(scope, caller.receive, caller.send), 60)
    await asyncio.wait_for(left.wait(), 60)


async def test_a_process_that_is_away_is_a_503(tmp_path: Path) -> None:
    forward = Forward(FastAPI(), prefixes=("/v1/responses",), address=str(tmp_path / "nobody"), wait_s=0)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(forward), base_url="http://here") as client:
        answer = await client.get("/v1/responses/a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
