"""The process of our own front: `python -m deepwell.fleet.front.proxy CONFIG SOCKET`.

HTTP/1.1 on both sides. It does what the configuration of haproxy does, slower, and one thing more: an event stream whose
replica is gone ends with an error event.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import h11

from deepwell.fleet.front.balance import Balancer, Server
from deepwell.fleet.front.haproxy import BODY_BYTES, error_body
from deepwell.fleet.front.own import routes_from
from deepwell.fleet.front.routes import (
    GENERATING,
    RELEASE_HEADER,
    SLOTS,
    Asked,
    Routes,
    Slot,
    asked_by,
    choose,
)
from deepwell.fleet.front.runtime import ServerStat

__all__ = ["main"]

_CONNECT_S: Final = 5.0
_PATIENCE_S: Final = 20.0  # with a check
_CHECK_S, _CHECK_DOWN_S = 1.0, 0.2
_REQUEST_S: Final = 30.0
_IDLE_S: Final = 75.0
_MOST_HEAD: Final = 65_536
_READ_BYTES: Final = 65_536
_TALKS: Final = 200_000
_TALK_S: Final = 1800.0
_HOP_BY_HOP: Final = (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer")
_BROKEN: Final = b"data: " + error_body(502).encode() + b"\n\n"


class _Broken(Exception):
    """Raised when a replica does not answer as it should. `began`: a part of the answer has left."""

    def __init__(self, *, began: bool) -> None:
        self.began = began


class Front:
    """The state of the process."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._talks: OrderedDict[bytes, tuple[Slot, float]] = OrderedDict()
        self._servers: dict[str, Server] = {}
        self.active = self.connections = 0
        self.told: dict[str, Any] = {}
        self.routes = Routes({})
        self.balancers: dict[Slot, Balancer] = {}
        self.reload()

    def reload(self) -> None:
        """Reads the file again. Figures and states of replicas go on."""
        self.told = json.loads(self._config.read_text(encoding="utf-8"))
        self.routes = routes_from(self.told["routes"])
        for slot in SLOTS:
            servers: list[Server] = []
            for one in self.told["servers"][slot]:
                server = self._servers.setdefault(one["name"], Server(one["name"], one["port"]))
                server.state = one["state"]
                servers.append(server)
            if slot not in self.balancers:
                self.balancers[slot] = Balancer(servers, by_prefix=self.told["routing"] == "prefix")

    def slot_of(self, asked: Asked) -> Slot:
        """Returns the slot for a request, and remembers that of its conversation."""
        if not asked.conversation or asked.preview in ("candidate", "current"):
            return choose(self.routes, asked, None)
        now = time.monotonic()
        key = hashlib.sha256(asked.conversation.encode("utf-8", "surrogatepass")).digest()
        kept, until = self._talks.pop(key, (None, 0.0))
        slot = choose(self.routes, asked, kept if now < until else None)
        self._talks[key] = slot, now + _TALK_S
        if len(self._talks) > _TALKS:
            self._talks.popitem(last=False)
        return slot

    def stat(self) -> list[dict[str, Any]]:
        """Returns the figures of replicas and slots."""
        found: list[ServerStat] = []
        for slot, balancer in self.balancers.items():
            rows = [
                ServerStat(slot, one.name, one.open_requests, 0, _status(one), one.answers, one.failed)
                for one in balancer.servers
            ]
            sums = [
                sum(values)
                for values in zip(
                    *((one.open_requests, one.answers, one.failed) for one in rows), strict=True
                )
            ]
            found += [*rows, ServerStat(slot, "BACKEND", sums[0], 0, "UP", sums[1], sums[2])]
        return [asdict(one) for one in found]

    async def check_often(self) -> None:
        """Looks whether replicas are ready: all each second, those that are not more often."""
        while True:
            await asyncio.sleep(_CHECK_DOWN_S)
            now = time.monotonic()
            due = [
                one
                for one in self._servers.values()
                if one.state != "maint" and now - one.checked >= (_CHECK_S if one.up else _CHECK_DOWN_S)
            ]
            await asyncio.gather(*(self._check(one) for one in due))

    async def _check(self, one: Server) -> None:
        one.checked = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
                try:
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                    one.up = (await reader.readline()).split(b" ")[1:2] == [b"200"]
                finally:
                    writer.close()
        except TimeoutError:
            pass  # one that is busy answers late; a dead one refuses
        except OSError:
            one.up = False


