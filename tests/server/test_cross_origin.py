"""Web pages of others: names that are not the server's, origins that are not listed, and what listed ones may do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.options import OriginOptions
from deepwell.settings import InvalidSettings, Settings

KEY = "a-key-of-one-user-0001"
BEARER = {"authorization": f"Bearer {KEY}"}
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
PAGE = "https://app.example.com"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}

Make = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def server(engine: FakeEngine, codec: Codec) -> AsyncIterator[Make]:
    """Makes a client of an application that is bound to 127.0.0.1, with or without keys."""
    clients: list[httpx.AsyncClient] = []

    def make(*, keys: bool = False, **origins: Any) -> httpx.AsyncClient:
        context = make_service(
            engine,
            codec,
            model="toy",
            api_keys=(SecretStr(KEY),) if keys else (),
            origins=OriginOptions(**origins),
        )
        transport = httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


async def status_of(client: httpx.AsyncClient, host: str) -> int:
    return (await client.get("/v1/models", headers={"host": host} | BEARER)).status_code


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:9000", "localhost.", "127.0.0.1:8000", "127.0.0.1", "[::1]:8000"]
)
async def test_a_server_without_keys_has_its_own_names(server: Make, host: str) -> None:
    assert await status_of(server(), host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "192.168.0.1"]
)
async def test_a_name_that_resolves_here_does_not_open_a_server_without_keys(
    server: Make, engine: FakeEngine, host: str
) -> None:
    client = server()
    for path in ("/v1/models", "/healthz", "/metrics", "/nothing"):
        refused = await client.get(path, headers={"host": host})
        assert refused.status_code == 421
        error = refused.json()["error"]
        assert error["code"] == "host_not_allowed"
        assert f"--allowed-host {host.partition(':')[0]}" in error["message"]
        assert refused.headers["x-request-id"]
    # A page of that name is its own origin: nothing but the name tells.
    page = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    assert (await client.post("/v1/chat/completions", json=CHAT, headers=page)).status_code == 421
    assert engine.seen == []
    assert await status_of(server(keys=True), host) == 200


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a@b", "[::1", "localhost:port", "localhost:8000:1", "\u00e9"]
)
async def test_a_malformed_name_is_a_400(server: Make, host: str) -> None:
    for keys in (False, True):
        headers = {b"host": host.encode(), b"authorization": BEARER["authorization"].encode()}
        assert (await server(keys=keys).get("/v1/models", headers=headers)).status_code == 400


async def test_one_name_is_needed(server: Make) -> None:
    client = server(keys=True)
    twice = [("host", "localhost"), ("host", "localhost"), *BEARER.items()]
    assert (await client.get("/v1/models", headers=twice)).status_code == 400
    request = client.build_request("GET", "/v1/models", headers=BEARER)
    del request.headers["host"]
    answer = await client.send(request)
    assert answer.status_code == 400
    assert "one Host header" in answer.json()["error"]["message"]


async def test_names_can_be_allowed_and_then_hold_for_servers_with_keys_too(server: Make) -> None:
    for keys in (False, True):
        client = server(keys=keys, allowed_hosts=("ai.example.com", "*.internal"))
        assert await status_of(client, "AI.example.com:443") == 200
        assert await status_of(client, "a.internal") == 200
        assert await status_of(client, "127.0.0.1") == 200
        for host in ("example.com", "internal", "xai.example.com", "evilinternal"):
            assert await status_of(client, host) == 421


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:3000"},
    {"origin": "null"},
    {"origin": "file://"},
    {"sec-fetch-site": "cross-site"},
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": "http://127.0.0.1:8000.evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("keys", [False, True])
async def test_pages_of_others_cannot_make_it_do_anything(
    server: Make, engine: FakeEngine, headers: dict[str, str], keys: bool
) -> None:
    client = server(keys=keys)
    form = {"content-type": "text/plain"} | headers | BEARER
    calls = [("POST", "/v1/chat/completions"), ("POST", "/v1/messages"), ("DELETE", "/v1/files/file-1")]
    for method, path in calls:
        refused = await client.request(method, path, json=CHAT, headers=form)
        assert refused.status_code == 403
        assert "may not use this server" in refused.json()["error"]["message"]
        assert "access-control-allow-origin" not in refused.headers
    assert engine.seen == []
    # What is safe is answered, and no page can read it.
    safe = await client.get("/v1/models", headers=headers | BEARER)
    assert safe.status_code == 200
    assert "access-control-allow-origin" not in safe.headers


async def test_the_refusal_names_the_fix(server: Make) -> None:
    refused = await server().post("/v1/chat/completions", json=CHAT, headers={"origin": PAGE})
    assert refused.json()["error"]["code"] == "origin_not_allowed"
    assert f"--cors-origin {PAGE}" in refused.json()["error"]["message"]
    preflight = await server().options("/v1/chat/completions", headers=PREFLIGHT)
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "https://127.0.0.1:8000", "sec-fetch-site": "same-origin"},
        {"origin": "https://ai.example.com", "sec-fetch-site": "same-origin"},
        {"origin": "https://ai.example.com", "host": "ai.example.com"},
        {"origin": "https://ai.example.com", "host": "ai.example.com:443"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
    ],
    ids=str,
)
async def test_clients_without_a_page_and_its_own_pages_are_untouched(
    server: Make, headers: dict[str, str]
) -> None:
    answer = await server(keys=True).post("/v1/chat/completions", json=CHAT, headers=headers | BEARER)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_pages_of_a_listed_origin_may_do_all_and_read_the_answer(server: Make) -> None:
    client = server(keys=True, cors_origins=(PAGE,))
    preflight = await client.options("/v1/chat/completions", headers=PREFLIGHT)
    assert preflight.status_code == 204 and preflight.content == b""
    allowed = preflight.headers
    assert allowed["access-control-allow-origin"] == PAGE
    assert allowed["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
    assert {"POST", "DELETE"} <= set(allowed["access-control-allow-methods"].split(", "))
    assert "Origin" in allowed["vary"]
    page = {"origin": PAGE, "sec-fetch-site": "cross-site"}
    stream = CHAT | {"stream": True}
    for status, path, body, key in (
        (200, "/v1/chat/completions", CHAT, BEARER),
        (200, "/v1/chat/completions", stream, BEARER),
        (400, "/v1/chat/completions", {}, BEARER),
        (404, "/v1/nothing", {}, BEARER),
        (401, "/v1/chat/completions", CHAT, {}),
        (413, "/v1/chat/completions", {"x": "y" * (9 << 20)}, BEARER),
    ):
        answer = await client.post(path, json=body, headers=page | key)
        assert answer.status_code == status
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
        assert answer.headers["vary"] == "Origin"
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "retry-after", "x-ratelimit-remaining-tokens"} <= set(exposed)
    assert (await client.get("/v1/models", headers=page | BEARER)).headers[
        "access-control-allow-origin"
    ] == PAGE
    other = PREFLIGHT | {"origin": "https://app.example.com.evil.example"}
    assert (await client.options("/v1/chat/completions", headers=other)).status_code == 403


async def test_failures_are_shared_as_well(
    server: Make, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(engine, "stats", fail)
    client = server(cors_origins=(PAGE,))
    failed = await client.get("/metrics", headers={"origin": PAGE})
    assert failed.status_code == 500
    assert failed.headers["access-control-allow-origin"] == PAGE


async def test_a_page_in_a_private_network_and_odd_preflights(server: Make) -> None:
    client = server(cors_origins=(PAGE,))
    private = PREFLIGHT | {"access-control-request-private-network": "true"}
    answer = await client.options("/v1/models", headers=private)
    assert answer.headers["access-control-allow-private-network"] == "true"
    for odd in (b"a b", b"x" * 5000, b"x\xe9"):
        names = {b"access-control-request-headers": odd, b"access-control-request-method": b"GET"}
        headers = {b"origin": PAGE.encode()} | names
        answer = await client.options("/v1/models", headers=headers)
        assert answer.status_code == 204
        assert "access-control-allow-headers" not in answer.headers
    # Without the question of a preflight it is a request as any other.
    assert (await client.options("/v1/models", headers={"origin": PAGE})).status_code == 405


async def test_any_origin_is_only_for_servers_with_keys(server: Make) -> None:
    closed = await server(cors_origins=("*",)).options("/v1/models", headers=PREFLIGHT)
    assert closed.status_code == 403
    client = server(keys=True, cors_origins=("*",))
    preflight = await client.options("/v1/models", headers=PREFLIGHT)
    assert preflight.headers["access-control-allow-origin"] == "*"
    answer = await client.post("/v1/chat/completions", json=CHAT, headers={"origin": PAGE} | BEARER)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    null = await client.post("/v1/chat/completions", json=CHAT, headers={"origin": "null"} | BEARER)
    assert null.status_code == 403
    with pytest.raises(InvalidSettings, match="no API key"):
        Settings(cors_origins=["*"]).require_safe_address()
    Settings(cors_origins=["*"]).require_safe_address(stored_keys=lambda: True)


def test_lists_are_checked_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPWELL_CORS_ORIGINS", f"{PAGE}:443, app://obsidian.md http://[::1]:3000")
    monkeypatch.setenv("DEEPWELL_ALLOWED_HOSTS", "AI.example.com,[::1]")
    settings = Settings.load()
    assert settings.cors_origins == [PAGE, "app://obsidian.md", "http://[::1]:3000"]
    assert settings.allowed_hosts == ["ai.example.com", "[::1]"]
    for name, wrong in (
        ("cors_origins", "https://app.example.com/"),
        ("cors_origins", "app.example.com"),
        ("cors_origins", "null"),
        ("allowed_hosts", "https://ai.example.com"),
        ("allowed_hosts", "ai.example.com:443"),
        ("trusted_proxies", "proxy"),
    ):
        with pytest.raises(InvalidSettings, match=name):
            Settings.load(**{name: [wrong]})
