"""Conversations of many users against a deployment, in a process of its own: reads a task from stdin, prints one JSON object.

The task has `port`, `model`, `seconds`, and either `rate` (requests a second, sent when they are due) or `clients` (each asks
as soon as it has its answer). SIGTERM ends it earlier. Conversations have `turns` turns; each is another user's. `tokens`
bounds an answer, `words` lengthens what users say, `key` is an API key. It looks at bytes, not at JSON, because on two cores
its own work would slow the servers that it measures.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

_RELEASE = re.compile(rb"\r\nx-deepwell-release: ([^\r]*)\r\n", re.IGNORECASE)
_DONE = b"data: [DONE]"
_END = b"0\r\n\r\n"
_PATIENCE_S = 60.0


@dataclass(slots=True)
class _Conversation:
    number: int
    said: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    turns: int = 0


class _Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.head = b""
        self.tail = b""
        self.first = 0.0
        self.ended: asyncio.Future[str] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[str]:
        assert self.transport is not None
        self.head = self.tail = b""
        self.first = 0.0
        self.ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.ended

    def data_received(self, data: bytes) -> None:
        if len(self.head) < 2048:
            self.head += data
        self.tail = (self.tail + data)[-1024:]
        if not self.first and b"data: " in data:
            self.first = time.perf_counter()
        if self.tail.endswith(_END):
            self._end("whole" if _DONE in self.tail else "typed" if b'"error"' in self.tail else "short")
        elif b"content-length" in self.head.lower() and b"\r\n\r\n" in self.head:
            self._end("error")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("cut" if self.first else "reset" if self.head or exc else "closed")

    def _end(self, how: str) -> None:
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(how)


class Talkers:
    """The conversations, and what came of each request."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.results: list[dict[str, Any]] = []
        self._idle: list[_Connection] = []
        self._waiting: deque[_Conversation] = deque()
        self._begun = 0
        self._stopped = asyncio.Event()
        self._pending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Talks for as long as the task says, and waits for the last answers."""
        until = time.perf_counter() + self.task["seconds"]
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopped.set)
        if "rate" in self.task:
            due, step = time.perf_counter(), 1 / self.task["rate"]
            while due < until and not self._stopped.is_set():
                await asyncio.sleep(max(due - time.perf_counter(), 0))
                self._send(due)
                due += step
        else:
            await asyncio.gather(*(self._client(until) for _ in range(self.task["clients"])))
        if self._pending:
            await asyncio.wait(self._pending, timeout=_PATIENCE_S)

    def _send(self, due: float) -> None:
        task = asyncio.create_task(self._turn(self._next(), due))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _client(self, until: float) -> None:
        while time.perf_counter() < until and not self._stopped.is_set():
            await self._turn(self._next(), time.perf_counter())

    def _next(self) -> _Conversation:
        most = self.task.get("open", 0)
        if len(self._waiting) > most:
            return self._waiting.popleft()
        self._begun += 1
        return _Conversation(self._begun)

    async def _turn(self, one: _Conversation, due: float) -> None:
        words = " ".join(f"word{one.number}-{place}" for place in range(self.task.get("words", 4)))
        one.said.append({"role": "user", "content": f"Conversation {one.number}, turn {one.turns}: {words}"})
        one.turns += 1
        how, connection = await self._asked(self._request(one))
        head = b"" if connection is None else connection.head
        status = int(head[9:12]) if head[9:12].isdigit() else 0
        release = _RELEASE.search(head)
        first = 0.0 if connection is None else connection.first
        self.results.append(
            {
                "conversation": one.number,
                "due": due,
                "status": status,
                "how": how,
                "release": release[1].decode() if release else "",
                "first_ms": round(1000 * (first - due), 3) if first else None,
            }
        )
        if connection is not None and how == "whole":
            self._idle.append(connection)
        elif connection is not None and connection.transport is not None:
            connection.transport.abort()
        if how != "whole":
            await asyncio.sleep(0.02)  # a closed port is not asked in a busy loop
        one.said.append({"role": "assistant", "content": f"answer {one.turns} " + "and then " * 4})
        if one.turns < self.task.get("turns", 3):
            self._waiting.append(one)

    async def _asked(self, request: bytes) -> tuple[str, _Connection | None]:
        """Sends a request, over a connection that was idle if there is one, and says how the answer ended."""
        while True:
            connection = self._idle.pop() if self._idle else None
            reused = connection is not None
            if connection is None or connection.transport is None or connection.transport.is_closing():
                reused = False
                try:
                    loop = asyncio.get_running_loop()
                    _, connection = await loop.create_connection(_Connection, "127.0.0.1", self.task["port"])
                except OSError:
                    return "refused", None
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    how = await connection.ask(request)
            except TimeoutError:
                return "late", connection
            if reused and how in ("closed", "reset") and not connection.head:
                continue  # closed while it was idle, as HTTP allows: every client asks again
            return how, connection

    def _request(self, one: _Conversation) -> bytes:
        task = self.task
        body = json.dumps(
            {
                "model": task["model"],
                "messages": one.said,
                "user": f"user-{one.number}",
                "max_tokens": task.get("tokens", 8),
                "temperature": 0,
                "stream": True,
            }
        ).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{task['port']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        key = f"Authorization: Bearer {task['key']}\r\n" if task.get("key") else ""
        return f"{head}{key}\r\n".encode() + body


def main() -> None:
    """Runs the task that stdin describes."""
    talkers = Talkers(json.loads(sys.stdin.read()))
    spent = time.process_time()
    asyncio.run(talkers.run())
    print(json.dumps({"results": talkers.results, "cpu_seconds": time.process_time() - spent}))


if __name__ == "__main__":
    main()