def _status(one: Server) -> str:
    if one.state == "ready":
        return "UP" if one.up else "DOWN"
    return one.state.upper()


class _Client(asyncio.StreamReaderProtocol):
    """The side of a client. Whoever leaves ends the work on its request."""

    def __init__(self, front: Front) -> None:
        self._reader_in = asyncio.StreamReader()
        super().__init__(self._reader_in, self._serve)
        self._front = front
        self._task: asyncio.Task[None] | None = None
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._front.connections >= self._front.told["most_connections"]:
            transport.close()  # as haproxy does beyond its queue; whoever has a connection keeps it
            return
        self._front.connections += 1
        self._counted = True
        super().connection_made(transport)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._task = asyncio.create_task(Exchange(self._front, reader, writer).run())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._counted:
            return
        self._front.connections -= 1
        super().connection_lost(exc)
        if self._task is not None:
            self._task.cancel()


class Exchange:
    """One connection of a client: its requests, one after the other."""

    def __init__(self, front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._front = front
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)

    async def run(self) -> None:
        """Answers requests until one side has enough."""
        try:
            while await self._one():
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._answer(
                    error.error_status_hint or 400, b'{"error": {"message": "no HTTP request"}}'
                )
        except (_Broken, ConnectionError, TimeoutError, h11.LocalProtocolError):
            pass
        finally:
            self._writer.transport.abort() if self._http.our_state is h11.SEND_BODY else self._writer.close()

    async def _one(self) -> bool:
        """Answers one request. Returns whether another may come."""
        async with asyncio.timeout(_IDLE_S):
            request = await self._event()
        if not isinstance(request, h11.Request):
            return False
        self._front.active += 1
        try:
            await self._forward(request)
        finally:
            self._front.active -= 1
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                told = h11.InformationalResponse(status_code=100, headers=[])
                self._writer.write(self._http.send(told) or b"")
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event

    async def _forward(self, request: h11.Request) -> None:
        body, whole = await self._body()
        headers = [(name, value) for name, value in request.headers if not name.startswith(b"x-deepwell-")]
        named = dict(request.headers)
        asked = _asked(self._front.routes, request, named, body)
        slot = self._front.slot_of(asked)
        release = self._front.routes.releases.get(slot, "none").encode()
        headers = [one for one in headers if one[0] not in _HOP_BY_HOP]
        if (
            b"transfer-encoding" in named
        ):  # h11 has taken the chunks apart; a length beside them is a smuggler's
            headers = [one for one in headers if one[0] != b"content-length"]
            headers.append((b"transfer-encoding", b"chunked"))
        headers.append((RELEASE_HEADER.encode(), release))
        sent = h11.Request(method=request.method, target=request.target, headers=headers)
        path = request.target.partition(b"?")[0].decode("latin-1")
        again = path.startswith(GENERATING) and whole
        tried: list[Server] = []
        while (server := self._front.balancers[slot].choose(asked.affinity, tried)) is not None:
            tried.append(server)
            server.open_requests += 1
            try:
                await self._upstream(server, sent, body, whole, release)
            except _Broken as broken:
                server.up = False
                if broken.began:
                    raise
                if self._connected and not again:
                    server.failed += 1
                    await self._answer(502, error_body(502).encode())
                    return
            else:
                return
            finally:
                server.open_requests -= 1
        status = 502 if tried and self._connected else 503
        await self._answer(status, error_body(status).encode())

    _connected = False

    async def _body(self) -> tuple[bytes, bool]:
        """Returns the body, or its beginning if it is long, and whether it is all."""
        body = b""
        async with asyncio.timeout(_REQUEST_S):
            while len(body) < BODY_BYTES:
                event = await self._event()
                if not isinstance(event, h11.Data):
                    return body, True
                body += event.data
        return body, False

    async def _upstream(
        self, server: Server, request: h11.Request, body: bytes, whole: bool, release: bytes
    ) -> None:
        """Sends a request to a replica and its answer to the client.

        Raises:
            _Broken: the replica cannot be reached, or ended before its answer did.
        """
        self._connected = False
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        except (OSError, TimeoutError):
            raise _Broken(began=False) from None
        self._connected = True
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)
        try:
            writer.write(http.send(request) or b"")
            writer.write(http.send(h11.Data(data=body)) or b"" if body else b"")
            while not whole:
                async with asyncio.timeout(_REQUEST_S):
                    event = await self._event()
                whole = not isinstance(event, h11.Data)
                if isinstance(event, h11.Data):
                    writer.write(http.send(event) or b"")
                    await writer.drain()
            writer.write(http.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            await self._answer_of(server, http, reader, release)
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            raise _Broken(began=self._http.our_state is not h11.SEND_RESPONSE) from None
        finally:
            writer.close()

    async def _answer_of(
        self, server: Server, http: h11.Connection, reader: asyncio.StreamReader, release: bytes
    ) -> None:
        """Passes an answer on as it comes."""

        async def event() -> Any:
            while (found := http.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout(self._front.told["answer_s"]):
                    data = await reader.read(_READ_BYTES)
                http.receive_data(data)
            return found

        begun = await event()
        while isinstance(begun, h11.InformationalResponse):
            begun = await event()
        if not isinstance(begun, h11.Response):
            raise _Broken(began=False)
        told_here = (*_HOP_BY_HOP, RELEASE_HEADER.encode())
        headers = [one for one in begun.headers if one[0] not in told_here]
        headers.append((RELEASE_HEADER.encode(), release))
        told = h11.Response(status_code=begun.status_code, headers=headers, reason=begun.reason)
        self._writer.write(self._http.send(told) or b"")
        server.answers += 1
        server.failed += begun.status_code >= 500
        streams = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
        )
        try:
            while isinstance(found := await event(), h11.Data):
                self._writer.write(self._http.send(found) or b"")
                await self._drained()
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            if not streams:
                raise
            server.up = False
            self._writer.write(self._http.send(h11.Data(data=_BROKEN)) or b"")
        self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
        await self._writer.drain()

    async def _drained(self) -> None:
        """Waits until the client has taken what was written. One that reads nothing for long is left."""
        try:
            async with asyncio.timeout(self._front.told["answer_s"]):
                await self._writer.drain()
        except TimeoutError:
            raise _Broken(began=True) from None

    async def _answer(self, status: int, body: bytes) -> None:
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        if self._http.their_state is not h11.DONE:
            headers.append(("connection", "close"))
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()


def _asked(routes: Routes, request: h11.Request, named: Mapping[bytes, bytes], body: bytes) -> Asked:
    told: Any = None
    if named.get(b"content-type", b"").lower().startswith(b"application/json"):
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(body)
    scheme, _, key = named.get(b"authorization", b"").partition(b" ")
    key = key.strip() if scheme.lower() == b"bearer" else named.get(b"x-api-key", b"")
    preview = named.get(RELEASE_HEADER.encode(), b"").decode("latin-1")
    return asked_by(request.target.decode("latin-1"), told, key, preview, routes.keys)


async def _control(front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Obeys one command: `reload` or `stat`."""
    command = (await reader.readline()).strip()
    if command == b"reload":
        front.reload()
    elif command == b"stat":
        writer.write(json.dumps(front.stat()).encode())
    else:
        writer.write(b"unknown")
    await writer.drain()
    writer.close()


async def _run(config: Path, socket: Path) -> None:
    front = Front(config)
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, ending.set)
    control = await asyncio.start_unix_server(lambda reader, writer: _control(front, reader, writer), socket)
    server = await loop.create_server(lambda: _Client(front), front.told["host"], front.told["port"])
    checking = asyncio.create_task(front.check_often())
    await ending.wait()
    server.close()
    while front.active:
        await asyncio.sleep(0.02)
    checking.cancel()
    control.close()


def main(config: str, socket: str) -> None:
    """Runs until SIGUSR1, and then until the last answer has ended. The folder of the socket is its owner's alone."""
    Path(socket).unlink(missing_ok=True)
    asyncio.run(_run(Path(config), Path(socket)))


if __name__ == "__main__":
    main(*sys.argv[1:])
