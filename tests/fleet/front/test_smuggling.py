"""Fronts before a real server: no framing hides a request from them, and no header from outside speaks for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.fleet.front.conftest import FRONTS, Replica, Running
from tests.fleet.front.test_conformance import canary
from tests.needs import ENVOY, HAPROXY, OPENSSL, require
from tests.parallel import free_port
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.test_connection import FRAMINGS
from tests.waiting import until_async

from deepwell.fleet.deploy.certificates import Authority
from deepwell.fleet.deploy.mesh import Edge, Endpoint, Sidecar, Traffic, write_edge, write_sidecar
from deepwell.fleet.front.front import Front, HaproxyFront
from deepwell.fleet.front.haproxy import HaproxyTerms
from deepwell.fleet.front.own import OwnFront
from deepwell.fleet.front.routes import Routes
from deepwell.process.programs import Program, Programs


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A real server, as the replica behind a front."""
    engine, codec = FakeEngine(), make_codec(tmp_path_factory.mktemp("tokenizer"))
    live = start(make_service(engine, codec, model="toy"), engine)
    yield live
    live.stop()


async def in_front(kind: str, folder: Path, port: int, replica: int) -> tuple[list[Program], object]:
    """Returns the programs of a front before one replica, and what keeps their files: haproxy, our own, or a mesh."""
    if kind != "envoy":
        routes = Routes({"blue": "prod#1"}, current="blue")
        made_by = HaproxyFront if kind == "haproxy" else OwnFront
        terms = HaproxyTerms(folder, "127.0.0.1", port)
        front: Front = made_by(terms, {"blue": [replica], "green": []}, routes)
        await front.set_state("blue", 0, "ready")
        return [front.program], front
    authority, place = Authority(folder / "ca"), Endpoint("127.0.0.1", free_port())
    edge = Edge(Endpoint("127.0.0.1", port), authority.identity("edge"), folder / "edge.sock")
    sidecar = Sidecar(place, replica, authority.identity("current"), folder / "sidecar.sock")
    files = (
        write_edge(edge, Traffic({"current": [place]}), folder / "edge"),
        write_sidecar(sidecar, folder / "sidecar.json"),
    )
    made = [
        Program(
            f"envoy{number}",
            ("envoy", "-c", str(file), "--base-id", str(port + number), "-l", "error"),
            dict(os.environ),
            folder,
            (one.host, one.port),
        )
        for number, (file, one) in enumerate(zip(files, (edge.listen, place), strict=True))
    ]
    return made, authority


@asynccontextmanager
async def opened(kind: str, folder: Path, port: int, replica: int) -> AsyncGenerator[None]:
    """Runs a front, as soon as it passes requests on."""
    for need in {"haproxy": (HAPROXY,), "envoy": (ENVOY, OPENSSL)}.get(kind, ()):
        require(need)
    made, kept = await in_front(kind, folder, port, replica)
    programs = Programs(made, lambda _name, _text: None, lambda _: None)
    task = asyncio.create_task(programs.run())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:

        async def up() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return (await http.get("/readyz")).status_code == 200
            return False

        await until_async(up)
    yield
    programs.stop()
    programs.kill()
    await task
    del kept


@pytest.fixture(params=(*FRONTS, "envoy"))
async def fronted(request: pytest.FixtureRequest, tmp_path: Path, behind: Live) -> AsyncIterator[int]:
    """Returns the port of a front whose one replica is the real server."""
    port = free_port()
    async with opened(request.param, tmp_path, port, urlsplit(behind.url).port or 0):
        yield port


