"""Attacks on connections and on the head of a request, before anybody has shown a key."""

from __future__ import annotations

import asyncio
import os

from deepwell_bench.workloads.attacks.ground import Attack, Broken, Connection, Ground

__all__ = ["ATTACKS", "FLOODS"]

_TAKEN_BYTES = 16 << 20  # more than the buffers of the kernel: a server that takes so much reads on
_PART = b"a" * (64 << 10)
_FLOOD_BYTES = 100 << 20
_KIND = "connections"


async def _endless(ground: Ground, begin: bytes, more: bytes, most: int = _TAKEN_BYTES) -> None:
    """Sends `begin`, then `more` without end; the server must end the connection before it took `most` bytes."""
    connection = await ground.connected()
    await connection.send(begin)
    taken = 0
    while await connection.send(more):
        taken += len(more)
        if taken > most:
            raise Broken(f"took {taken >> 20} MB, and asks for more")
    connection.close()


async def header_lines(ground: Ground) -> None:
    line = b"".join(b"x-%06d: 1\r\n" % number for number in range(6000))
    await _endless(ground, ground.head("GET", "/healthz", keyed=False), line)


async def header_without_end(ground: Ground) -> None:
    await _endless(ground, ground.head("GET", "/healthz", keyed=False) + b"x-long: ", _PART)


async def header_name_without_end(ground: Ground) -> None:
    await _endless(ground, ground.head("GET", "/healthz", keyed=False), _PART)


def _chunked(ground: Ground, last: bytes) -> bytes:
    head = ground.head("POST", "/v1/chat/completions", {"Transfer-Encoding": "chunked"}, keyed=False)
    return head + b"\r\n" + last


async def trailer_lines(ground: Ground) -> None:
    line = b"".join(b"t-%06d: 1\r\n" % number for number in range(6000))
    await _endless(ground, _chunked(ground, b"0\r\n"), line)


async def trailer_without_end(ground: Ground) -> None:
    await _endless(ground, _chunked(ground, b"0\r\nx-long: "), _PART)


async def chunk_extension(ground: Ground) -> None:
    await _endless(ground, _chunked(ground, b"1;x="), _PART)


async def chunk_size_digits(ground: Ground) -> None:
    await _endless(ground, _chunked(ground, b""), b"0" * len(_PART))


async def request_target(ground: Ground) -> None:
    await _endless(ground, b"GET /", _PART)


async def request_method(ground: Ground) -> None:
    await _endless(ground, b"", b"G" * len(_PART))


