"""The application around a small engine: in process, and behind a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest
from openai import OpenAI
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.http.listen import bind, url_of
from deepwell.server.run import Server


@pytest.fixture(scope="session")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return make_codec(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def service(engine: FakeEngine, codec: Codec) -> Iterator[ServerContext]:
    service = make_service(engine, codec, model="toy", max_body_bytes=64 * 1024)
    yield service
    if service.kept.is_set():
        service.state.close()


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application without a socket."""
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@dataclass
class Live:
    """A server on a port of its own."""

    url: str
    engine: FakeEngine
    service: ServerContext
    server: Server
    thread: threading.Thread

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


def start(service: ServerContext, engine: FakeEngine) -> Live:
    listener: socket.socket = bind("127.0.0.1", 0)
    ready = threading.Event()
    server = Server(service, grace_seconds=0, on_ready=ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    url = url_of(listener)
    thread.start()
    assert ready.wait(timeout=30)
    return Live(url, engine, service, server, thread)


@pytest.fixture
def live(service: ServerContext, engine: FakeEngine) -> Iterator[Live]:
    running = start(service, engine)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared_live(codec: Codec) -> Iterator[Live]:
    """One server for tests that only read answers."""
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy"), engine)
    yield running
    running.stop()


@pytest.fixture
def sdk(shared_live: Live) -> Iterator[OpenAI]:
    """The real SDK, which refuses a response that is not what OpenAI documents."""
    with OpenAI(
        base_url=f"{shared_live.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
