"""`deepwell bench mcp`: every tool through an official client, and what thousands of sessions leave behind."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import httpx2
import numpy as np

from deepwell.cli.bench.machine import process_tree
from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.served import rss_bytes, serve_command, served_process

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["SESSIONS", "bench_mcp"]

_TOGETHER: Final = 8  # sessions at a time
_SAMPLES: Final = 20
_WARM: Final = 0.4  # of the sessions, before which memory is not looked at
_IDLE_S: Final = 60.0
_VERSION: Final = "2025-11-25"
_ACCEPT: Final = "application/json, text/event-stream"
_TEXTS: Final = {
    "whale.txt": "The blue whale is the largest animal. It eats krill in cold seas.",
    "oak.txt": "An oak tree grows slowly from an acorn, and it can live for a thousand years.",
}
_WRONG: Final = {"no_such_argument": True}


def bench_mcp(report: Report, model: Path, *, sessions: int) -> dict[str, Any]:
    """Returns counts of the calls that went right, and the traces of sessions that were closed, abandoned and killed.

    Args:
        sessions: a quarter each is closed by the official client in either era, abandoned, and killed amid a call.
    """
    with served_process(serve_command(model)) as (port, pid):
        url = f"http://127.0.0.1:{port}"
        store, job = _filled(url)
        calls = asyncio.run(_inspected(url, _valid(store, job)))
        _table(report, calls)
        traces = asyncio.run(_besieged(report, url, pid, sessions))
    return {
        "tools": len({one["tool"] for one in calls if one["kind"] == "valid"}),
        "calls": len(calls),
        "calls_wrong": [
            f"{one['way']}: {one['tool']} {one['kind']}: {one['said']}" for one in calls if not one["right"]
        ],
        **traces,
    }


def _valid(store: str, job: str) -> dict[str, dict[str, Any]]:
    """Returns arguments for each tool with which it must succeed."""
    return {
        "list_models": {},
        "chat": {"prompt": "Say hello.", "max_tokens": 8, "temperature": 0},
        "list_vector_stores": {},
        "search": {"vector_store_id": store, "query": "the largest animal"},
        "ask": {"vector_store_id": store, "question": "What is the largest animal?", "max_tokens": 32},
        "embed": {"texts": ["a whale", "an oak"]},
        "rerank": {"query": "whale", "documents": list(_TEXTS.values())},
        "list_jobs": {},
        "get_job": {"job_id": job},
        "calculate": {"expression": "6 * 7"},
    }


def _filled(url: str) -> tuple[str, str]:
    """Makes a vector store of two files, and returns its id and that of a job."""
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
        store = http.post("/v1/vector_stores", json={"name": "nature"}).json()["id"]
        for name, text in _TEXTS.items():
            form = {"purpose": (None, "user_data"), "file": (name, text.encode())}
            file = http.post("/v1/files", files=form).json()["id"]
            http.post(f"/v1/vector_stores/{store}/files", json={"file_id": file}).raise_for_status()
        end = time.monotonic() + 120
        while (counts := http.get(f"/v1/vector_stores/{store}").json()["file_counts"])["completed"] < len(
            _TEXTS
        ):
            if counts["failed"] or time.monotonic() > end:
                raise RuntimeError(f"the files were not read: {counts}")
            time.sleep(0.2)
        return store, http.get("/v1/jobs").json()["data"][0]["id"]


async def _inspected(url: str, valid: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Lists and calls every tool in both eras over HTTP, and over the streams of `deepwell mcp serve`."""
    from mcp import Client, StdioServerParameters

    program = StdioServerParameters(
        command=sys.executable, args=["-m", "deepwell", "mcp", "serve", "--url", url]
    )
    found: list[dict[str, Any]] = []
    for way, target, mode in (
        ("http", f"{url}/mcp", "auto"),
        ("http, 2025", f"{url}/mcp", "legacy"),
        ("stdio", program, "auto"),
        ("stdio, 2025", program, "legacy"),
    ):
        async with Client(target, mode=mode, read_timeout_seconds=300) as client:
            found += await _called(client, way, valid)
    return found


