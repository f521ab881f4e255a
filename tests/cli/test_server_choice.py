"""Which server answers `ask`, `chat`, `ps` and `doctor`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydantic import SecretStr
from tests.parallel import free_port
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from typer.testing import CliRunner

from deepwell.cli import app, servers
from deepwell.cli.servers import FoundServer, server_url
from deepwell.dialogue.model import ServedModel
from deepwell.errors import InvalidRequest
from deepwell.settings import Settings

KEY = "key-of-one-user-0001"


@pytest.fixture
def unnamed(toy_server: Live, monkeypatch: pytest.MonkeyPatch) -> Live:
    """The server of the model `toy`, while nobody names a model."""
    monkeypatch.delenv("DEEPWELL_MODEL")
    return toy_server


@pytest.fixture
def keyed(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Live]:
    engine = FakeEngine()
    codec = make_codec(tmp_path_factory.mktemp("tokenizer"))
    running = start(make_service(engine, codec, model="toy", api_keys=(SecretStr(KEY),)), engine)
    yield running
    running.stop()


class Page(BaseHTTPRequestHandler):
    """Another program's web page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def foreign() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(timeout=60)
    server.server_close()


def test_a_model_that_nobody_named_is_the_servers_own(runner: CliRunner, unnamed: Live) -> None:
    answer = json.loads(runner.invoke(app, ["ask", "hello", "--temperature", "0", "--json"]).stdout)
    assert (answer["model"], answer["where"], answer["answer"]) == ("toy", unnamed.url, "hello")
    talk = runner.invoke(app, ["chat", "--temperature", "0"], input="hello\n")
    assert f"toy from {unnamed.url}" in talk.output and "hello" in talk.output


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_a_url_may_be_written_as_for_a_client(runner: CliRunner, unnamed: Live, tail: str) -> None:
    url = unnamed.url + tail
    answer = json.loads(runner.invoke(app, ["ask", "hi", "--url", url, "--json"]).stdout)
    assert answer["where"] == unnamed.url


def test_a_url_needs_no_scheme_and_must_be_one(home: Path) -> None:
    assert server_url(Settings.load(url="localhost:8000")) == "http://localhost:8000"
    assert server_url(Settings.load(port=81)) == "http://127.0.0.1:81"
    for url in ("ftp://x", "http://", "http://x:99999"):
        with pytest.raises(InvalidRequest, match=r"write it as http://127\.0\.0\.1:8000"):
            server_url(Settings.load(url=url))


def test_piped_text_is_put_behind_the_question(runner: CliRunner, unnamed: Live) -> None:
    arguments = ["ask", "Summarise:", "--temperature", "0"]
    assert runner.invoke(app, arguments, input="one\ntwo\n").output == "Summarise:\n\none\ntwo\n"
    assert runner.invoke(app, ["ask", "--temperature", "0"], input="three\n").output == "three\n"


@pytest.mark.parametrize("flag", ["--port", "--url"])
def test_a_named_server_that_is_not_there_is_an_error_and_loads_nothing(runner: CliRunner, flag: str) -> None:
    port = free_port()
    value = str(port) if flag == "--port" else f"http://127.0.0.1:{port}"
    result = runner.invoke(app, ["ask", "hi", flag, value])
    assert result.exit_code == 1 and f"no server answers at http://127.0.0.1:{port}" in result.stderr
    assert f"deepwell serve --port {port}" in result.stderr


