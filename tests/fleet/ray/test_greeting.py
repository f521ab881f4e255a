"""A cluster is greeted within seconds: what is no cluster, wants a token, or refuses it, is told apart."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deepwell.fleet.ray import greeting
from deepwell.fleet.ray.greeting import ClusterUnavailable, greet, token_of

_PING = "/ray.rpc.RayletDriver/ClusterInfo"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    monkeypatch.setenv("HOME", str(tmp_path))


@contextmanager
def answering(token: str = "", method: str = _PING) -> Iterator[tuple[int, list[str]]]:
    """Runs a server of gRPC that knows one method; yields its port and the tokens that it was shown."""
    import grpc

    shown: list[str] = []

    def ping(body: bytes, context: Any) -> bytes:
        told = dict(context.invocation_metadata()).get("authorization", "")
        shown.append(told)
        if token and told != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        return b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(ping) if details.method == method else None

    server: Any = grpc.server(ThreadPoolExecutor(2), handlers=(Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, shown
    server.stop(None).wait()


def test_the_token_is_found_where_ray_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_of() == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert token_of() == "home"
    (tmp_path / "other").write_bytes(b"\xff")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert token_of() == ""
    monkeypatch.setenv("RAY_AUTH_TOKEN", " given ")
    assert token_of() == "given"


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "127.0.0.1:1", "ray://127.0.0.1:99999"])
def test_nothing_listens(address: str) -> None:
    with pytest.raises(ClusterUnavailable, match="no Ray cluster answers"):
        greet(address)


@pytest.mark.parametrize("address", ["auto", "local", "ray://head", "http://head/", "ray://head:²"])
def test_other_addresses_are_left_to_ray(address: str) -> None:
    greet(address)


def test_a_silent_port_is_an_error_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "_GREET_S", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ClusterUnavailable, match="not as Ray does"),
    ):
        greet(f"ray://127.0.0.1:{silent.getsockname()[1]}")


def test_an_open_cluster_is_never_shown_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with answering() as (port, shown):
        greet(f"ray://127.0.0.1:{port}")
    assert shown == [""]
    assert not os.environ["RAY_AUTH_MODE"]


def test_a_cluster_that_wants_the_token_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setattr(greeting, "sys", type("Fresh", (), {"modules": {}}))  # Ray is not loaded yet
    with answering("secret") as (port, shown):
        greet(f"ray://127.0.0.1:{port}")
    assert shown == ["", "Bearer secret"]
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(("held", "words"), [("", "wants its token"), ("of another", "refuses the token")])
def test_a_cluster_that_refuses_names_the_fix(held: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", held)
    with answering("secret") as (port, _shown), pytest.raises(ClusterUnavailable, match=words) as refused:
        greet(f"ray://127.0.0.1:{port}")
    assert "ray get-auth-token" in refused.value.fix
    assert not os.environ["RAY_AUTH_MODE"]


def test_a_token_that_no_header_carries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a\nb")
    with answering("secret") as (port, _shown), pytest.raises(ClusterUnavailable, match="refuses the token"):
        greet(f"ray://127.0.0.1:{port}")


def test_the_port_of_something_else_is_named() -> None:
    other = "/other.Service/Method"
    with answering(method=other) as (port, _), pytest.raises(ClusterUnavailable, match="UNIMPLEMENTED"):
        greet(f"ray://127.0.0.1:{port}")