async def blank_lines(ground: Ground) -> None:
    connection = await ground.connected()
    sent = 0
    while not ground.over() and sent < 32 << 20 and await connection.send(b"\r\n" * (len(_PART) // 2)):
        sent += len(_PART)


async def _hold(ground: Ground, count: int, begin: bytes, drip: bytes = b"", every_s: float = 0.5) -> None:
    """Opens connections, sends `begin` on each, and then one byte of `drip` now and then, until the time is over."""
    held: list[Connection] = []
    while len(held) < count and not ground.over():
        connection = await ground.connect()
        if connection is None:
            break  # the server takes no more: what counts is that the victim is still served
        await connection.send(begin)
        held.append(connection)
    place = 0
    while not ground.over():
        for connection in held:
            if drip and not connection.ended:
                await connection.send(drip[place % len(drip) : place % len(drip) + 1])
        place += 1
        await asyncio.sleep(every_s)


async def silent_sockets(ground: Ground) -> None:
    await _hold(ground, 1100, b"")


async def half_heads(ground: Ground) -> None:
    await _hold(ground, 150, ground.head("GET", "/healthz", keyed=False) + b"x-pad: " + b"p" * 30_000)


async def slow_heads(ground: Ground) -> None:
    await _hold(ground, 100, b"GET /healthz HTTP/1.1\r\n", b"x-slow: and slower yet\r\n")


async def slow_bodies(ground: Ground) -> None:
    head = ground.head("POST", "/v1/chat/completions", {"Content-Length": "100000"}) + b"\r\n"
    await _hold(ground, 200, head, b'{"model": "and it goes on and on')


async def slow_unkeyed_bodies(ground: Ground) -> None:
    head = ground.head("POST", "/v1/files", {"Content-Length": "100000"}, keyed=False) + b"\r\n"
    await _hold(ground, 200, head, b"abc")


async def keep_alive_hoard(ground: Ground) -> None:
    await _hold(ground, 300, ground.head("GET", "/healthz", keyed=False) + b"\r\n")


async def resets(ground: Ground) -> None:
    while not ground.over():
        if (connection := await ground.connect()) is not None:
            await connection.send(ground.head("POST", "/v1/chat/completions") + b"Content-Length: 9\r\n\r\n{")
            connection.reset()


async def half_closed(ground: Ground) -> None:
    connection = await ground.connected()
    await connection.send(ground.head("GET", "/v1/models"))
    connection.half_close()
    if not await connection.wait_ended(20):
        raise Broken("a connection whose client will send no more is kept")


async def _pipelined(ground: Ground, request: bytes, count: int) -> None:
    connection = await ground.connected()
    data = request * 200
    for _ in range(count // 200):
        if ground.over() or not await connection.send(data):
            break
    connection.reset()


async def pipelined_health(ground: Ground) -> None:
    await _pipelined(ground, ground.head("GET", "/healthz", keyed=False) + b"\r\n", 20_000)


async def pipelined_documents(ground: Ground) -> None:
    """The API document is the longest answer there is for nothing."""
    await _pipelined(ground, ground.head("GET", "/openapi.json") + b"\r\n", 2_000)


async def pipelined_bodies(ground: Ground) -> None:
    body = b'{"model": "' + b"x" * 60_000 + b'"}'
    head = ground.head("POST", "/v1/chat/completions", {"Content-Length": str(len(body))}) + b"\r\n"
    await _pipelined(ground, head + body, 400)


async def other_protocols(ground: Ground) -> None:
    hello = bytes.fromhex("16030100f1010000ed0303") + os.urandom(200)
    begins = (
        hello,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
        b"\x00" * 4096,
        os.urandom(4096),
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
    )
    for begin in begins:
        connection = await ground.connected()
        await connection.send(begin)
        connection.half_close()
        said = await connection.first_bytes(4096, 10)
        if said and not said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            raise Broken(f"answered {begin[:20]!r} by {said[:60]!r}")
        connection.close()


async def _flood(ground: Ground, begin: bytes, more: bytes) -> None:
    """Sends `begin` and then `more`, 100 MB in all; whenever the server ends the connection, it goes on with a new one."""
    sent = 0
    while sent < _FLOOD_BYTES and not ground.over():
        connection = await ground.connect()
        if connection is None or not await connection.send(begin):
            continue
        while sent < _FLOOD_BYTES and not ground.over() and await connection.send(more):
            sent += len(more)
        connection.reset()


async def headers_100_mb(ground: Ground) -> None:
    await _flood(ground, ground.head("GET", "/healthz", keyed=False), b"x-some-name: and a value\r\n" * 2500)


async def trailers_100_mb(ground: Ground) -> None:
    await _flood(ground, _chunked(ground, b"0\r\n"), b"x-some-name: and a value\r\n" * 2500)


async def idle_5000(ground: Ground) -> None:
    await _hold(ground, 5000, b"")


def _attack(name: str, what: str, holds: str, run: object) -> Attack:
    return Attack(name, _KIND, what, holds, run)  # type: ignore[arg-type]


_ENDED = "the server ends the connection (431 or 414) after a bounded number of bytes"
_SERVED = "newcomers with a key are served at once"

ATTACKS = (
    _attack("header_lines", "sends short header lines without end", _ENDED, header_lines),
    _attack("header_without_end", "sends one header value without end", _ENDED, header_without_end),
    _attack("header_name_without_end", "sends one header name without end", _ENDED, header_name_without_end),
    _attack("trailer_lines", "sends trailers without end behind a chunked body", _ENDED, trailer_lines),
    _attack("trailer_without_end", "sends one trailer without end", _ENDED, trailer_without_end),
    _attack("chunk_extension", "sends a chunk extension without end", _ENDED, chunk_extension),
    _attack("chunk_size_digits", "sends zeros as the size of a chunk without end", _ENDED, chunk_size_digits),
    _attack("request_target", "sends a request target without end", _ENDED, request_target),
    _attack("request_method", "sends a method without end", _ENDED, request_method),
    _attack("blank_lines", "sends empty lines before a request", "memory does not grow", blank_lines),
    _attack("silent_sockets", "holds 1,100 connections that say nothing", _SERVED, silent_sockets),
    _attack("half_heads", "holds 150 connections with 30 KB of a head each", _SERVED, half_heads),
    _attack("slow_heads", "sends a byte of a head on 100 connections twice a second", _SERVED, slow_heads),
    _attack("slow_bodies", "sends a byte of a body on 200 connections twice a second", _SERVED, slow_bodies),
    _attack("slow_unkeyed_bodies", "does so without a key", _SERVED, slow_unkeyed_bodies),
    _attack("keep_alive_hoard", "holds 300 connections after an answer", _SERVED, keep_alive_hoard),
    _attack("resets", "resets connections in the middle of bodies", "no 500, no traceback", resets),
    _attack("half_closed", "ends its direction within a head", "the connection is closed", half_closed),
    _attack(
        "pipelined_health",
        "pipelines 20,000 requests and reads no answer",
        "memory does not grow",
        pipelined_health,
    ),
    _attack(
        "pipelined_documents",
        "pipelines 2,000 requests for the API document",
        "memory does not grow",
        pipelined_documents,
    ),
    _attack("pipelined_bodies", "pipelines 400 requests of 60 KB", "memory does not grow", pipelined_bodies),
    _attack(
        "other_protocols", "speaks TLS, HTTP/2, SSH, RESP and noise", "refused or closed", other_protocols
    ),
)

FLOODS = (
    _attack("headers_100_mb", "sends 100 MB of headers", "memory does not grow", headers_100_mb),
    _attack("trailers_100_mb", "sends 100 MB of trailers", "memory does not grow", trailers_100_mb),
    _attack("idle_5000", "holds 5,000 connections that say nothing", _SERVED, idle_5000),
    _attack(
        "slow_bodies_200", "sends a byte of a body on 200 connections twice a second", _SERVED, slow_bodies
    ),
)
"""Those of full size, which take longer; `deepwell bench siege --part edge` makes them."""
