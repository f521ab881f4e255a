"""Attacks by requests that a proxy, a browser or another server may read differently."""

from __future__ import annotations

import asyncio
import gzip
import os
import secrets

from deepwell_bench.workloads.attacks.ground import Attack, Broken, Ground

__all__ = ["ATTACKS"]

_KIND = "requests"
_CHAT = "/v1/chat/completions"


async def _not_taken(ground: Ground, head: bytes, body: bytes = b"") -> None:
    """Sends a request that must be refused, or whose connection must be ended."""
    answer = await ground.raw(head + b"\r\n" + body, 20)
    if answer is not None and not 400 <= answer.status < 500 and answer.status not in (501, 505):
        raise Broken(f"answered {answer.status} to {head.splitlines()[-1][:60]!r}")


async def content_lengths(ground: Ground) -> None:
    for value in ("-1", "+5", "0x5", "5, 6", "99999999999999999999", "5 5", "1e3", "\xb2"):
        await _not_taken(ground, ground.head("POST", _CHAT, {"Content-Length": value}), b"{}")
    doubled = ground.head("POST", _CHAT, {"Content-Length": "2"}) + b"Content-Length: 9\r\n"
    await _not_taken(ground, doubled, b"{}")


async def smuggling(ground: Ground) -> None:
    hidden = ground.head("GET", "/v1/models") + b"\r\n"
    for line in ("chunked", "xchunked", "chunked, identity", "identity", "chunked\x0b"):
        head = ground.head("POST", _CHAT, {"Content-Length": "4", "Transfer-Encoding": line})
        connection = await ground.connected()
        await connection.send(head + b"\r\n0\r\n\r\n" + hidden)
        first, second = await connection.answer(20), None
        if first is not None and not connection.ended:
            second = await connection.answer(5) if not await connection.wait_ended(0.2) else None
        connection.close()
        if second is not None and second.status == 200:
            raise Broken(f"answered a request hidden behind Transfer-Encoding: {line}")


async def chunk_sizes(ground: Ground) -> None:
    for size in (b"ffffffffffffffff1", b"-1", b"0x5", b"g", b"7fffffffffffffff"):
        head = ground.head("POST", _CHAT, {"Transfer-Encoding": "chunked"})
        connection = await ground.connected()
        await connection.send(head + b"\r\n" + size + b"\r\n{}")
        connection.half_close()
        answer = await connection.answer(20)
        connection.close()
        if answer is not None and not 400 <= answer.status < 500:
            raise Broken(f"answered {answer.status} to a chunk of {size!r} bytes")


async def header_bytes(ground: Ground) -> None:
    for line in (b"bad name: 1", b"x\x00y: 1", b": 1", b"x: a\x00b", b" folded: 1", b"x(y): 1", b"x: \x01"):
        await _not_taken(ground, ground.head("GET", "/v1/models", keyed=False) + line + b"\r\n")


async def hosts(ground: Ground) -> None:
    begin = b"GET /healthz HTTP/1.1\r\n"
    for lines in (
        b"",
        b"Host: a\r\nHost: b\r\n",
        b"Host: a b\r\n",
        b"Host: a/b\r\n",
        b"Host: \r\n",
        b"Host: [::1\r\n",
    ):
        answer = await ground.raw(begin + lines + b"\r\n", 20)
        if answer is not None and answer.status not in (400, 421):
            raise Broken(f"answered {answer.status} to {lines!r}")


