"""The MCP server at /mcp: with official clients, with two tenants, and under attack."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.knowledge import use_hash_embedder
from tests.server.test_guard import BLOCK_INPUT, TERM, options

from deepwell.agents.kit import AgentOptions
from deepwell.agents.mcp import needed
from deepwell.agents.mcp.config import McpOptions
from deepwell.agents.mcp.served import SERVED_TOOLS
from deepwell.agents.mcp.serving import mcp_server
from deepwell.agents.tools import Tool, ToolOutput
from deepwell.dialogue.text import Codec
from deepwell.server.access.quota import RateLimits
from deepwell.server.app import create_app
from deepwell.server.options import LimitsConfig
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell_bench.suites.agents.mcp import SESSIONS

SECRET = "the-password-of-tenant-a"
ACCEPT = {"accept": "application/json, text/event-stream"}
MODES = ("auto", "legacy")


@dataclass
class World:
    """A server with two tenants, of which A has a knowledge base and a job."""

    live: Live
    keys: dict[str, str]
    store: str
    file: str
    job: str

    @property
    def url(self) -> str:
        return f"{self.live.url}/mcp"

    @asynccontextmanager
    async def client(self, tenant: str, mode: str = "auto", **headers: str) -> AsyncGenerator[Client]:
        given = {"authorization": f"Bearer {self.keys[tenant]}", **headers}
        async with httpx2.AsyncClient(headers=given, timeout=30, trust_env=False) as http:
            target = streamable_http_client(self.url, http_client=http)
            async with Client(target, mode=mode, cache=None) as client:
                yield client


@pytest.fixture(scope="module")
def world(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    database = Database.open(tmp_path_factory.mktemp("data") / "deepwell.db")
    store = KeyStore(database)
    scopes = {"a": ["inference", "files"], "b": ["inference", "files"], "poor": ["inference"]}
    keys = {name: store.create(Tenant(f"tenant-{name}"), name, some)[1] for name, some in scopes.items()}
    with pytest.MonkeyPatch.context() as patch:
        use_hash_embedder(patch)
        engine = FakeEngine(max_model_len=4096)
        live = start(make_service(engine, codec, model="toy", database=database), engine)
        yield _filled(live, keys)
        live.stop()


def _filled(live: Live, keys: dict[str, str]) -> World:
    headers = {"authorization": f"Bearer {keys['a']}"}
    with httpx.Client(base_url=f"{live.url}/v1", headers=headers, timeout=30) as http:
        store = http.post("/vector_stores", json={"name": SECRET}).json()["id"]
        form = {
            "purpose": (None, "user_data"),
            "file": ("a.txt", f"{SECRET} is the largest animal.".encode()),
        }
        file = http.post("/files", files=form).json()["id"]
        http.post(f"/vector_stores/{store}/files", json={"file_id": file}).raise_for_status()
        while http.get(f"/vector_stores/{store}").json()["file_counts"]["completed"] == 0:
            pass
        job = http.get("/jobs").json()["data"][0]["id"]
    return World(live, keys, store, file, job)


def text(result: Any) -> str:
    return "".join(one.text for one in result.content)


@pytest.mark.parametrize("mode", MODES)
async def test_an_official_client_lists_calls_and_reads(world: World, mode: str) -> None:
    async with world.client("a", mode) as client:
        tools = (await client.list_tools()).tools
        assert [one.name for one in tools] == [*(one.name for one in SERVED_TOOLS), "calculate"]
        assert text(await client.call_tool("calculate", {"expression": "6 * 7"})) == "42"
        assert all(one.annotations and one.annotations.read_only_hint for one in tools)
        said = await client.call_tool("chat", {"prompt": "hello", "temperature": 0})
        assert text(said) == "hello" and said.structured_content == {
            "model": "toy",
            "text": "hello",
            "finish_reason": "stop",
        }
        found = await client.call_tool("search", {"vector_store_id": world.store, "query": "largest animal"})
        assert SECRET in text(found)
        cited = await client.call_tool(
            "ask", {"vector_store_id": world.store, "question": "the largest animal"}
        )
        assert world.file in text(cited)
        listed = (await client.list_resources()).resources
        assert [one.name for one in listed] == ["a.txt"]
        read = (await client.read_resource(str(listed[0].uri))).contents[0]
        assert SECRET in getattr(read, "text", "")
        wrong = await client.call_tool("chat", {"prompt": 5})
        assert wrong.is_error and "prompt: 5 is not of type 'string'" in text(wrong)
        missing = await client.call_tool("chat", {"prompt": "x", "model": "none"})
        assert missing.is_error and "'none'" in text(missing)
        with pytest.raises(MCPError, match="there is no tool"):
            await client.call_tool("no_such_tool", {})


@pytest.mark.parametrize("mode", MODES)
async def test_a_tenant_sees_nothing_of_another(world: World, mode: str) -> None:
    async with world.client("b", mode) as client:
        said: list[str] = []
        for name, arguments in (
            ("list_vector_stores", {}),
            ("search", {"vector_store_id": world.store, "query": "largest animal"}),
            ("ask", {"vector_store_id": world.store, "question": "the largest animal"}),
            ("list_jobs", {}),
            ("get_job", {"job_id": world.job}),
            ("get_job", {"job_id": "../vector_stores"}),
            ("get_job", {"job_id": f"x?tenant=tenant-a&{world.job}"}),
        ):
            said.append(text(await client.call_tool(name, arguments)))
        assert (await client.list_resources()).resources == []
        uri = f"deepwell://vector_stores/{world.store}/files/{world.file}"
        for one in (uri, "deepwell://vector_stores/../files/x", "file:///etc/passwd"):
            with pytest.raises(MCPError):
                await client.read_resource(one)
        assert SECRET not in json.dumps(said) and world.file not in json.dumps(said)
        assert said[0] == "there are no vector stores" and said[3] == "there are no jobs"


async def test_a_session_id_of_another_tenant_opens_nothing(world: World) -> None:
    async with world.client("b", "legacy", **{"mcp-session-id": "0" * 32}) as client:
        assert text(await client.call_tool("list_vector_stores", {})) == "there are no vector stores"
    headers = {"authorization": f"Bearer {world.keys['b']}", "mcp-session-id": "x"}
    async with httpx.AsyncClient(headers=headers) as http:
        assert [(await http.request(method, world.url)).status_code for method in ("GET", "DELETE")] == [
            405,
            405,
        ]


async def test_scopes_hold_for_each_tool(world: World) -> None:
    async with world.client("poor") as client:
        refused = await client.call_tool("list_vector_stores", {})
        assert refused.is_error and "does not have the scope 'files'" in text(refused)
        assert text(await client.call_tool("list_models", {})) == "toy"


def test_a_key_is_needed(world: World) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = httpx.post(world.url, json=_call("tools/list"), headers=ACCEPT | headers)
        assert answer.status_code == 401


def _call(method: str, params: Any = None, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}} | more


@pytest.fixture
async def http(codec: Codec) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(make_service(FakeEngine(), codec, model="toy", max_body_bytes=64 * 1024))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=ACCEPT) as client:
        yield client


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28", "1999-01-01", "x" * 4000])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[" * 50_000,
        b'{"a":' * 10_000,
        b"1" * 60_000,
        b"[]",
        b"null",
        b'{"jsonrpc": "2.0", "id": {}, "method": "tools/list"}',
        b'{"jsonrpc": "1.0", "id": 1, "method": "tools/list"}',
        b'{"jsonrpc": "2.0", "id": null, "method": "tools/list"}',
        b'{"jsonrpc": "2.0", "id": 1.5, "method": "notifications/initialized"}',
        json.dumps(_call("no/such/method")).encode(),
        json.dumps(_call("tools/call", {"name": ["chat"]})).encode(),
        json.dumps(_call("tools/call", {"name": "chat", "arguments": "x"})).encode(),
        json.dumps(_call("resources/list", {"cursor": "../../x"})).encode(),
        json.dumps(_call("initialize", {"protocolVersion": 5})).encode(),
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": "\xff"}}',
        rb'{"jsonrpc": "2.0", "id": "\ud800", "method": "tools/list"}',
        rb'{"jsonrpc": "2.0", "id": 1, "method": "\ud800"}',
        rb'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "\ud800"}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"',
        b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": '
        + b'{"a":' * 200
        + b"1"
        + b"}" * 200
        + b"}",
    ],
    ids=lambda one: f"{one[:24]!r}" if isinstance(one, bytes) else one[:12],
)
async def test_hostile_messages_are_answered_and_leave_nothing(
    http: httpx.AsyncClient, body: bytes, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = asyncio.all_tasks()
    headers = {"content-type": "application/json", "mcp-protocol-version": version}
    answer = await http.post("/mcp", content=body, headers=headers)
    # 200 holds an error of the protocol.
    assert (
        answer.status_code in (200, 400, 404, 406)
        and "error" in answer.text
        and "Traceback" not in answer.text
    )
    for _ in range(3):  # a task that was cancelled ends in the next turn of the loop
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert not [one for one in caplog.records if one.exc_info], "no traceback for what a client sent"


@pytest.mark.parametrize(
    "message",
    [
        {"method": "notifications/initialized"},
        {"id": 1, "result": {}},
        {"id": "x", "result": {"method": "x"}},
    ],
)
async def test_what_asks_nothing_is_accepted(http: httpx.AsyncClient, message: dict[str, Any]) -> None:
    headers = {"mcp-protocol-version": "2025-11-25"}
    answer = await http.post("/mcp", json={"jsonrpc": "2.0"} | message, headers=headers)
    assert answer.status_code == 202


async def test_half_a_surrogate_pair_in_a_notification_is_harmless(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json", "mcp-protocol-version": "2026-07-28"}
    body = rb'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"reason": "\ud800"}}'
    assert (await http.post("/mcp", content=body, headers=headers)).status_code == 202


async def test_giant_messages_are_refused(http: httpx.AsyncClient) -> None:
    body = json.dumps(_call("tools/call", {"name": "chat", "arguments": {"prompt": "x" * 100_000}}))
    answer = await http.post("/mcp", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413


async def test_pages_of_other_origins_are_kept_out(http: httpx.AsyncClient) -> None:
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        answer = await http.post("/mcp", json=_call("tools/list"), headers=headers)
        assert answer.status_code in (403, 421)


async def test_a_call_counts_as_the_request_of_the_client_and_that_of_the_tool(codec: Codec) -> None:
    app = create_app(
        make_service(FakeEngine(), codec, model="toy", limits=LimitsConfig(rates=RateLimits(3, 0)))
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=ACCEPT) as client:
        said = [
            await client.post("/mcp", json=_call("tools/call", {"name": "list_models"})) for _ in range(3)
        ]
    first, second, third = said
    assert first.json()["result"]["isError"] is False
    assert second.json()["result"]["isError"] is True and "requests a minute is reached" in second.text
    assert third.status_code == 429


async def test_the_guard_reads_what_is_asked_over_mcp(codec: Codec, tmp_path: Path) -> None:
    guard = options(tmp_path, BLOCK_INPUT)
    engine = FakeEngine(max_model_len=4096)
    live = start(make_service(engine, codec, model="toy", guard=guard), engine)
    try:
        async with Client(f"{live.url}/mcp", cache=None) as client:
            said = await client.call_tool("chat", {"prompt": f"I like {TERM} a lot"})
            assert text(said) == "Against the rules." and engine.seen == []
    finally:
        live.stop()


async def test_a_server_may_offer_no_mcp(codec: Codec) -> None:
    app = create_app(make_service(FakeEngine(), codec, model="toy", mcp=McpOptions(serves=False)))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post("/mcp", json=_call("tools/list"))).status_code == 404


async def test_without_the_extra_the_answer_names_it(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needed, "find_spec", lambda _name: None)
    answer = await http.post("/mcp", json=_call("tools/list"))
    assert answer.status_code == 501 and "pip install 'deepwell[agents]'" in answer.text


async def test_tools_that_the_operator_allows_are_offered(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("The answer is 42.", "utf-8")
    # One that a person must approve is not, and one that cannot be had is left out.
    allowed = AgentOptions(("files", "files_write", "sql", "knowledge", "mcp:none"), tmp_path)
    app = create_app(make_service(FakeEngine(), codec, model="toy", agents=allowed))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=ACCEPT) as client:
        listed = (await client.post("/mcp", json=_call("tools/list"))).json()["result"]["tools"]
    names = {one["name"] for one in listed} - {one.name for one in SERVED_TOOLS}
    assert any("read" in name for name in names) and not any("write" in name for name in names)
    assert "calculate" not in names


def test_a_tool_cannot_take_the_name_of_one_that_is_there() -> None:
    async def run(_arguments: Any, _context: Any) -> ToolOutput:
        return ToolOutput("")

    mine = Tool("mine", "", {"type": "object"}, run)
    for tools in ([Tool("chat", "", {"type": "object"}, run)], [mine, mine]):
        with pytest.raises(ValueError, match="two tools have the same name"):
            mcp_server(lambda _context: None, tools)  # type: ignore[arg-type, return-value]


async def test_the_gauge_is_zero_when_sessions_are_over(world: World) -> None:
    for mode in MODES:
        async with world.client("a", mode) as client:
            await client.list_tools()
    gauge = world.live.service.metrics.mcp.sessions.labels("server")
    assert gauge._value.get() == 0


async def test_sessions_that_end_in_any_way_leave_no_connection(codec: Codec) -> None:
    engine = FakeEngine(max_model_len=4096)
    live = start(make_service(engine, codec, model="toy"), engine)
    try:
        metrics = live.service.metrics
        for number in range(3 * len(SESSIONS)):
            await SESSIONS[number % len(SESSIONS)](live.url, number)
        gauges = (metrics.connections, metrics.mcp.sessions.labels("server"))
        # The server closes a connection that nobody uses after 75 seconds: those that are left would outlast the time.
        async with asyncio.timeout(30):
            while any(one._value.get() for one in gauges):
                await asyncio.sleep(0)
    finally:
        live.stop()


async def test_lines_that_are_no_messages_are_answered_and_end_nothing(world: World) -> None:
    """The server over standard streams answers what it cannot read, with one line of its log each."""
    command = (sys.executable, "-m", "deepwell", "mcp", "serve", "--url", world.live.url)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = await asyncio.create_subprocess_exec(*command, **pipes)
    assert program.stdin is not None and program.stdout is not None and program.stderr is not None
    lines = [b"not json", b'{"jsonrpc": "2.0", "id": 1', b"\xff", b"[[[[", b"[]", b'"x"']
    program.stdin.write(b"\n".join(lines) + b"\n" + json.dumps(_call("ping")).encode() + b"\n")
    await program.stdin.drain()
    answers = [json.loads(await program.stdout.readline()) for _ in range(len(lines) + 1)]
    codes = [one["error"]["code"] for one in answers if one["id"] is None]
    assert sorted(codes) == [-32700] * 4 + [-32600] * 2
    assert any(one.get("result") == {} for one in answers)
    program.stdin.close()
    said = (await program.stderr.read()).decode()
    assert "Traceback" not in said and said.count("no message of JSON-RPC") == len(lines)
    assert await program.wait() == 0