def test_what_is_no_server_of_models_is_named_or_passed_over(
    runner: CliRunner, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = runner.invoke(app, ["ask", "hi", "--url", foreign])
    assert refused.exit_code == 1 and "not an OpenAI-compatible server" in refused.stderr
    monkeypatch.setenv("DEEPWELL_PORT", foreign.rpartition(":")[2])
    assert "deepwell pull smollm2" in runner.invoke(app, ["ask", "hi"]).stderr
    report = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert any("is taken by" in problem["message"] for problem in report["problems"])


def test_a_keyed_server_asks_for_the_key_and_takes_it(
    runner: CliRunner, keyed: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_PORT", keyed.url.rpartition(":")[2])
    without = runner.invoke(app, ["ask", "hi"])
    assert without.exit_code == 1 and "DEEPWELL_API_KEY" in without.stderr
    wrong = runner.invoke(app, ["ask", "hi", "--api-key", "wrong"])
    assert wrong.exit_code == 1 and "does not know the API key" in wrong.stderr
    assert runner.invoke(app, ["ask", "hi", "--api-key", KEY, "--temperature", "0"]).output == "hi\n"
    monkeypatch.setenv("DEEPWELL_API_KEY", KEY)
    assert runner.invoke(app, ["ask", "hi", "--temperature", "0"]).output == "hi\n"


def test_doctor_knows_a_keyed_server_of_ours(
    runner: CliRunner, keyed: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_PORT", keyed.url.rpartition(":")[2])
    report = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert "asks for an API key" in report["server"]["state"]
    assert not any("is taken" in problem["message"] for problem in report["problems"])


def test_doctor_knows_a_server_of_another_model(
    runner: CliRunner, toy_server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_MODEL", "smollm2")
    report = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert report["server"]["state"] == "a running server serves toy: ready"


def test_ps_lists_this_users_servers_once(
    runner: CliRunner, toy_server: Live, keyed: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_serving_processes", lambda: [Path("/proc") / str(os.getpid())])
    listed = json.loads(runner.invoke(app, ["ps", "--json"]).stdout)["servers"]
    found = {one["url"]: one for one in listed if one["url"] in (toy_server.url, keyed.url)}
    assert len(found) == 2 and found[toy_server.url]["models"] == ["toy"]
    assert found[keyed.url]["state"] == "keyed" and found[keyed.url]["pid"] == os.getpid()
    text = runner.invoke(app, ["ps"]).output
    assert toy_server.url in text and "asks for an API key" in text


def test_ps_says_so_where_none_runs(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_serving_processes", list)
    monkeypatch.setenv("DEEPWELL_PORT", str(free_port()))
    assert "deepwell serve" in runner.invoke(app, ["ps"]).output


def test_an_absent_server_is_no_error_of_its_own() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert servers.examine_server(url) == FoundServer(url, "absent")


def test_a_question_without_a_model_goes_to_the_main_model_of_several(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the default of the setting, smollm2, is served beside it."""
    engine, codec = FakeEngine(), make_codec(tmp_path)
    second = ServedModel("smollm2", FakeEngine(), codec)
    running = start(make_service(engine, codec, model="toy", embedder=second), engine)
    try:
        monkeypatch.delenv("DEEPWELL_MODEL", raising=False)
        answer = json.loads(runner.invoke(app, ["ask", "hi", "--url", running.url, "--json"]).stdout)
        assert answer["model"] == "toy"
    finally:
        running.stop()


def test_a_named_server_without_models_is_an_error_and_nothing_is_loaded_here(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:8499"
    empty = FoundServer(url, "serving", is_deepwell=True)
    monkeypatch.setattr(servers, "examine_server", lambda *_: empty)
    result = runner.invoke(app, ["ask", "hi", "--url", url])
    assert result.exit_code == 1 and "lists no model" in result.stderr


@pytest.mark.parametrize(
    ("models", "generating", "states", "expected"),
    [
        (("encoder", "a", "b"), {"a", "b"}, {}, "a"),
        (("a", "b"), {"a", "b"}, {"a": "not_loaded", "b": "loaded"}, "b"),
        (("encoder", "a", "b"), {"a", "b"}, {"encoder": "loaded", "a": "not_loaded", "b": "not_loaded"}, "a"),
        (("gpt", "other"), set[str](), {}, "gpt"),
    ],
    ids=["an encoder first", "one is loaded", "none is loaded", "another server"],
)
def test_a_servers_own_model_generates_and_is_loaded_if_one_is(
    models: tuple[str, ...], generating: set[str], states: dict[str, str], expected: str
) -> None:
    found = FoundServer("http://test", "serving", models, frozenset(generating), states)
    assert found.own_model == expected


def test_map_reduce_reads_a_document_and_asks_no_server(runner: CliRunner, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("The harbour closed. It rained.")
    without = runner.invoke(app, ["ask", "Summarise it", "--map-reduce"])
    assert without.exit_code == 1 and "--file BOOK.txt --map-reduce" in without.stderr
    asked = ["ask", "Summarise it", "--file", str(book), "--map-reduce", "--url", "http://127.0.0.1:9"]
    elsewhere = runner.invoke(app, asked)
    assert elsewhere.exit_code == 1 and "leave --url and --port out" in elsewhere.stderr