async def _called(client: Client, way: str, valid: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    from mcp import MCPError

    found: list[dict[str, Any]] = []

    def note(tool: str, kind: str, said: str, *, right: bool) -> None:
        found.append({"way": way, "tool": tool, "kind": kind, "said": said[:200], "right": right})

    for tool in (await client.list_tools()).tools:
        if tool.name not in valid:
            note(tool.name, "valid", "the benchmark has no arguments for it", right=False)
            continue
        for kind, arguments in (("valid", valid[tool.name]), ("wrong", valid[tool.name] | _WRONG)):
            result = await client.call_tool(tool.name, arguments)
            text = "".join(getattr(one, "text", "") for one in result.content)
            note(tool.name, kind, text, right=bool(text) and bool(result.is_error) is (kind == "wrong"))
    try:
        await client.call_tool("no_such_tool", {})
        note("no_such_tool", "unknown", "it was called", right=False)
    except MCPError as error:
        note("no_such_tool", "unknown", error.error.message, right="no_such_tool" in error.error.message)
    listed = (await client.list_resources()).resources
    texts = [(await client.read_resource(str(one.uri))).contents[0] for one in listed]
    said = {getattr(one, "text", "") for one in texts}
    note("resources", "read", f"{len(said)} documents", right=said == set(_TEXTS.values()))
    return found


def _table(report: Report, calls: Sequence[Mapping[str, Any]]) -> None:
    ways = sorted({one["way"] for one in calls})
    tools = list(dict.fromkeys(one["tool"] for one in calls))
    rows = [
        (tool, *(_share([one for one in calls if one["tool"] == tool and one["way"] == way]) for way in ways))
        for tool in tools
    ]
    report.table("Calls that went right", ("tool", *ways), rows)


def _share(calls: Sequence[Mapping[str, Any]]) -> str:
    return f"{sum(one['right'] for one in calls)} of {len(calls)}"


async def _besieged(report: Report, url: str, pid: int, sessions: int) -> dict[str, Any]:
    """Opens sessions and leaves them in every way, and looks at the server meanwhile and after."""
    samples: list[tuple[int, float]] = []
    faults: list[str] = []
    open_before = _descriptors(pid)
    begun = time.monotonic()
    waiting = iter(range(sessions))
    every = max(sessions // _SAMPLES, 1)

    async def work() -> None:
        for number in waiting:
            if number % every == 0:
                samples.append((number, rss_bytes(process_tree(pid)) / 1e3))
                report.note(f"{number} sessions, {samples[-1][1] / 1e3:.0f} MB")
            session = SESSIONS[number % len(SESSIONS)]
            try:
                await asyncio.wait_for(session(url, number), 120)
            except Exception as error:
                faults.append(f"{session.__name__}: {error or type(error).__name__}"[:200])

    await asyncio.gather(*(work() for _ in range(_TOGETHER)))
    seconds = time.monotonic() - begun
    most = await _idle(url)
    open_after = await _closed_again(pid, open_before.total())
    samples.append((sessions, rss_bytes(process_tree(pid)) / 1e3))
    warm = [one for one in samples if one[0] >= _WARM * sessions]
    slope = float(np.polyfit([one[0] for one in warm], [one[1] for one in warm], 1)[0])
    report.table("Memory of the server", ("sessions", "MB"), [(n, f"{kb / 1e3:.1f}") for n, kb in samples])
    changed = sorted(one for one in open_before | open_after if open_before[one] != open_after[one])
    counts = [(one, open_before[one], open_after[one]) for one in changed]
    if counts:
        report.table("Descriptors left", ("kind", "before", "after"), counts)
    return {
        "sessions": sessions,
        "faults": len(faults),
        "first_faults": faults[:3],
        "seconds": rounded(seconds),
        "sessions_left": most,
        "descriptors_left": open_after.total() - open_before.total(),
        "rss_mb": rounded(samples[-1][1] / 1e3),
        "rss_kb_a_session": rounded(slope),
    }


async def _idle(url: str) -> int:
    """Returns the number of sessions that are still open when the server had time to notice who has left."""
    end = time.monotonic() + _IDLE_S
    async with httpx.AsyncClient(trust_env=False) as http:
        while True:
            text = (await http.get(f"{url}/metrics")).text
            found = re.search(r'^deepwell_mcp_sessions\{side="server"\} (\d+)', text, re.MULTILINE)
            left = int(found[1]) if found else -1
            if left == 0 or time.monotonic() > end:
                return left
            await asyncio.sleep(0.5)


async def _closed_again(pid: int, before: int) -> Counter[str]:
    """Returns the descriptors when the server had time to close the connections of those who have left."""
    end = time.monotonic() + _IDLE_S
    while (found := _descriptors(pid)).total() > before and time.monotonic() < end:
        await asyncio.sleep(0.5)
    return found


def _descriptors(pid: int) -> Counter[str]:
    """Counts the open descriptors of a process and all below it, by kind or path."""
    found: Counter[str] = Counter()
    for one in process_tree(pid):
        with suppress(OSError):
            for descriptor in Path(f"/proc/{one}/fd").iterdir():
                with suppress(OSError):
                    kind = str(descriptor.readlink())
                    found[kind.partition(":[")[0]] += 1
    return found


@asynccontextmanager
async def _client(url: str, mode: str) -> AsyncGenerator[Client]:
    """Yields the official client, and closes its connections afterwards.

    The HTTP client that it would make itself reads all certificates of the system for each session. One that it is given
    it leaves open.
    """
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async with httpx2.AsyncClient(verify=False, trust_env=False, timeout=60) as http:
        target = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(target, mode=mode, cache=None) as client:
            yield client


async def _closed(url: str, number: int) -> None:
    """A session of the official client in the era of 2026, which ends as it should."""
    async with _client(url, "auto") as client:
        if not (await client.list_tools()).tools:
            raise RuntimeError("no tools were listed")
        if number % 8 == 0:
            await client.call_tool("list_models", {})


async def _closed_2025(url: str, number: int) -> None:
    """A session of the official client that shakes hands, which ends as it should."""
    async with _client(url, "legacy") as client:
        if not (await client.list_tools()).tools:
            raise RuntimeError("no tools were listed")
        if number % 8 == 1:
            await client.call_tool("list_jobs", {})


def _message(id: int | None, method: str, params: Mapping[str, Any]) -> bytes:
    body: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return json.dumps(body if id is None else body | {"id": id}).encode()


_INITIALIZE: Final = _message(
    1,
    "initialize",
    {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
)


def _request(url: str, body: bytes) -> bytes:
    host = url.removeprefix("http://")
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: {_ACCEPT}\r\n"
        f"MCP-Protocol-Version: {_VERSION}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _abandoned(url: str, number: int) -> None:
    """A session that is opened and used, and whose client leaves without a word."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for body in (_INITIALIZE, _message(None, "notifications/initialized", {}), _message(2, "tools/list", {})):
        writer.write(_request(url, body))
        await writer.drain()
        line = await reader.readline()
        if b" 200 " not in line and b" 202 " not in line:
            raise RuntimeError(f"{number}: {line!r}")
        await _rest(reader)
    writer.transport.abort()


async def _rest(reader: asyncio.StreamReader) -> None:
    """Reads an answer to its end."""
    size, chunked = 0, False
    while (line := (await reader.readline()).strip().lower()) != b"":
        if line.startswith(b"content-length:"):
            size = int(line.partition(b":")[2])
        chunked = chunked or line == b"transfer-encoding: chunked"
    await reader.readexactly(size)
    while chunked and (count := int(await reader.readline(), 16)) >= 0:
        await reader.readexactly(count + 2)
        if count == 0:
            return


async def _killed(url: str, number: int) -> None:
    """A session whose client dies amid a call: the connection is reset while the tool works."""
    host, _, port = url.removeprefix("http://").partition(":")
    arguments: dict[str, Any] = {"prompt": "Count to one hundred.", "max_tokens": 64}
    call = {"name": "chat", "arguments": arguments} if number % 40 == 3 else {"name": "list_vector_stores"}
    reader, writer = await asyncio.open_connection(host, int(port))
    del reader
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(_request(url, _message(7, "tools/call", call)))
    await writer.drain()
    await asyncio.sleep(0.002 * (number % 5))
    writer.transport.abort()


SESSIONS: Final[tuple[Callable[[str, int], Awaitable[None]], ...]] = (
    _closed,
    _closed_2025,
    _abandoned,
    _killed,
)
"""The ways in which a session ends. Each is called with the address of the server and the number of the session."""
