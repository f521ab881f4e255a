"""The load: clients that each keep one streamed completion open, in a process of their own.

Run as a script it reads one JSON object from stdin (`url`, `clients`, `requests`) and prints one: arrival times of every
streamed event. It looks at bytes, not at JSON, for on two cores its own work would slow the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

_EVENT = b"data: {"
_WITHOUT_CHOICE = b'"choices":[]'  # the last event, which carries the usage
_DONE = b"data: [DONE]"
_OVERLAP = max(len(_EVENT), len(_WITHOUT_CHOICE), len(_DONE)) - 1
_USAGE = re.compile(rb'"(prompt_tokens|completion_tokens|cached_tokens)":(\d+)')


class _Stream(asyncio.Protocol):
    """One request and the times at which its events came, in seconds of `perf_counter`."""

    def __init__(self, request: bytes, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._ended = ended
        self._tail = b""
        self._last = b""
        self._transport: asyncio.Transport | None = None
        self.status = b""
        self.begin = 0.0
        self.events: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.begin = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.status:
            self.status = data[9:12]
        seen = self._tail + data
        # The tail is shorter than any marker, so nothing is counted twice.
        count = _count(seen, self._tail, _EVENT) - _count(seen, self._tail, _WITHOUT_CHOICE)
        self.events += [now] * count
        self._tail = seen[-_OVERLAP:]
        self._last = (self._last + data)[-2048:]
        if _count(seen, b"", _DONE):  # any other answer ends with the connection, which was asked for
            assert self._transport is not None
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def result(self, index: int) -> dict[str, Any]:
        """Returns the report of this request."""
        if self.status != b"200" or _DONE not in self._last:
            raise SystemExit(f"request {index} failed: {self._last.decode(errors='replace')}")
        usage = {name.decode(): int(number) for name, number in _USAGE.findall(self._last)}
        return {"index": index, "begin": self.begin, "events": self.events, **usage}


def _count(seen: bytes, tail: bytes, marker: bytes) -> int:
    return seen.count(marker) - tail.count(marker)


async def drive(url: str, clients: int, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sends every body once, `clients` at a time: whoever is done takes the next."""
    target = urlsplit(url)
    host, port = target.hostname or "", target.port or 80
    loop = asyncio.get_running_loop()
    results: list[dict[str, Any]] = []
    requests = [_encode(target.netloc, target.path, body) for body in bodies]
    queue: Iterator[tuple[int, bytes]] = iter(enumerate(requests))

    async def client() -> None:
        for index, request in queue:
            ended = loop.create_future()
            stream = _Stream(request, ended)
            await loop.create_connection(lambda stream=stream: stream, host, port)
            await ended
            results.append(stream.result(index))

    await asyncio.gather(*(client() for _ in range(clients)))
    return results


def _encode(host: str, path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


def main() -> None:
    """Runs the load that stdin describes."""
    task = json.loads(sys.stdin.read())
    spent = time.process_time()
    results = asyncio.run(drive(task["url"], task["clients"], task["requests"]))
    print(json.dumps({"results": results, "cpu_seconds": time.process_time() - spent}))


if __name__ == "__main__":
    main()
