"""API keys, metrics, and the socket."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.errors import PortInUse
from deepwell.server.app import create_app
from deepwell.server.http.listen import bind, url_of

KEYS = (SecretStr("key-of-one-user-0001"), SecretStr("key-of-another-0002"))
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def guarded(engine: FakeEngine, codec: Codec) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(make_service(engine, codec, model="toy", api_keys=KEYS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    "header", [{}, {"authorization": "Bearer wrong"}, {"authorization": KEYS[0].get_secret_value()}]
)
async def test_without_a_known_key_nothing_but_health_answers(
    guarded: httpx.AsyncClient, engine: FakeEngine, header: dict[str, str]
) -> None:
    for path in ("/v1/models", "/metrics", "/nothing"):
        response = await guarded.get(path, headers=header)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    assert (await guarded.post("/v1/chat/completions", json=CHAT, headers=header)).status_code == 401
    assert (await guarded.get("/readyz", headers=header)).status_code == 200
    assert engine.seen == []


async def test_keys_do_not_share_prefix_cache_entries(guarded: httpx.AsyncClient, engine: FakeEngine) -> None:
    for key in (*KEYS, KEYS[0]):
        header = {"authorization": f"Bearer {key.get_secret_value()}"}
        assert (await guarded.post("/v1/chat/completions", json=CHAT, headers=header)).status_code == 200
    first, second, again = (request.cache_salt for request in engine.seen)
    assert first and second and first != second and first == again
    assert KEYS[0].get_secret_value() not in first


async def test_metrics_count_requests_and_read_the_engine(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await http.post("/v1/chat/completions", json=CHAT)
    await http.post("/v1/chat/completions", json=CHAT | {"oops": 1})
    await http.get("/nothing")
    text = (await http.get("/metrics")).text
    assert 'deepwell_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'deepwell_requests_total{route="/v1/chat/completions",status="400"} 1.0' in text
    assert 'deepwell_requests_total{route="none",status="404"} 1.0' in text
    assert f'deepwell_steps_total{{model="toy"}} {float(engine.steps)}' in text
    assert 'deepwell_kv_usage_ratio{model="toy"} 0.25' in text
    assert "deepwell_time_to_first_token_seconds_count 1.0" in text
    assert "deepwell_inter_token_seconds_count 2.0" in text


async def test_openapi_describes_the_parameters_and_no_page_loads_scripts(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert "min_p" in document["components"]["schemas"]["ChatRequest"]["properties"]
    for path in ("/", "/docs"):
        assert "<script" not in (await http.get(path)).text


def test_a_taken_port_names_its_owner_and_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse) as error:
            bind("127.0.0.1", port)
    assert f"pid {os.getpid()} (" in error.value.message
    assert f"--port {port + 1}" in error.value.fix


def test_a_free_port_is_bound_but_not_listening() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # else asyncio leaves TCP_NODELAY off
        assert url_of(listener).startswith("http://127.0.0.1:")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname())
