"""One connection, byte by byte: what a client may send before an answer, and that cuts in the stream change nothing."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import re
import socket
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from tests.server.conftest import Live
from uvicorn.config import Config
from uvicorn.server import ServerState

from deepwell.server.http.connection import Connection
from deepwell.server.http.connection_table import ConnectionTable
from deepwell.server.options import ConnectionOptions

GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def post(body: bytes, *more: bytes) -> bytes:
    return b"\r\n".join((b"POST /p HTTP/1.1", b"content-length: %d" % len(body), *more, b"", body))


def chunked(chunks: Sequence[bytes], trailers: Sequence[bytes] = ()) -> bytes:
    parts = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk]
    return CHUNKED + b"".join(parts) + b"0\r\n" + b"".join(one + b"\r\n" for one in trailers) + b"\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.paused = self.closing = self.ended = self.aborted = False
        self.unread = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        if not self.closing:
            self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


@dataclass
class Client:
    """A client of one connection, and the application behind it."""

    hold: asyncio.Event = field(default_factory=asyncio.Event)  # nothing is answered until it is set
    reads: bool = True  # whether the application reads bodies
    scopes: list[Scope] = field(default_factory=list[Scope])
    bodies: list[bytes] = field(default_factory=list[bytes])
    left: int = 0

    def __post_init__(self) -> None:
        self.hold.set()
        self.wire = Wire()
        config = Config(
            self.app, http=Connection, ws="none", interface="asgi3", lifespan="off", log_config=None
        )
        config.load()
        self.table = ConnectionTable(ConnectionOptions())
        self.connection = Connection(config, ServerState(), {}, self.table, 30.0)
        assert self.table.add(self.connection, None)
        self.connection.connection_made(self.wire)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body = b""
        more = self.reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        await self.hold.wait()
        text = b"%s %s %d" % (scope["method"].encode(), scope["path"].encode(), len(body))
        headers = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def send(self, data: bytes, *, step: int = 1 << 18) -> int:
        """Sends as a socket would, which takes no more once reading is paused or closed; returns how much it took."""
        at = 0
        while at < len(data) and not self.wire.closing:
            for _ in range(50):
                if not self.wire.paused:
                    break
                await asyncio.sleep(0)
            else:
                break
            self.connection.data_received(data[at : at + step])
            at += step
        await self.settle()
        return min(at, len(data))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        self.table.check_integrity()

    def answers(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        rest = bytes(self.wire.written)
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            size = int(re.findall(rb"content-length: (\d+)", head)[0])
            found.append((int(head.split(b" ", 2)[1]), rest[:size]))
            rest = rest[size:]
        return found

    def error(self) -> tuple[int, str]:
        """The status and the message of the one answer, which must be an error that ends the connection."""
        ((status, body),) = self.answers()
        assert b"connection: close" in self.wire.written
        assert self.wire.ended
        error = json.loads(body)["error"]
        assert error["type"] == "invalid_request_error"
        return status, error["message"]


requests = st.one_of(
    st.just(GET),
    st.binary(max_size=300).map(post),
    st.builds(
        chunked,
        st.lists(st.binary(min_size=1, max_size=60), max_size=4),
        st.lists(st.sampled_from((b"x-sum: 1", b"authorization: Bearer stolen")), max_size=2),
    ),
)


@given(st.lists(requests, min_size=1, max_size=6), st.data())
def test_cuts_of_the_stream_change_nothing(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    async def answers(parts: Sequence[bytes]) -> tuple[list[tuple[int, bytes]], list[bytes], list[Any]]:
        client = Client()
        for part in parts:
            await client.send(part)
        for _ in sent:
            await client.settle()
        assert not client.wire.closing
        assert client.connection.waits is client.table.idle
        return client.answers(), client.bodies, [scope["headers"] for scope in client.scopes]

    whole = asyncio.run(answers([stream]))
    assert [status for status, _ in whole[0]] == [200] * len(sent)
    assert asyncio.run(answers(pieces)) == whole
    assert b"stolen" not in repr(whole).encode()


@pytest.mark.parametrize(
    ("head", "status", "says"),
    [
        (b"".join(b"x-%d: y\r\n" % n for n in range(200)), 431, "more than 128 headers"),
        (b"x: " + b"y" * 17_000 + b"\r\n", 431, "longer than 16384 bytes"),
        (b"y" * 17_000 + b": x\r\n", 431, "longer than 16384 bytes"),
        (b"".join(b"x-%d: %s\r\n" % (n, b"y" * 8000) for n in range(10)), 431, "longer than 65536 bytes"),
        (b"x y: z\r\n", 400, "not an HTTP request"),
    ],
    ids=["number", "value", "name", "sum", "malformed"],
)
@pytest.mark.parametrize("step", [1, 4096, 1 << 18])
@pytest.mark.parametrize("place", ["head", "trailers"])
async def test_fields_are_bounded(head: bytes, status: int, says: str, step: int, place: str) -> None:
    client = Client()
    before = b"GET / HTTP/1.1\r\n" if place == "head" else CHUNKED + b"1\r\nx\r\n0\r\n"
    await client.send(before + head + b"\r\n", step=step)
    got, message = client.error()
    assert got == status
    assert says in message
    assert len(client.scopes) == (place == "trailers")
    assert client.left == len(client.scopes)  # to the application, that client has hung up
    assert client.connection.waits is client.table.lingering


async def test_heads_at_the_limits_are_read() -> None:
    for head in (
        b"".join(b"x-%d: y\r\n" % n for n in range(128)),
        b"x: " + b"y" * 16_000 + b"\r\n",
        b"".join(b"x-%d: %s\r\n" % (n, b"y" * 16_000) for n in range(4)),
    ):
        client = Client()
        await client.send(b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\n" + head + b"\r\n", step=100)
        assert [status for status, _ in client.answers()] == [200]


async def test_a_long_target_is_a_414() -> None:
    client = Client()
    await client.send(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", step=1000)
    status, message = client.error()
    assert status == 414 and "8192" in message


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET",
        b"GET / HTTP/1.1\r\nx: ",
        b"GET / HTTP/1.1\r\nx",
        b"GET / HTTP/1.1\r\nx: y\r\n",
        CHUNKED + b"1;x=",
        CHUNKED + b"0\r\nx: ",
        GET + CHUNKED + b"2\r\nab\r\n0\r\nx: y\r\nz",
    ],
)
@pytest.mark.parametrize("fill", [b"a", b"\r\n", b" ", b"a: b\r\n"])
async def test_what_never_ends_is_refused_early(begin: bytes, fill: bytes) -> None:
    client = Client()
    await client.send(begin)
    taken = 0
    while not client.wire.ended and not client.wire.closing and taken < 1 << 20:
        taken += await client.send(fill * (4096 // len(fill)))
    assert taken <= 128 << 10


async def test_requests_behind_one_that_is_being_answered_stay_bytes() -> None:
    client = Client()
    client.hold.clear()
    taken = await client.send(GET * 20_000, step=64 << 10)
    assert len(client.scopes) == 1 and len(client.connection.pipeline) == 0
    assert taken <= 192 << 10
    client.hold.set()
    while len(client.scopes) * len(GET) < taken - len(GET):
        await client.settle()
    assert set(client.answers()) == {(200, b"GET /a 0")}


async def test_requests_behind_a_chunked_body_are_few_or_refused() -> None:
    client = Client()
    client.hold.clear()
    await client.send(chunked([b"x" * 100]) + GET * 10)
    assert not client.wire.closing
    await client.send(GET * 10)
    client.hold.set()
    for _ in range(22):
        await client.settle()
    assert len(client.answers()) == 21
    client = Client()
    client.hold.clear()
    await client.send(chunked([b"x" * 100]) + GET * 500)
    assert len(client.connection.pipeline) <= 16
    client.hold.set()
    for _ in range(22):
        await client.settle()
    assert len(client.answers()) == 17  # those that were read are answered
    assert client.wire.closing


async def test_a_request_that_cannot_be_read_waits_for_the_answer_before_it() -> None:
    client = Client()
    client.hold.clear()
    await client.send(GET + b"nonsense\r\n\r\n")
    assert not client.wire.written
    client.hold.set()
    await client.settle()
    (first, second) = client.answers()
    assert first == (200, b"GET /a 0")
    assert second[0] == 400


async def test_an_answer_that_has_begun_is_cut_where_its_request_goes_wrong() -> None:
    client = Client(reads=False)
    await client.send(CHUNKED + b"1\r\nx\r\n")
    assert [status for status, _ in client.answers()] == [200]
    await client.send(b"no chunk\r\n")
    assert client.wire.closing
    assert len(client.answers()) == 1


async def test_a_body_that_nobody_reads_is_passed_over_and_not_kept() -> None:
    client = Client(reads=False)
    body = b"x" * (200 << 10)
    await client.send(post(body)[:-100], step=64 << 10)
    assert len(client.answers()) == 1
    assert client.connection.cycle.body == b""
    assert client.connection.waits is client.table.draining
    await client.send(body[-100:] + GET)
    assert [status for status, _ in client.answers()] == [200, 200]
    assert client.connection.waits is client.table.idle


@pytest.mark.parametrize("step", [1, 7, 1 << 18])
async def test_an_offer_of_another_protocol_is_not_taken(step: int) -> None:
    client = Client()
    upgrade = b"GET /u HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    await client.send(upgrade + GET + GET, step=step)
    # Java's client offers HTTP/2 so, with every body. It is not another request.
    await client.send(post(GET, b"connection: upgrade, http2-settings", b"upgrade: h2c") + GET, step=step)
    for _ in range(5):
        await client.settle()
    assert [body for _, body in client.answers()] == [
        b"GET /u 0",
        b"GET /a 0",
        b"GET /a 0",
        b"POST /p 28",
        b"GET /a 0",
    ]
    assert client.bodies[3] == GET
    refused = Client()
    await refused.send(
        CHUNKED.replace(b"host", b"connection: upgrade\r\nupgrade: h2c\r\nhost") + b"0\r\n\r\n"
    )
    assert refused.error()[0] == 400 and not refused.scopes


async def test_the_waits_of_a_connection() -> None:
    client = Client()
    table, connection = client.table, client.connection
    client.hold.clear()
    assert connection.waits is table.new
    await client.send(b"\r\n")
    assert connection.waits is table.new
    for part, wait in (
        (b"POST /p HTTP/1.1\r\n", table.heads),
        (b"content-length: 6\r\n", table.heads),
        (b"\r\n", table.bodies),
        (b"abc", table.bodies),
        (b"def", None),
        (b"GET /a HTTP/1.1\r\n", None),
    ):
        await client.send(part)
        assert connection.waits is wait
    client.hold.set()
    await client.settle()
    assert connection.waits is table.heads
    connection.expire(table.heads)
    assert [status for status, _ in client.answers()] == [200, 408]


async def test_a_refused_client_may_go_on_sending_for_a_little() -> None:
    client = Client()
    taken = await client.send(b"GET /" + b"a" * (8 << 20), step=64 << 10)
    assert client.wire.closing
    assert taken <= 2 << 20
    assert client.error()[0] == 414


@pytest.mark.parametrize("more", [b"", b"connection: close\r\n"], ids=["kept", "closed"])
async def test_a_client_that_leaves_some_of_its_answer_is_cut(more: bytes) -> None:
    client = Client()
    client.wire.unread = 5000  # too little for the transport to pause the writer
    await client.send(GET[:-2] + more + b"\r\n")
    connection = client.connection
    assert connection._watch is not None
    client.wire.unread -= 2000
    connection._judge()  # it reads, and gets as long again
    assert connection._watch is not None and not client.wire.aborted
    client.wire.unread -= 1
    connection._judge()
    assert client.wire.aborted
    connection.connection_lost(None)


async def test_an_idle_client_that_has_not_read_everything_is_cut_and_not_waited_for() -> None:
    client = Client()
    await client.send(GET)
    client.wire.unread = 1
    client.connection.expire(client.table.idle)
    assert client.wire.aborted


async def test_the_next_request_of_a_slow_reader_is_not_judged_by_the_last_answer() -> None:
    client = Client()
    client.wire.unread = 5000
    await client.send(GET)
    client.hold.clear()
    await client.send(GET)
    assert client.connection._watch is None
    client.hold.set()
    await client.settle()
    assert client.connection._watch is not None
    client.connection.connection_lost(None)


@pytest.mark.parametrize(
    "sent", [GET, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200, CHUNKED + b"0\r\n" + b"x: y\r\n" * 200]
)
async def test_a_connection_that_is_lost_is_freed_without_a_garbage_collection(sent: bytes) -> None:
    gc.disable()
    try:
        client = Client()
        connection = weakref.ref(client.connection)
        await client.send(sent)
        client.connection.connection_lost(None)
        del client.connection
        client.scopes.clear()
        await asyncio.sleep(0)
        assert connection() is None
    finally:
        gc.enable()


async def test_a_client_that_has_reset_its_connection_is_refused_without_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()

    def reset() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(client.wire, "write_eof", reset)
    await client.send(b"\x00\x01\r\n\r\n")
    assert [status for status, _ in client.answers()] == [400]


INNER = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
FRAMINGS = [
    (b"transfer-encoding: identity\r\ntransfer-encoding: chunked", 400),
    (b"transfer-encoding: chunked\r\ntransfer-encoding: identity", 400),
    (b"transfer-encoding: identity, chunked", 400),
    (b"transfer-encoding: chunked, identity", 400),
    (b"transfer-encoding: chunked, chunked", 400),
    (b"transfer-encoding: chunked\r\ntransfer-encoding: chunked", 400),
    (b"transfer-encoding: gzip, chunked", 400),
    (b"transfer-encoding: identity", 400),
    (b"transfer-encoding: ,chunked", 400),
    (b"transfer-encoding: chunked;a=b", 400),
    (b'transfer-encoding: "chunked"', 400),
    (b"transfer-encoding: xchunked", 400),
    (b"transfer-encoding: chunked\r\ncontent-length: %d", 400),
    (b"content-length: %d\r\ntransfer-encoding: chunked", 400),
    (b"content-length: %d\r\ntransfer-encoding: identity", 400),
    (b"content-length: %d\r\ncontent-length: 0", 400),
    (b"content-length: +%d", 400),
    (b"transfer-encoding:\r\n chunked", 400),
    (b"transfer-encoding: identity\r\n\tchunked", 400),
    (b"transfer-encoding: \x0bchunked", 400),
    (b"transfer-encoding : chunked", 400),
    (b"transfer-encoding\t: chunked", 400),
    (b"x: y\ntransfer-encoding: chunked\r\ncontent-length: %d", 400),
    (b"transfer-encoding: \xe3chunked", 400),
    (b"transfer-encoding:\tchunked", 200),
    (b"transfer-encoding: chunked\t", 400),
    (b"Transfer-Encoding:   CHUNKED  ", 200),
    (b"TRANSFER-ENCODING: Chunked", 200),
]


@pytest.mark.parametrize(("framing", "status"), FRAMINGS)
@pytest.mark.parametrize("step", [1, 1 << 18])
async def test_a_body_is_framed_by_one_length_or_one_coding_and_hides_nothing(
    framing: bytes, status: int, step: int
) -> None:
    """A request that two servers could frame differently is refused, with the connection: nothing behind it is a request."""
    body = b"0\r\n\r\n" if status == 400 else b"5\r\nhello\r\n0\r\n\r\n"
    head = framing.replace(b"%d", b"%d" % (len(body) + len(INNER)))
    client = Client()
    await client.send(b"POST /p HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n" + body + INNER, step=step)
    answers = client.answers()
    assert answers[0][0] == status, answers
    if status == 400:
        assert len(answers) == 1 and client.scopes == [] and client.wire.ended
    else:
        assert client.bodies[0] == b"hello" and answers[1] == (200, b"GET /smuggled 0")


@pytest.mark.parametrize("framing", [one for one, status in FRAMINGS if status == 400])
def test_a_real_server_refuses_every_other_framing(shared_live: Live, framing: bytes) -> None:
    place = urlsplit(shared_live.url)
    body = b"0\r\n\r\n" + b"GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n" % place.netloc.encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\n" % place.netloc.encode()
    with socket.create_connection((place.hostname, place.port or 80), timeout=20) as client:
        client.sendall(head + framing.replace(b"%d", b"%d" % len(body)) + b"\r\n\r\n" + body)
        said = b""
        while data := client.recv(65536):
            said += data
    assert said.startswith(b"HTTP/1.1 400 ") and said.count(b"HTTP/1.1 ") == 1, said
