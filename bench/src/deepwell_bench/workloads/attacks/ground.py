"""The ground that an attack stands on: raw connections to one server, two tenants, and a bound on the attacker's own CPU."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Answer", "Attack", "Broken", "Connection", "Ground", "Load", "Pace"]

Load = Literal["light", "heavy"]
_PATIENCE_S = 90.0  # for one answer; a machine with much to do is late
_CHUNK_BYTES = 64 << 10
_BANKED_S = 0.25  # CPU seconds that a quiet attacker may use later at once


class Broken(Exception):
    """Raised by an attack for which the server did not do what must hold."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. `run` is called again and again until its time is over; it raises `Broken` where `holds` does not.

    Attributes:
        name: a word for tables and for `--only`.
        kind: the group that it is listed under.
        what: what it does.
        holds: what must hold, besides that no process dies and nobody else is hurt.
        run: does it once, or until `Ground.over`.
        beside: the harmless load that the victim's latency is compared with.
    """

    name: str
    kind: str
    what: str
    holds: str
    run: Callable[[Ground], Awaitable[None]]
    beside: Load = "light"


class Pace:
    """Keeps this process's CPU time to a share of one core: whoever awaits it sleeps until the share is kept."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._began = time.monotonic() - _BANKED_S / share
        self._spent = time.process_time()

    async def __call__(self) -> None:
        while True:
            now = time.monotonic()
            ahead_s = (time.process_time() - self._spent) / self._share - (now - self._began)
            if ahead_s <= 0:
                # What was not used is not saved up for a burst.
                self._began = max(
                    self._began, now - (time.process_time() - self._spent + _BANKED_S) / self._share
                )
                await asyncio.sleep(0)
                return
            await asyncio.sleep(min(ahead_s, 1.0))


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Returns the body as JSON.

        Raises:
            Broken: it is none.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise Broken(f"answered {self.status} with a body that is no JSON: {self.body[:80]!r}") from None


class Connection:
    """One TCP connection, on which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: Pace) -> None:
        self._reader = reader
        self._writer = writer
        self._pace = pace

    @property
    def ended(self) -> bool:
        """True once the server has closed or reset the connection."""
        return self._reader.at_eof() or self._reader.exception() is not None or self._writer.is_closing()

    async def send(self, data: bytes) -> bool:
        """Sends bytes at the attacker's pace. Returns False once the server takes no more, or ends the connection."""
        try:
            for start in range(0, len(data), _CHUNK_BYTES):
                if self.ended:
                    return False
                self._writer.write(data[start : start + _CHUNK_BYTES])
                async with asyncio.timeout(_PATIENCE_S):
                    await self._writer.drain()
                await self._pace()
        except (OSError, TimeoutError):
            return False
        return True

    async def answer(self, patience_s: float = _PATIENCE_S) -> Answer | None:
        """Reads one answer with its whole body. None if the connection ends before an answer does.

        Raises:
            Broken: nothing comes for `patience_s`, or what comes is no HTTP.
        """
        try:
            async with asyncio.timeout(patience_s):
                return await self._answer()
        except TimeoutError:
            raise Broken(f"no answer within {patience_s:g} s") from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None

    async def _answer(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        try:
            status = int(head[0].split(" ", 2)[1])
        except (IndexError, ValueError):
            raise Broken(f"answered no HTTP: {head[0][:80]!r}") from None
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:])
        }
        if status < 200:  # 100 Continue
            return await self._answer()
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b"".join([part async for part in self._chunks()])
        elif "content-length" in headers:
            body = await self._reader.readexactly(int(headers["content-length"]))
        else:
            body = b"" if status in (204, 304) else await self._reader.read()
        return Answer(status, headers, body)

    async def _chunks(self) -> AsyncGenerator[bytes]:
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readuntil(b"\r\n")

    async def first_bytes(self, count: int = 1, patience_s: float = _PATIENCE_S) -> bytes:
        """Reads at least one byte of what comes, at most `count`; none if the connection ends or nothing comes."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(patience_s):
                return await self._reader.read(count)
        return b""

    async def wait_ended(self, patience_s: float) -> bool:
        """Reads and drops what comes until the server ends the connection. Returns False if it does not in time."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(patience_s):
                while await self._reader.read(_CHUNK_BYTES):
                    pass
                return True
        return self.ended

    def half_close(self) -> None:
        """Ends the client's direction."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def reset(self) -> None:
        """Ends the connection by a reset, as a client that crashes does."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Ends the connection."""
        self._writer.close()


