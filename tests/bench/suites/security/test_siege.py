"""The siege itself: its attacks are complete, its attacker reads answers as they are, its figures count what happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from deepwell_bench.suites.security.besieged import Seen
from deepwell_bench.suites.security.siege import FIVE, groups_of, p99
from deepwell_bench.suites.security.tenants import paths_with_ids
from deepwell_bench.workers.attacker import Attacker
from deepwell_bench.workloads.attacks import ATTACKS, FLOODS, Attack, Broken, Ground, Pace
from deepwell_bench.workloads.attacks.objects import FOREIGN


def test_each_attack_says_what_it_does_and_what_must_hold() -> None:
    assert len(ATTACKS) > 100
    for attack in (*ATTACKS.values(), *FLOODS.values()):
        assert attack.what and attack.holds and attack.name.replace("_", "").isalnum()
    assert not set(ATTACKS) & set(FLOODS)


def test_five_at_once_are_of_different_kinds_and_none_is_left_out() -> None:
    groups = groups_of(list(ATTACKS.values()))
    assert sorted(name for group in groups for name in group) == sorted(ATTACKS)
    assert all(len(group) == FIVE for group in groups[:-1])
    assert len({ATTACKS[name].kind for name in groups[0]}) == FIVE


def test_the_first_token_that_never_came_counts_until_the_end() -> None:
    assert Seen(1.0, 1.5, 9.0, "").first_ms() == pytest.approx(500)
    assert Seen(1.0, 0.0, 9.0, "503").first_ms() == pytest.approx(8000)
    assert p99([Seen(0, number / 1000, 1, "") for number in range(1, 101)]) == pytest.approx(99)


def test_operations_that_name_an_object_are_found() -> None:
    document = {
        "paths": {
            "/v1/files": {"get": {}},
            "/v1/files/{file_id}": {"get": {}, "delete": {}},
            "/v1/models/{id}": {"get": {}},
        }
    }
    assert sorted(paths_with_ids(document)) == [
        ("DELETE", "/v1/files/{file_id}"),
        ("GET", "/v1/files/{file_id}"),
    ]
    assert len({(method, path) for method, path, _ in FOREIGN}) == len(FOREIGN)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def ground_of(serve: Serve) -> AsyncIterator[Ground]:
    """A ground on which `serve` is the server."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ground = Ground(port, "key", "model", {}, (), time.monotonic() + 60, Pace(8.0))
    try:
        yield ground
    finally:
        ground.leave()
        server.close()


def saying(data: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()

    return serve


@pytest.mark.parametrize(
    ("said", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n", 413, b""),
        (
            b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            400,
            b"abc",
        ),
        (b"HTTP/1.0 404 Not Found\r\n\r\nuntil the end", 404, b"until the end"),
    ],
)
async def test_answers_are_read_whole(said: bytes, status: int, body: bytes) -> None:
    async with ground_of(saying(said)) as ground:
        answer = await ground.civil("GET", "/")
        assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_no_server_may_do_breaks_an_attack(said: bytes) -> None:
    async with ground_of(saying(said)) as ground:
        with pytest.raises(Broken):
            await ground.civil("GET", "/")


async def test_an_attack_that_must_be_refused_breaks_where_it_is_answered() -> None:
    async with ground_of(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as ground:
        with pytest.raises(Broken, match="not a refusal"):
            await ground.refused("GET", "/")


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass
    writer.close()


async def test_a_server_that_reads_a_head_without_end_is_named() -> None:
    async with ground_of(endless) as ground:
        with pytest.raises(Broken, match="asks for more"):
            await ATTACKS["header_lines"].run(ground)


async def test_a_server_that_ends_such_a_connection_is_not() -> None:
    async def strict(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.transport.abort()

    async with ground_of(strict) as ground:
        for name in ("header_lines", "header_without_end", "trailer_lines", "request_target"):
            await ATTACKS[name].run(ground)


def test_the_attacker_names_what_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(_ground: Ground) -> None:
        raise Broken("it took everything")

    async def holds(_ground: Ground) -> None:
        await asyncio.sleep(0)

    for name, run in (("breaks", breaks), ("holds", holds)):
        monkeypatch.setitem(ATTACKS, name, Attack(name, "kind", "what", "holds", run))
    attacker = Attacker()
    attacker.open(port=1, key="", model="", theirs={}, adapters=[])
    done = attacker.attack(["breaks", "holds"], 0.0)
    assert done["broken"] == {"breaks": "it took everything"}
