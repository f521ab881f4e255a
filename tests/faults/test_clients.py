"""Clients that stop reading or sending, and many of them: cut off, and nobody else waits for them."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.waiting import until

from deepwell.server.options import ConnectionOptions


@contextlib.contextmanager
def time_stands_still(live: Live) -> Iterator[None]:
    """No client is late within the block, however slow this machine is."""
    table, now = live.server._connections, time.monotonic()
    table._clock = lambda: now
    yield
    table._clock = time.monotonic


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
        with time_stands_still(live):
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


KEY = "a-key-of-one-user-0001"
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 2}
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

Connect = Callable[[], socket.socket]


def everything(client: socket.socket) -> bytes:
    """Everything that the server sends until it closes the connection."""
    client.settimeout(60)
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            data += part
    return data


@pytest.fixture
def connect() -> Iterator[Callable[[Live], Connect]]:
    with contextlib.ExitStack() as clients:

        def to(live: Live) -> Connect:
            host, port = live.url.removeprefix("http://").split(":")
            return lambda: clients.enter_context(socket.create_connection((host, int(port)), timeout=60))

        yield to


def test_clients_that_stall_are_cut_off(tmp_path: Path, connect: Callable[[Live], Connect]) -> None:
    engine = FakeEngine()
    options = ConnectionOptions(client_timeout_s=0.3, keep_alive_s=0.3)
    live = start(make_service(engine, make_codec(tmp_path), model="toy", connections=options), engine)
    open_one = connect(live)
    with time_stands_still(live):
        silent, head, body, trickle, idle = (open_one() for _ in range(5))
        head.sendall(b"GET /healthz HTTP/1.1\r\nhost: loc")
        body.sendall(POST + b"content-length: 10\r\n\r\n{")
        trickle.sendall(POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n")
        idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        table = live.server._connections
        until(lambda: [len(wait.since) for wait in (table.new, table.heads, table.idle)] == [1, 1, 1])
    assert everything(silent) == b""
    assert everything(head).startswith(b"HTTP/1.1 408")
    for client in (body, trickle):
        answer = everything(client)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"1024 more bytes of the request's body did not come within 0.3 s" in answer
    assert everything(idle).startswith(b"HTTP/1.1 200")
    assert engine.seen == []
    live.stop()


def test_silent_clients_give_way_and_answers_under_way_do_not(
    tmp_path: Path, connect: Callable[[Live], Connect]
) -> None:
    engine = FakeEngine(endless=True)
    options = ConnectionOptions(max_connections=3)
    live = start(make_service(engine, make_codec(tmp_path), model="toy", connections=options), engine)
    open_one = connect(live)
    streamed = json.dumps(CHAT | {"stream": True, "ignore_eos": True, "max_tokens": 200}).encode()
    streams = [open_one(), open_one()]
    for stream in streams:
        stream.sendall(POST + b"content-length: %d\r\n\r\n" % len(streamed) + streamed)
        assert stream.recv(15).startswith(b"HTTP/1.1 200")
    silent = [open_one() for _ in range(6)]
    asks = open_one()
    asks.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert asks.recv(15).startswith(b"HTTP/1.1 200")  # in the place of one of the silent
    assert [everything(client) for client in silent] == [b""] * 6
    third = open_one()
    third.sendall(POST + b"content-length: %d\r\n\r\n" % len(streamed) + streamed)
    assert third.recv(15).startswith(b"HTTP/1.1 200")  # in the place of the one that asked
    last = open_one()
    last.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert all(stream.recv(1) for stream in (*streams, third))
    third.close()
    assert last.recv(15).startswith(b"HTTP/1.1 200")  # when there is a place
    live.stop()


@contextlib.contextmanager
def small_server(limit: int, taken: int, log: Path) -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "tests.faults.small_server", str(limit), str(taken), KEY]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=Path(__file__).parents[2]
        ) as process,
    ):
        assert process.stdout is not None
        yield process.pid, f"127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()
        assert process.wait(60) == 0


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    ("taken", "says"),
    [(0, "no further connection may be opened"), (120, "Too many open files")],
    ids=["silent clients", "no descriptors"],
)
def test_hundreds_of_clients_lock_nobody_out_of_a_small_process(
    tmp_path: Path, taken: int, says: str
) -> None:
    log = tmp_path / "log"
    with small_server(192, taken, log) as (pid, address), contextlib.ExitStack() as clients:
        host, port = address.split(":")
        ask = {"authorization": f"Bearer {KEY}"}
        assert (
            httpx.post(
                f"http://{address}/v1/chat/completions", json=CHAT, headers=ask, timeout=60
            ).status_code
            == 200
        )
        before = resident_bytes(pid)
        for number in range(300):
            client = clients.enter_context(socket.create_connection((host, int(port)), timeout=60))
            with contextlib.suppress(OSError):
                client.sendall(b"GET / HTTP/1.1\r\nx: "[: number % 2 * 20])
            if number % 75 == 74:
                answer = httpx.post(
                    f"http://{address}/v1/chat/completions", json=CHAT, headers=ask, timeout=60
                )
                assert answer.status_code == 200
        assert resident_bytes(pid) - before < 20 << 20
    lines = log.read_text().splitlines()
    assert len(lines) == 1 and says in lines[0]