@dataclass(slots=True)
class Ground:
    """The means of an attack: a server, a tenant's key, and time.

    Attributes:
        port: of the server, on 127.0.0.1.
        key: the attacker's; it has the scopes inference, files and adapters.
        model: name of the served model.
        theirs: ids of objects of the other tenant, by kind, such as "file".
        adapters: names of folders in the server's adapter directory.
        until: monotonic seconds at which the attack ends.
        pace: of the whole process.
    """

    port: int
    key: str
    model: str
    theirs: Mapping[str, str]
    adapters: tuple[str, ...]
    until: float
    pace: Pace
    _open: list[Connection] = field(default_factory=list[Connection])

    def over(self) -> bool:
        """Returns whether the attack's time has passed."""
        return time.monotonic() >= self.until

    async def connect(self) -> Connection | None:
        """Opens a connection; None where the server takes none. All are closed when the attack ends."""
        await self.pace()
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except (OSError, TimeoutError):
            return None
        # What is sent is then soon read or refused, and not in a buffer of ours.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK_BYTES)
        connection = Connection(reader, writer, self.pace)
        self._open.append(connection)
        return connection

    async def connected(self) -> Connection:
        """Opens a connection.

        Raises:
            Broken: the server takes none.
        """
        connection = await self.connect()
        if connection is None:
            raise Broken("the server takes no connection")
        return connection

    def head(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, *, keyed: bool = True
    ) -> bytes:
        """Returns the head of a request without its last line, so that more can follow."""
        lines = {"Host": f"127.0.0.1:{self.port}"} | (
            {"Authorization": f"Bearer {self.key}"} if keyed else {}
        )
        lines |= headers or {}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {path} HTTP/1.1\r\n{text}".encode("latin-1")

    async def raw(self, data: bytes, patience_s: float = _PATIENCE_S) -> Answer | None:
        """Sends bytes on a connection of their own, and returns the answer; None if there is none."""
        connection = await self.connected()
        try:
            await connection.send(data)
            return await connection.answer(patience_s)
        finally:
            connection.close()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | object = None,
        headers: Mapping[str, str] | None = None,
        *,
        keyed: bool = True,
    ) -> Answer | None:
        """Sends one request and returns its answer; None if the connection ends without one. `body`: bytes, or JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
        if method in ("GET", "DELETE") and not data:
            lines = {"Connection": "close"}
        return await self.raw(
            self.head(method, path, lines | dict(headers or {}), keyed=keyed) + b"\r\n" + data
        )

    async def civil(self, method: str, path: str, body: bytes | object = None, **more: Any) -> Answer:
        """Sends one request and returns its answer, which must be one that the API knows: no 500, no cut connection.

        Raises:
            Broken: it is none.
        """
        answer = await self.request(method, path, body, **more)
        if answer is None:
            raise Broken(f"{method} {path[:60]}: cut without an answer")
        if answer.status == 500 or answer.status > 507:
            raise Broken(f"{method} {path[:60]}: answered {answer.status}: {answer.body[:120]!r}")
        return answer

    async def refused(
        self, method: str, path: str, body: bytes | object = None, *statuses: int, **more: Any
    ) -> Answer:
        """Sends one request, which must be refused: with one of `statuses`, or any from 400 to 499 where none is given.

        Raises:
            Broken: it is not.
        """
        answer = await self.civil(method, path, body, **more)
        if answer.status not in (statuses or range(400, 500)):
            raise Broken(
                f"{method} {path[:60]}: answered {answer.status}, which is not a refusal: {answer.body[:120]!r}"
            )
        return answer

    def chat(self, text: str = "Why is the sky blue?", **more: Any) -> dict[str, Any]:
        """Returns the body of a chat request."""
        return {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 8} | more

    async def together(self, count: int, run: Callable[[int], Awaitable[object]]) -> None:
        """Runs `run(0)` to `run(count - 1)` at the same time; the first that is broken breaks all."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(_as_coroutine(run(number)))

    async def wait(self) -> None:
        """Waits until the attack's time has passed."""
        while not self.over():
            await asyncio.sleep(min(0.1, max(0.001, self.until - time.monotonic())))

    def leave(self) -> None:
        """Closes all connections."""
        for connection in self._open:
            connection.close()
        self._open.clear()


async def _as_coroutine(work: Awaitable[object]) -> None:
    await work
