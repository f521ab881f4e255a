"""A server whose engine elsewhere lies: each answer ends typed, in time and in bounded memory, and no other tenant notices."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from tests.engine.remote.test_hostile import HEAD, USAGE, Script, Scripted, event, hangs_up, says, status
from tests.server.conftest import start
from tests.server.fakes import VOCAB, FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.engine.hosting.remote.adapters import RemoteAdapters
from deepwell.engine.hosting.remote.address import RemoteAddress, RemoteOptions
from deepwell.engine.hosting.remote.completions import TokenShape
from deepwell.engine.hosting.remote.engine import RemoteEngine
from deepwell.engine.protocol import Capabilities
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore

KEY = "the-key-of-the-engine-1234567890"
SECRET = "what tenant b has asked"
MOST_BYTES = 96 << 20  # that the process may grow by, for all answers of a test


def endless(head: bytes, piece: bytes, *, pause_s: float = 0.0) -> Script:
    """A server that says the same for ever."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(head)
            while True:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)

    return answer


def bytes_of(data: bytes) -> Script:
    async def answer(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()

    return answer


def line(told: Any) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"


BOMB = gzip.compress(bytes(1 << 28))
OK_HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
LIES: dict[str, Script] = {
    "events without a token, without end": endless(HEAD, line({"choices": []}) * 50),
    "counts without end": endless(HEAD, line(USAGE) * 50),
    "empty choices without end": endless(HEAD, line(event([])) * 50),
    "tokens without end": endless(HEAD, line(event([65]))),
    "comments without end": endless(HEAD, b": wait\n\n" * 50),
    "a line without end": endless(HEAD, b"x" * 65536),
    "an event of lines without end": endless(HEAD, b"data: [\n" * 4096),
    "a giant frame": says(event([65] * 400_000)),
    "a frame of nesting": says(b"data: " + b"[" * 500_000 + b"\n\n"),
    "a head byte by byte": endless(b"HTTP/1.1 200 OK\r\nX: ", b"x", pause_s=0.02),
    "headers without end": endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000),
    "an error byte by byte": endless(b"HTTP/1.1 400 No\r\nConnection: close\r\n\r\n", b"x", pause_s=0.02),
    "an event byte by byte": endless(HEAD + b"data: ", b" ", pause_s=0.02),
    "another content type": bytes_of(OK_HEAD + b"Content-Type: text/html\r\n\r\n<html>" + b"<b>" * 1000),
    "a picture": bytes_of(OK_HEAD + b"Content-Type: image/png\r\n\r\n\x89PNG" + bytes(range(256)) * 100),
    "a redirect to itself": status(307, head="Location: /v1/completions\r\n"),
    "a redirect to the loopback": status(302, head="Location: http://127.0.0.1:22/\r\n"),
    "a redirect to a file": status(301, head="Location: file:///etc/passwd\r\n"),
    "a bomb": bytes_of(OK_HEAD + b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n" + BOMB),
    "negative counts": says(
        event([65]), {"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": -(2**62)}}
    ),
    "negative cached tokens": says(
        event([65], "length"),
        {"choices": [], "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": -9}}},
    ),
    "counts beyond all numbers": says({"choices": [], "usage": {"prompt_tokens": 10**400}}),
    "no UTF-8": says(b'data: {"choices": [{"token_ids": [65], "text": "\xff\xfe\xc0\x80"}]}\n\n'),
    "half a surrogate pair": says({"error": {"message": "\ud800 \udfff"}}),
    "two choices of one index": says({"choices": [{"index": 0, "token_ids": [1]}] * 2}),
    "tokens of nobody": says(event([VOCAB + 5])),
    "tokens behind the end": says(event([65], "length"), event([66])),
    "two ends": says(event([65], "stop"), event([], "length")),
    "a length that lies": bytes_of(OK_HEAD + b"Content-Length: 99999999\r\n\r\n" + line(event([65]))),
    "chunks that lie": bytes_of(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\ndata: "),
    "two lengths": bytes_of(OK_HEAD + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\nhello"),
    "no HTTP": bytes_of(b"\x16\x03\x01" + b"\x00" * 5000),
    "nothing": hangs_up,
    "its key": status(400, json.dumps({"error": {"message": f"bad Authorization: Bearer {KEY}"}})),
    "its key in a stream": says({"error": {"message": f"bad Bearer {KEY}", "code": 400}}),
}


class Hostile:
    """A Deepwell server with two tenants before a scripted engine, which answers tenant b's requests well."""

    def __init__(self, folder: Path, codec: Codec) -> None:
        self.lie: Script = hangs_up
        self.scripted = Scripted(hangs_up)
        self.folder, self.codec = folder, codec

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = [one for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0][15:])) if length else b""
            asked = json.loads(body) if body else {}
            good = asked.get("max_tokens") == 3
            await (says(event([65, 66, 67], "length"), USAGE) if good else self.lie)(writer)
        writer.close()


@pytest.fixture
async def hostile(
    codec: Codec, tmp_path: Path
) -> AsyncIterator[tuple[Hostile, httpx.AsyncClient, list[str]]]:
    made = Hostile(tmp_path, codec)
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    address = RemoteAddress("vllm", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    options = RemoteOptions(address, key=SecretStr(KEY), wait_s=0.3, first_s=1.0, idle_s=0.5, look_s=3600.0)
    runs = Capabilities(
        "toy", "llama", "remote", "vllm", "remote", 0, VOCAB, 8, 4096, 0, 0, 0, lacks=("window",)
    )
    shape = TokenShape(address.url, "toy", (), ())
    engine = RemoteEngine(options, shape, runs, adapters=RemoteAdapters(options, "toy", loads=False))
    database = Database.open(tmp_path / "deepwell.db")
    keys = [KeyStore(database).create(Tenant(name), name, ["inference"])[1] for name in ("a", "b")]
    live = start(make_service(engine, codec, model="toy", database=database), FakeEngine())
    async with httpx.AsyncClient(base_url=live.url, trust_env=False, timeout=30) as http:
        yield made, http, keys
    await asyncio.to_thread(live.stop)
    engine.close()
    server.close()


@pytest.mark.parametrize("streamed", [False, True])
async def test_no_lie_of_an_engine_costs_more_than_its_request(
    hostile: tuple[Hostile, httpx.AsyncClient, list[str]], streamed: bool
) -> None:
    made, http, (mine, other) = hostile

    async def ask(key: str, said: str, **more: Any) -> tuple[int, str]:
        body = {"model": "toy", "messages": [{"role": "user", "content": said}], **more}
        answer = await http.post(
            "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
        )
        return answer.status_code, answer.text

    await ask(other, SECRET, max_tokens=3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    for name, made.lie in LIES.items():
        async with asyncio.timeout(15):
            lied, fine = await asyncio.gather(
                ask(mine, "hello", max_tokens=8, stream=streamed), ask(other, SECRET, max_tokens=3)
            )
        assert fine[0] == 200 and '"finish_reason":"length"' in fine[1], (name, fine)
        code, text = lied
        assert '"error"' in text and '"type"' in text and "Traceback" not in text, (name, lied)
        assert code in ((200, 400, 500, 502, 503) if streamed else (400, 500, 502, 503)), (name, lied)
        assert KEY not in text and SECRET not in text, name
        assert len(text) < 4096, (name, len(text))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    assert grown < MOST_BYTES, f"{grown >> 20} MB"
    usage = await http.get("/metrics")
    assert "-9" not in [one.rpartition(" ")[2] for one in usage.text.splitlines()]
