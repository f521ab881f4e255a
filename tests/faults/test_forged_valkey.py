"""A server that speaks Valkey's protocol and lies: no request fails, waits long or gets another's answer."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.dialogue.completion import Counts, Update
from deepwell.server import valkey as shared_module
from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.quota import RateLimits, bucket_key
from deepwell.server.access.shared_limits import SharedLimits
from deepwell.server.app import create_app
from deepwell.server.caches.response_cache import AnswerKey
from deepwell.server.caches.shared_answers import SharedAnswers
from deepwell.server.options import LimitsConfig
from deepwell.server.valkey import ValkeyClient

KEY = bucket_key("requests", "tenant a")
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 4}


class Liar:
    """Answers every command by what `say` makes of it; what it was asked is kept."""

    def __init__(self, say: Callable[[list[bytes]], bytes]) -> None:
        self.say = say
        self.asked: list[list[bytes]] = []
        self.url = SecretStr("")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                count = int((await reader.readline())[1:])
                words: list[bytes] = []
                for _ in range(count):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                self.asked.append(words)
                # The client names itself when it connects.
                writer.write(b"+OK\r\n" if words[0] == b"CLIENT" else self.say(words))
                await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.close()


@asynccontextmanager
async def lying(say: Callable[[list[bytes]], bytes]) -> AsyncIterator[Liar]:
    liar = Liar(say)
    server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    liar.url = SecretStr(f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    try:
        yield liar
    finally:
        server.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with much to do may be late to answer; a lie is no matter of time."""
    monkeypatch.setattr(shared_module, "_ANSWER_S", 2.0)


LIES = {
    "a number": b":5\r\n",
    "a word": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "no array": b"*-1\r\n",
    "an empty array": b"*0\r\n",
    "too many": b"*5\r\n" + b":1\r\n" * 5,
    "numbers that are none": b"*4\r\n:1\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "not a number": b"*4\r\n:1\r\n$3\r\nnan\r\n$3\r\nnan\r\n$3\r\nnan\r\n",
    "without bounds": b"*4\r\n:1\r\n$3\r\ninf\r\n$4\r\n-inf\r\n$3\r\ninf\r\n",
    "a charge of years": b"*4\r\n:1\r\n$3\r\n1e9\r\n$3\r\n1e9\r\n$3\r\n1e9\r\n",
    "an array for a number": b"*2\r\n*0\r\n*0\r\n",
    "a number for bytes": b"*2\r\n:7\r\n:7\r\n",
    "a time that is none": b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    "a length that is none": b"$abc\r\n",
    "a length below zero": b"$-7\r\n",
    "a length without end": b"$99999999999999\r\n" + b"x" * 100_000,
    "a count without end": b"*99999999999\r\n" + b":1\r\n" * 1000,
    "arrays in arrays": b"*1\r\n" * 20_000 + b":1\r\n",
    "a number of a million digits": b":" + b"9" * 60_000 + b"\r\n",
    "another protocol": b"HTTP/1.1 200 OK\r\n\r\n",
    "the third version": b"%1\r\n+a\r\n+b\r\n",
    "an error": b"-ERR nobody knows\r\n",
    "bytes that are no text": b"-\xff\xfe\r\n",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_lie_costs_no_request(lie: bytes, tmp_path: Path) -> None:
    async with lying(lambda _: lie) as liar:
        service = make_service(
            FakeEngine(),
            make_codec(tmp_path / "tokenizer"),
            model="toy",
            response_cache_bytes=1 << 20,
            response_cache_ttl_s=60,
            limits=LimitsConfig(rates=RateLimits(3, 100_000), valkey_url=liar.url),
        )
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answers = [await http.post("/v1/chat/completions", json=CHAT) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]  # this host's own limit
        await service.close_state()


async def test_a_liar_is_left_alone_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with lying(lambda _: b"*1\r\n:1\r\n") as liar:
        client, table = ValkeyClient(liar.url), LimitTable()
        limits = SharedLimits(client, table)
        for _ in range(20):
            await limits.charge(KEY, 100, 1)
        assert sum(words[0] == b"EVAL" for words in liar.asked) == 1
        assert len(re.findall("nonsense", caplog.text)) == 1
        await client.close()
        table.close()


QUESTION = AnswerKey("fp", "", "tenant-a", b"\1\0\0\0", (4, "greedy"), (), 0)
ANSWER = (Update(0, "the secret of tenant a", finish_reason="stop", counts=Counts(1, 0, 1)),)


class Store:
    """A Valkey that keeps what it is given, and may give it to others."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.change: Callable[[bytes], bytes] = lambda data: data

    def __call__(self, words: list[bytes]) -> bytes:
        if words[0] == b"SET":
            self.kept[words[1]] = words[2]
            return b"+OK\r\n"
        data = self.change(next(iter(self.kept.values())))  # whatever was asked for
        return b"*2\r\n$%d\r\n%b\r\n:60000\r\n" % (len(data), data)


async def test_an_answer_reaches_its_own_question_alone(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    async with lying(store) as liar:
        client = ValkeyClient(liar.url)
        answers = SharedAnswers(client, 60)
        await answers.offer(QUESTION, ANSWER)
        assert await answers.fetch(QUESTION) == (ANSWER, 60.0)
        for other in (
            replace(QUESTION, tenant="tenant-b"),
            replace(QUESTION, prompt=b"\2\0\0\0"),
            replace(QUESTION, fingerprint="other weights"),
        ):
            assert await answers.fetch(other) is None
        assert "no server gave to this question" in caplog.text
        for change in (
            lambda data: data[:-1] + b"!",
            lambda data: data[:9],
            lambda _: b"",
            lambda data: data[16:],
        ):
            store.change = change
            assert await answers.fetch(QUESTION) is None
        await client.close()


async def test_an_answer_that_comes_late_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which a command was given up carries its answer still, so it must not be used again."""
    late = asyncio.Event()
    number = 0

    class Late(Liar):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal number
            number += 1
            if number == 1:
                await reader.read(1 << 16)
                await late.wait()
                writer.write(b"*4\r\n:0\r\n$2\r\n60\r\n$2\r\n60\r\n$1\r\n0\r\n")
            await super().serve(reader, writer)

    liar = Late(
        lambda words: (
            b"+PONG\r\n" if words[0] == b"PING" else b"*4\r\n:1\r\n$1\r\n6\r\n$1\r\n0\r\n$1\r\n6\r\n"
        )
    )
    server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    changed = asyncio.Event()
    monkeypatch.setattr(shared_module, "_ANSWER_S", 0.05)
    monkeypatch.setattr(shared_module, "_PROBED_EVERY_S", 0.01)
    url = SecretStr(f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    client, table = ValkeyClient(url, lambda up: changed.set() if up else changed.clear()), LimitTable()
    limits = SharedLimits(client, table)
    assert (await limits.charge(KEY, 10, 1)).remaining == 9  # alone: no answer came
    late.set()
    monkeypatch.setattr(shared_module, "_ANSWER_S", 5.0)
    await asyncio.wait_for(changed.wait(), 60)
    assert (await limits.charge(KEY, 10, 1)).reset_s == 6
    await client.close()
    table.close()
    server.close()