async def foreign_origins(ground: Ground) -> None:
    body = ground.chat()
    for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example"):
        plain = {"Origin": origin, "Content-Type": "text/plain"}
        await ground.refused("POST", _CHAT, body, 403, headers=plain)
    await ground.refused(
        "POST", _CHAT, body, 403, headers={"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    )


async def methods(ground: Ground) -> None:
    for method in ("TRACE", "CONNECT", "PROPFIND", "PATCH", "OPTIONS", "HEAD", "PURGE", "M-SEARCH"):
        answer = await ground.raw(ground.head(method, "/v1/models", {"Connection": "close"}) + b"\r\n", 20)
        if answer is not None and answer.status >= 500:
            raise Broken(f"answered {answer.status} to {method}")


async def paths(ground: Ground) -> None:
    for path in (
        "//v1//models", "/v1/../../etc/passwd", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/v1/models/%00",
        "/v1/files/%ff%fe", "http://evil.example/v1/models", "/v1/models/" + "a" * 4000, "/v1/models/..%5c..%5c",
        "/v1/files/file-0'%20OR%201=1--", "/v1/chat/completions/%0d%0ax-injected:%201", "*",
    ):  # fmt: skip
        answer = await ground.raw(ground.head("GET", path, {"Connection": "close"}) + b"\r\n", 20)
        if answer is not None and (
            answer.status >= 500 or b"root:" in answer.body or "x-injected" in answer.headers
        ):
            raise Broken(f"answered {answer.status} to {path[:60]}: {answer.body[:80]!r}")


async def queries(ground: Ground) -> None:
    many = "&".join(f"p{number}={number}" for number in range(4000))
    for query in (
        many,
        "limit=1e999",
        "limit=-1",
        "limit=99999999999999999999",
        "after=%27%22%00",
        "order=desc&order=asc",
    ):
        await ground.civil("GET", f"/v1/files?{query}"[:60_000])


async def wrong_keys(ground: Ground) -> None:
    while not ground.over():
        key = f"dw-{secrets.token_urlsafe(32)}"
        await ground.refused(
            "GET", "/v1/models", None, 401, headers={"Authorization": f"Bearer {key}"}, keyed=False
        )


async def odd_keys(ground: Ground) -> None:
    for value in (
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer " + "k" * 7000,
        f"Bearer\t{ground.key}x",
        "Bearer \xff\xfe",
        f"{ground.key}",
    ):
        await ground.refused(
            "GET", "/v1/models", None, 400, 401, 431, headers={"Authorization": value}, keyed=False
        )
    both = {"Authorization": "Bearer dw-wrong", "X-Api-Key": ground.key}
    await ground.refused("GET", "/v1/models", None, 401, headers=both, keyed=False)


async def compressed_bodies(ground: Ground) -> None:
    bomb = gzip.compress(bytes(8 << 20))
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
        await ground.refused("POST", _CHAT, bomb, headers={"Content-Encoding": encoding})


def _form(boundary: str, *parts: bytes) -> bytes:
    mark = f"--{boundary}".encode()
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


async def forms(ground: Ground) -> None:
    purpose = b'Content-Disposition: form-data; name="purpose"\r\n\r\nuser_data'
    file = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nx'
    bodies = (
        ("b", _form("b", *[purpose] * 5000)),
        ("b", _form("b", purpose, file, file)),
        ("b", _form("b", b"X-Pad: " + b"p" * 100_000 + b"\r\n\r\nx")),
        ("b", _form("b", b"".join(b"h%05d: 1\r\n" % number for number in range(5000)) + b"\r\nx")),
        ("b" * 3000, _form("b" * 3000, purpose, file)),
        ("b", b"--b\r\n" + purpose),
        (
            "b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
            + b"n" * 5000
            + b'"\r\n\r\nx\r\n--b--\r\n',
        ),
    )
    for boundary, body in bodies:
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        await ground.refused("POST", "/v1/files", body, headers=kind)


async def continues(ground: Ground) -> None:
    connection = await ground.connected()
    await connection.send(
        ground.head("POST", _CHAT, {"Expect": "100-continue", "Content-Length": "9000000000"}) + b"\r\n"
    )
    answer = await connection.answer(20)
    connection.close()
    if answer is not None and answer.status != 413:
        raise Broken(f"answered {answer.status} to a body of 9 GB that was announced")


async def upgrades(ground: Ground) -> None:
    lines = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "websocket, h2c",
        "HTTP2-Settings": "AAMAAABk",
    }
    connection = await ground.connected()
    await connection.send(ground.head("GET", "/v1/models", lines) + b"\r\n" + os.urandom(512))
    answer = await connection.answer(20)
    connection.close()
    if answer is not None and answer.status == 101:
        raise Broken("switched protocols")


async def documents(ground: Ground) -> None:
    while not ground.over():
        await ground.civil("GET", "/openapi.json")


async def scrapes(ground: Ground) -> None:
    while not ground.over():
        await ground.refused("GET", "/metrics", None, 401, 403)


async def connections_a_second(ground: Ground) -> None:
    async def one(_number: int) -> None:
        await ground.civil("GET", "/healthz", keyed=False)

    while not ground.over():
        await ground.together(16, one)
        await asyncio.sleep(0)


_REFUSED = "each is refused (4xx) or its connection ended"
_SPECIFIED = (
    (
        "content_lengths",
        "sends doubled, signed, hexadecimal and vast Content-Lengths",
        _REFUSED,
        content_lengths,
    ),
    (
        "smuggling",
        "hides a request behind Content-Length and Transfer-Encoding",
        "it is never answered",
        smuggling,
    ),
    ("chunk_sizes", "sends negative, vast and malformed sizes of chunks", _REFUSED, chunk_sizes),
    ("header_bytes", "sends headers with zero bytes, spaces and folds", _REFUSED, header_bytes),
    ("hosts", "sends no Host, two, and malformed ones", "400", hosts),
    ("foreign_origins", "posts as a page of another site would", "403", foreign_origins),
    ("methods", "sends methods that no route has", "no 5xx", methods),
    ("paths", "sends paths that climb, inject and overflow", "nothing outside the API is answered", paths),
    ("queries", "sends 4,000 parameters, and numbers without bounds", "no 5xx", queries),
    ("wrong_keys", "guesses keys", "401", wrong_keys),
    ("odd_keys", "sends keys in wrong schemes, sizes and pairs", "401", odd_keys),
    (
        "compressed_bodies",
        "sends bodies that unpack to 8 MB of nothing",
        "refused and never unpacked",
        compressed_bodies,
    ),
    ("forms", "sends forms of 5,000 parts, endless headers and long boundaries", _REFUSED, forms),
    ("continues", "announces 9 GB and waits for 100 Continue", "413", continues),
    ("upgrades", "asks for WebSocket and HTTP/2", "no 101", upgrades),
    ("documents", "reads the API document again and again", "served", documents),
    ("scrapes", "reads the metrics without the scope", "403", scrapes),
    ("connections_a_second", "opens and closes connections 16 at a time", "served", connections_a_second),
)
ATTACKS = tuple(Attack(name, _KIND, what, holds, run) for name, what, holds, run in _SPECIFIED)
