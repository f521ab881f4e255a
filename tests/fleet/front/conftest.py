"""Fronts that really run, before replicas that say what came to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.needs import HAPROXY, require
from tests.parallel import free_port
from tests.waiting import until_async

from deepwell.fleet.front.front import Front, HaproxyFront
from deepwell.fleet.front.haproxy import HaproxyTerms
from deepwell.fleet.front.own import OwnFront
from deepwell.fleet.front.routes import SLOTS, Routes, Slot
from deepwell.process.programs import Programs

FRONTS = ("haproxy", "own")


class Replica:
    """A server that answers with its name and the request that it got; `script` says what it does instead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.script: Callable[[asyncio.StreamWriter], Any] | None = None
        self.ready = True
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Ends as a process that is killed: its connections are reset."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                pairs = [line.partition(": ") for line in lines if line]
                headers = {name.lower(): value for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                path = first.split()[1]
                if path == "/readyz":
                    status = "200 OK" if self.ready else "503 Service Unavailable"
                    writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
                    continue
                self.requests.append((path, headers))
                if self.script is not None:
                    await self.script(writer)
                    return
                said = json.dumps(
                    {"name": self.name, "headers": headers, "body": body.decode("latin-1")}
                ).encode()
                start = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(said)}\r\n\r\n"
                writer.write(start.encode() + said)
        self._writers.discard(writer)
        writer.close()


class Running:
    """A front and its replicas, two in each slot."""

    def __init__(self, front: Front, replicas: dict[Slot, list[Replica]], port: int) -> None:
        self.front, self.replicas = front, replicas
        self.port = port
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)

    async def ask(
        self, body: Any = None, path: str = "/v1/chat/completions", **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, json=body, headers=named)

    async def slot_of(self, body: Any = None, path: str = "/v1/chat/completions", **headers: str) -> str:
        """Returns the slot whose replica answers, which the header names too."""
        answer = await self.ask(body, path, **headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["name"]).rstrip("01")


@pytest.fixture(params=FRONTS)
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    if request.param == "haproxy":
        require(HAPROXY)
    replicas: dict[Slot, list[Replica]] = {
        slot: [Replica(f"{slot}{number}") for number in range(2)] for slot in SLOTS
    }
    port = free_port()
    routes = Routes({"blue": "prod#1", "green": "prod#2"})
    ports: dict[Slot, list[int]] = {slot: [one.port for one in replicas[slot]] for slot in SLOTS}
    made_by = HaproxyFront if request.param == "haproxy" else OwnFront
    # Characters that mean something to haproxy, in its configuration and on its socket
    folder = tmp_path / "a b,c(d)#;'$"
    front: Front = made_by(HaproxyTerms(folder, "127.0.0.1", port), ports, routes)
    lines: list[str] = []
    programs = Programs((front.program,), lambda _, text: lines.append(text), lambda _: None)
    for slot in SLOTS:
        for number, one in enumerate(replicas[slot]):
            await one.start()
            await front.set_state(slot, number, "ready")
    task = asyncio.create_task(programs.run())
    made = Running(front, replicas, port)

    async def up() -> bool:
        if task.done():
            raise AssertionError(f"the front ended: {lines}")
        with contextlib.suppress(httpx.HTTPError):
            return (await made.ask({}, x_deepwell_release="current")).status_code == 200
        return False

    try:
        await until_async(up)
        yield made
    finally:
        await made.http.aclose()
        programs.stop()
        programs.kill()
        await task
        for slot in SLOTS:
            for one in replicas[slot]:
                await one.stop()
