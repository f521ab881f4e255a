"""Clients that stop reading: cut off, and nobody else waits for them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.server.options import ConnectionOptions


def test_a_client_that_stops_reading_is_cut_off(tmp_path: Path) -> None:
    engine = FakeEngine(max_model_len=10_000_000)
    service = make_service(
        engine, make_codec(tmp_path), model="toy", connections=ConnectionOptions(client_timeout_s=0.5)
    )
    live = start(service, engine)
    host, port = live.url.removeprefix("http://").split(":")
    body = json.dumps(
        {
            "model": "toy",
            "messages": [{"role": "user", "content": "abc"}],
            "ignore_eos": True,
            "max_tokens": 9_000_000,
            "stream": True,
            "logprobs": True,
            "top_logprobs": 20,
        }
    ).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(f"{head}\r\n\r\n".encode() + body)
        assert client.recv(15).startswith(b"HTTP/1.1 200")
        # It reads no more, and the engine would go on for ever.
        assert engine.ended.wait(timeout=60)
        answer = httpx.post(
            f"{live.url}/v1/completions",
            json={"model": "toy", "prompt": "abc", "max_tokens": 1, "logprobs": 0},
            timeout=60,
        )
        assert answer.json()["choices"][0]["text"] == "a"
    live.stop()
