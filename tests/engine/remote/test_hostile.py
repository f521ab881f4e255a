"""Servers that answer late, wrongly, endlessly or not at all: bounded, typed, and sent again only where no token had left."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.conformance import collect, request
from tests.waiting import until_async

from deepwell.engine.hosting.remote.adapters import RemoteAdapters, models_of
from deepwell.engine.hosting.remote.address import RemoteAddress, RemoteOptions
from deepwell.engine.hosting.remote.completions import TokenShape
from deepwell.engine.hosting.remote.engine import RemoteEngine
from deepwell.engine.hosting.remote.events import EventReader
from deepwell.engine.hosting.remote.faults import Retry, refused, said_by
from deepwell.engine.hosting.remote.probe import served_models
from deepwell.engine.protocol import Capabilities
from deepwell.errors import DeepwellError, EngineRestarted, EngineUnavailable, InvalidRequest

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


def event(tokens: list[int], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"token_ids": tokens, "finish_reason": finish, **more}]}


def says(*events: Any, done: bool = True) -> Script:
    """A server that answers these events: objects as JSON, bytes as they are."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for one in events:
            writer.write(one if isinstance(one, bytes) else b"data: " + json.dumps(one).encode() + b"\n\n")
        if done:
            writer.write(b"data: [DONE]\n\n")
        await writer.drain()

    return answer


def status(code: int, body: str = "", head: str = "") -> Script:
    async def answer(writer: asyncio.StreamWriter) -> None:
        text = f"HTTP/1.1 {code} No\r\n{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        writer.write(text.encode())
        await writer.drain()

    return answer


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    """Reads the request and closes."""