async def raw(port: int, data: bytes, seconds: float = 20.0) -> bytes:
    """Sends bytes and returns what comes until the other side closes, or has said nothing for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    said = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while piece := await reader.read(65536):
                said += piece
    writer.close()
    return said


def hidden(live: Live) -> float:
    """Returns how often the server answered the request that is hidden in bodies."""
    return sum(
        sample.value
        for family in live.service.metrics.requests.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["route"] == "/version"
    )


INSIDE = b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def test_no_framing_smuggles_a_request_past_a_front(fronted: int, behind: Live) -> None:
    """The body ends the connection, so that whatever is answered for `/version` was hidden in it."""
    line = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    body, before = b"0\r\n\r\n" + INSIDE, hidden(behind)
    for framing, _ in FRAMINGS:
        head = framing.replace(b"%d", b"%d" % len(body))
        said = await raw(fronted, line + b"Connection: close\r\n" + head + b"\r\n\r\n" + body)
        assert said.count(b"HTTP/1.1 ") <= 1 and hidden(behind) == before, (framing, said)


SPELLINGS = [
    b"x-deepwell-release: candidate\r\nx-deepwell-release: current",
    b"x-deepwell-release: current\r\nX-DEEPWELL-RELEASE: candidate",
    b"X-Deepwell-Tenant: root\r\nx-deepwell-user: root\r\nx-deepwell-: y",
    b"x-deepwell-release : candidate",
    b"x-deepwell-release\t: candidate",
    b"x-deepwell-release:\tcandidate\r\n x-deepwell-tenant: root",
    b"x-other: 1\r\n\tx-deepwell-tenant: root",
    b"x-other: 1\nx-deepwell-tenant: root",
    b"x-other: 1\rx-deepwell-tenant: root",
    b"connection: x-deepwell-release",
    b"connection: close, x-deepwell-release\r\nx-deepwell-release: candidate",
    b"te: trailers\r\nx-deepwell-release: prod#9",
    b"x-deepwell-release: prod#2\r\nx-deepwell-release:",
    b"\x00x-deepwell-tenant: root",
    b" x-deepwell-tenant: root",
]


async def spelled(port: int, replicas: Sequence[Replica]) -> None:
    """Checks what replicas see of every spelling: one release, which the front chose."""
    body = json.dumps({"model": "prod", "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    for lines in SPELLINGS:
        for one in replicas:
            one.requests.clear()
        closing = b"" if b"connection" in lines else b"connection: close\r\n"
        tail = b"\r\ncontent-length: %d\r\n" % len(body) + closing + b"\r\n" + body
        said = await raw(port, head + lines + tail, 2.0 if b"connection: x" in lines else 20.0)
        requests = [headers for one in replicas for path, headers in one.requests if path.startswith("/v1/")]
        assert len(requests) <= 1
        for headers in requests:
            named = {name: value for name, value in headers.items() if "deepwell" in name}
            assert list(named) == ["x-deepwell-release"], (lines, named)
            assert named["x-deepwell-release"] in ("prod#1", "prod#2", "current", "candidate"), (lines, named)
            if named["x-deepwell-release"] in ("prod#2", "candidate"):
                assert b"candidate" in lines, "a preview is asked for by its one word alone"
        if not requests:
            assert said.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), (lines, said)


async def test_no_spelling_of_a_header_from_outside_reaches_a_replica(running: Running) -> None:
    await running.front.route(canary(0.0))
    await spelled(running.port, [one for slot in running.replicas.values() for one in slot])


async def test_no_spelling_of_a_header_from_outside_passes_a_mesh(tmp_path: Path) -> None:
    replica, port = Replica("blue0"), free_port()
    await replica.start()
    async with opened("envoy", tmp_path, port, replica.port):
        await spelled(port, [replica])
    await replica.stop()


async def test_trailers_and_chunk_extensions_carry_nothing_past_a_front(fronted: int, behind: Live) -> None:
    line = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    before = hidden(behind)
    for chunks in (
        b"2;a=b\nGET /version HTTP/1.1\r\n{}\r\n0\r\n\r\n",
        b"0\r\nx-deepwell-release: candidate\r\nContent-Length: 5\r\n\r\n" + INSIDE,
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + INSIDE,
        b"0x2\r\n{}\r\n0\r\n\r\n" + INSIDE,
        b"-2\r\n{}\r\n0\r\n\r\n" + INSIDE,
        b"2 \r\n{}\r\n0\r\n\r\n" + INSIDE,
        b"1" * 40 + b"\r\n{}\r\n0\r\n\r\n" + INSIDE,
        b"2\n{}\n0\n\n" + INSIDE,
        b"2\r\n{}GET\r\n0\r\n\r\n" + INSIDE,
    ):
        said = await raw(fronted, line + b"\r\n" + chunks)
        assert said.count(b"HTTP/1.1 ") <= 1 and hidden(behind) == before, (chunks, said)
