"""Servers that serve a candidate already, load it, refuse it, or are not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from deepwell.errors import DeepwellError
from deepwell.fleet.improve.serving import Servers


class _Handler(BaseHTTPRequestHandler):
    """Serves a list of models, and loads adapters unless it is told to refuse."""

    server: Any

    def do_GET(self) -> None:
        self._answer(200, {"data": [{"id": one} for one in self.server.names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, body, self.headers.get("authorization")))
        if self.server.refuses:
            self._answer(400, {"error": {"message": "lora_path names no adapter"}})
            return
        self.server.names.append(body["lora_name"])
        self._answer(200, {})

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Any]:
    found: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    found.names, found.seen, found.refuses = ["base"], [], False
    found.url = f"http://127.0.0.1:{found.server_port}"
    thread = Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


async def test_an_adapter_is_loaded_once_and_for_all_tenants(server: Any, tmp_path: Path) -> None:
    servers = Servers([server.url], tmp_path, "secret")
    await servers("v1", tmp_path / "adapter")
    await servers("v1", tmp_path / "adapter")
    asked = {"lora_name": "v1", "lora_path": str(tmp_path / "adapter"), "shared": True}
    assert server.seen == [("/v1/load_lora_adapter", asked, "Bearer secret")]


async def test_a_refusal_names_the_fix_and_no_key(server: Any, tmp_path: Path) -> None:
    server.refuses = True
    with pytest.raises(DeepwellError, match="HTTP 400 lora_path names no adapter") as caught:
        await Servers([server.url], tmp_path, "secret")("v1", tmp_path / "adapter")
    assert str(tmp_path) in (caught.value.fix or "") and "secret" not in str(caught.value)


async def test_a_server_that_is_away(server: Any, tmp_path: Path) -> None:
    with pytest.raises(DeepwellError, match="no answer"):
        await Servers(["http://127.0.0.1:9"], tmp_path)("v1", tmp_path / "adapter")