class Scripted:
    """A server whose n-th connection gets the n-th script, the last one for ever."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        await reader.readexactly(length)
        await script(writer)
        writer.close()


@asynccontextmanager
async def against(
    *scripts: Script, port: int = 0, **values: float
) -> AsyncIterator[tuple[RemoteEngine, Scripted]]:
    """An engine whose server does what the scripts say."""
    scripted = Scripted(*scripts)
    server = await asyncio.start_server(scripted, "127.0.0.1", port)
    try:
        with engine_at(server.sockets[0].getsockname()[1], **values) as engine:
            yield engine, scripted
    finally:
        server.close()


def engine_at(port: int, **values: float) -> RemoteEngine:
    options = RemoteOptions(RemoteAddress("vllm", f"http://127.0.0.1:{port}"), **({"wait_s": 20.0} | values))  # pyright: ignore[reportArgumentType]
    runs = Capabilities("toy", "llama", "remote", "vllm", "remote", 0, 97, 8, 256, 0, 0, 0, lacks=("window",))
    shape = TokenShape(options.address.url, "toy", (96,), ())
    return RemoteEngine(options, shape, runs, adapters=RemoteAdapters(options, "toy", loads=False))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [None],
        [{}],
        [{"id": ""}],
        [{"id": 7}],
        [{"id": "x" * 513}],
        [{"id": "toy", "max_model_len": -1}],
        [{"id": "toy", "max_model_len": 10**400}],
        [{"id": "toy", "max_model_len": 1.5}],
    ],
)
def test_a_list_of_models_that_cannot_be_is_refused(data: object) -> None:
    with pytest.raises(EngineUnavailable, match="cannot be right"):
        models_of(json.dumps({"data": data}).encode(), "http://engine")


HOSTILE = [
    pytest.param(b"data: {nonsense}\n\n", "cannot be right", id="no JSON"),
    pytest.param(b"data: " + b"[" * 100_000 + b"\n\n", "cannot be right", id="deep JSON"),
    pytest.param(b"data: " + b"x" * (1 << 21), "bytes", id="a line without end"),
    pytest.param(b"data: 1\n" * (1 << 20), "bytes", id="an event without end"),
    pytest.param({"choices": 3}, "cannot be right", id="another form"),
    pytest.param(event([97]), "vocabulary", id="a token outside of the vocabulary"),
    pytest.param(event([-1]), "vocabulary", id="a negative token"),
    pytest.param(event([2**70]), "cannot be right", id="no integer"),
    pytest.param(event([1] * 9), "more than the 8 tokens", id="too many tokens"),
    pytest.param({"choices": [{"text": "hello"}]}, "without token_ids", id="text where ids were asked for"),
    pytest.param({"choices": [{}, {}]}, "2 choices", id="two choices"),
    pytest.param(event([1], "because"), "finish reason", id="an unknown reason"),
]


@pytest.mark.parametrize(("answer", "match"), HOSTILE)
async def test_a_wrong_answer_ends_its_request_alone(answer: Any, match: str) -> None:
    good = says(event([5, 6], "length"), USAGE)
    async with against(says(answer), good) as (engine, _):
        with pytest.raises(EngineUnavailable, match=match) as caught:
            await collect(engine, request("a"))
        assert len(caught.value.message) < 700 and caught.value.fix
        assert (await collect(engine, request("a"))).tokens == [5, 6]


ROWS = {"tokens": ["token_id:5"], "token_logprobs": [-0.5], "top_logprobs": [{"token_id:5": -0.5}]}


@pytest.mark.parametrize(
    "rows",
    [
        None,
        ROWS | {"tokens": ["five"]},
        ROWS | {"tokens": ["token_id:6"]},
        ROWS | {"tokens": ["token_id:99999999999"]},
        ROWS | {"token_logprobs": []},
        ROWS | {"token_logprobs": [7.0]},
        ROWS | {"top_logprobs": [{"token_id:5": -0.5}, {}]},
        ROWS | {"top_logprobs": [{"token_id:5000": -0.5}]},
    ],
)
async def test_wrong_log_probabilities_are_not_passed_on(rows: Any) -> None:
    async with against(says(event([5], "length", logprobs=rows))) as (engine, _):
        with pytest.raises(EngineUnavailable, match="cannot be right"):
            await collect(engine, request("a", logprobs=1))
    async with against(says(event([5], "length", logprobs=ROWS))) as (engine, _):
        assert (await collect(engine, request("a", logprobs=1))).logprobs[0].top == ((5, -0.5),)


async def test_tokens_behind_the_end_are_refused() -> None:
    async with against(says(event([5], "length"), event([6]))) as (engine, _):
        with pytest.raises(EngineUnavailable, match="behind the end"):
            await collect(engine, request("a"))


@pytest.mark.parametrize(
    "first", [hangs_up, status(503), status(429, head="Retry-After: 0\r\n"), says(done=False)]
)
async def test_a_request_without_a_token_is_sent_again(first: Script) -> None:
    async with against(first, first, says(event([5], "length"), USAGE)) as (engine, scripted):
        answer = await collect(engine, request("a"))
    assert (answer.tokens, scripted.connections) == ([5], 3)


async def test_a_request_that_ends_every_server_is_not_sent_for_ever() -> None:
    async with against(hangs_up) as (engine, scripted):
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            await collect(engine, request("a"))
    assert scripted.connections == 3


async def test_a_request_with_a_token_is_never_sent_again() -> None:
    async with against(says(event([5]), done=False), says(event([7], "length"))) as (engine, scripted):
        seen: list[int] = []

        async def read() -> None:
            async for delta in engine.generate(request("a")):
                seen.extend(delta.tokens)

        with pytest.raises(EngineRestarted, match="in the middle"):
            await read()
    assert (seen, scripted.connections) == ([5], 1)


async def test_a_stream_that_falls_silent_ends() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"data: " + json.dumps(event([5])).encode() + b"\n\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with against(silent, idle_s=0.05) as (engine, _):
        with pytest.raises(EngineRestarted, match="in the middle"):
            await collect(engine, request("a"))


async def test_a_first_token_that_never_comes_is_not_waited_for_without_end() -> None:
    async def silent(_: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with against(silent, first_s=0.05) as (engine, _):
        with pytest.raises(EngineUnavailable, match="no token within"):
            await collect(engine, request("a"))


async def test_comments_alone_keep_no_request_open() -> None:
    async def comments(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b": wait\n\n")
                await writer.drain()
                await asyncio.sleep(0)

    async with against(comments, first_s=0.05, wait_s=0.1) as (engine, _):
        with pytest.raises(EngineUnavailable, match="no token within"):
            await collect(engine, request("a"))


def test_a_list_of_models_is_not_unfolded_and_has_an_end() -> None:
    bomb = gzip.compress(bytes(1 << 26))
    head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n"

    def serve(listener: socket.socket) -> None:
        for body in (bomb, bytes(3 << 20)):
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        options = RemoteOptions(RemoteAddress("vllm", f"http://127.0.0.1:{listener.getsockname()[1]}"))
        for said in ("cannot be right", "more than 1048576 bytes"):
            with pytest.raises(EngineUnavailable, match=said):
                served_models(options, timeout_s=20)
        thread.join()


async def test_a_server_that_comes_back_is_waited_for(unused_tcp_port: int) -> None:
    with engine_at(unused_tcp_port) as engine:
        waiting = asyncio.create_task(collect(engine, request("a")))
        await until_async(lambda: not engine.stats().available)
        async with against(says(event([5], "length"), USAGE), port=unused_tcp_port):
            assert (await waiting).tokens == [5]
        assert engine.stats().available and engine.stats().restarts == 1


async def test_a_server_that_is_busy_is_there() -> None:
    busy = status(429, head="Retry-After: 0\r\n")
    seen: list[bool] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        seen.append(engine.stats().available)
        await busy(writer)

    async with against(answer, wait_s=0.5, look_s=0.01) as (engine, _):
        with pytest.raises(EngineUnavailable, match="429"):
            await collect(engine, request("a"))
        await until_async(lambda: len(seen) >= 6)  # looks at its models among them
        assert engine.stats().available and all(seen)


async def test_a_redirect_is_not_followed() -> None:
    moved = status(307, head="Location: http://169.254.169.254/latest\r\n")
    async with against(moved) as (engine, scripted):
        with pytest.raises(EngineUnavailable, match="307"):
            await collect(engine, request("a"))
    assert scripted.connections == 1


async def test_an_error_in_the_stream_is_told() -> None:
    error = {"error": {"message": "out of\x1b[31m memory", "code": 500}}
    async with against(says(event([5]), error)) as (engine, _):
        with pytest.raises(EngineUnavailable, match="out of") as caught:
            await collect(engine, request("a"))
    assert "\x1b" not in caught.value.message


async def test_a_refusal_keeps_its_reason() -> None:
    body = json.dumps({"error": {"message": "top_k must be at least -1", "code": 400}})
    async with against(status(400, body)) as (engine, _):
        with pytest.raises(InvalidRequest, match="top_k must be"):
            await collect(engine, request("a"))


@given(st.binary(max_size=300), st.integers(300, 599))
def test_any_body_is_an_error_or_a_reason_to_try_again(body: bytes, code: int) -> None:
    found = refused("http://h", code, body)
    assert isinstance(found, DeepwellError | Retry)
    assert len(said_by(body)) <= 301 and "\n" not in said_by(body)


pieces = st.lists(st.sampled_from([b"data: a", b"data:b", b"\n", b"\r\n", b"\n\n", b": ping\n", b"id: 3\n"]))


@given(pieces, st.data())
def test_events_do_not_depend_on_how_they_arrive(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    whole, cut = EventReader("http://h"), EventReader("http://h")
    expected = [*whole.feed(stream), whole.end()]
    places = zip([0, *cuts], [*cuts, len(stream)], strict=True)
    assert [*(one for a, b in places for one in cut.feed(stream[a:b])), cut.end()] == expected


def test_nothing_is_read_behind_done() -> None:
    reader = EventReader("http://h")
    assert list(reader.feed(b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n")) == [b"1"]
    assert reader.done
