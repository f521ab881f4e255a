"""The verbs through the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.models.builders import write_model_directory
from tests.parallel import free_port
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from typer.testing import CliRunner

import deepwell.cli
from deepwell.cli import VERBS, app
from deepwell.safety.policy import PRESETS, Policy
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.options import GuardOptions
from deepwell.storage.database import Database
from deepwell_bench.suites.safety.policies import VERBS as VERBS_ASKING
from deepwell_bench.suites.safety.policies import judged

CHINESE = "你好，世界"


def test_help_lists_the_verbs_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from deepwell.cli import app; app(['--help'], standalone_mode=False);"
        "print(sorted({'numpy', 'fastapi', 'tokenizers', 'pydantic', 'httpx', 'jinja2'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("[]")
    assert all(f" {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", ["serve", "chat", "ask", "doctor", "pull"])
def test_every_verb_has_json(runner: CliRunner, verb: str) -> None:
    result = runner.invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.output


@pytest.mark.parametrize("flags", [["sql"], ["=x"], ["sql="], ["a=x", "a=y"]], ids=" ".join)
def test_serve_wants_a_name_and_a_path_for_an_adapter(runner: CliRunner, flags: list[str]) -> None:
    result = runner.invoke(app, ["serve", *(part for flag in flags for part in ("--adapter", flag))])
    assert result.exit_code == 1
    assert "NAME=PATH" in result.output


def test_ask_uses_the_running_server(runner: CliRunner, toy_server: Live) -> None:
    result = runner.invoke(app, ["ask", CHINESE, "--temperature", "0"])
    assert (result.exit_code, result.output) == (0, f"{CHINESE}\n")
    assert toy_server.engine.seen[0].params.temperature == 0


def test_ask_says_that_the_model_does_not_know_chinese(
    runner: CliRunner, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    codec = make_codec(tmp_path_factory.mktemp("tokenizer"))
    running = start(make_service(engine, codec, model="smollm2"), engine)
    monkeypatch.setenv("DEEPWELL_PORT", running.url.rpartition(":")[2])
    try:
        result = runner.invoke(app, ["ask", CHINESE, "--temperature", "0"])
        assert result.stdout == f"{CHINESE}\n" and "deepwell pull qwen2.5-coder-0.5b" in result.stderr
        assert not runner.invoke(app, ["ask", "hello", "--temperature", "0"]).stderr
        assert "answer" in json.loads(runner.invoke(app, ["ask", CHINESE, "--json"]).output)
    finally:
        running.stop()


def test_ask_json_has_usage_and_speed(runner: CliRunner, toy_server: Live) -> None:
    result = runner.invoke(app, ["ask", "-", "--json", "--max-tokens", "2", "--system", "s"], input="abc\n")
    answer = json.loads(result.output)
    assert (answer["model"], answer["where"], answer["finish_reason"]) == ("toy", toy_server.url, "length")
    assert answer["completion_tokens"] == 2 and answer["prompt_tokens"] > 3
    assert answer["first_token_seconds"] >= 0 and "tokens_per_second" in answer


def test_ask_without_server_or_model_says_how_to_get_one(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_PORT", str(free_port()))
    result = runner.invoke(app, ["ask", "hi"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "\nfix:   " in result.stderr and "deepwell pull smollm2" in result.stderr
    assert "Traceback" not in result.output
    error = json.loads(runner.invoke(app, ["ask", "hi", "--json"]).stdout)["error"]
    assert error["code"] == "model_not_found" and "deepwell pull smollm2" in error["fix"]


def test_ask_shows_the_servers_error(runner: CliRunner, toy_server: Live) -> None:
    result = runner.invoke(app, ["ask", "x" * 600])
    assert result.exit_code == 1
    assert "maximum context length is 512 tokens" in result.stderr
    assert "DEEPWELL_CONTEXT_POLICY=auto" in result.stderr.partition("\nfix:   ")[2]


def test_ask_leaves_the_policy_to_the_server(
    runner: CliRunner, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(max_model_len=512)
    codec = make_codec(tmp_path_factory.mktemp("tokenizer"))
    running = start(make_service(engine, codec, model="toy", context_policy="auto"), engine)
    monkeypatch.setenv("DEEPWELL_PORT", running.url.rpartition(":")[2])
    text = "\n".join(f"Chapter {number} tells of tides." for number in range(60))
    try:
        result = runner.invoke(app, ["ask", "Who came?", "--temperature", "0"], input=text)
        assert result.exit_code == 0 and "the model read" in result.stderr
        monkeypatch.setenv("DEEPWELL_CONTEXT_POLICY", "strict")
        assert runner.invoke(app, ["ask", "Who came?"], input=text).exit_code == 1
    finally:
        running.stop()


def test_ask_names_a_file_that_is_not_there(runner: CliRunner, tmp_path: Path) -> None:
    for path, words in ((tmp_path / "book.txt", "does not exist"), (tmp_path, "is a directory")):
        result = runner.invoke(app, ["ask", "Who came?", "--file", str(path)])
        assert result.exit_code == 1 and words in result.stderr and "fix:" in result.stderr


def test_chat_keeps_the_history_and_obeys_commands(runner: CliRunner, toy_server: Live, home: Path) -> None:
    saved = home / "talk.json"
    lines = [
        "/help",
        "one",
        CHINESE,
        f"/save {saved}",
        "/nonsense",
        "/system be kind",
        "/system",
        "two",
        "/exit",
        "no",
    ]
    result = runner.invoke(app, ["chat", "--temperature", "0"], input="\n".join(lines))
    assert result.exit_code == 0
    assert CHINESE in result.output and "there is no command /nonsense" in result.output
    assert "be kind" in result.output
    assert json.loads(saved.read_text("utf-8")) == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": CHINESE},
        {"role": "assistant", "content": CHINESE},
    ]
    prompts = [
        bytes(token for token in request.prompt if token < 256).decode() for request in toy_server.engine.seen
    ]
    assert [prompt.count("user") for prompt in prompts] == [1, 2, 1]  # /system starts over
    assert "one" in prompts[1] and prompts[2].startswith("system\nbe kind")


def test_chat_json_gives_an_object_a_turn_and_survives_a_refusal(runner: CliRunner, toy_server: Live) -> None:
    result = runner.invoke(app, ["chat", "--json", "--temperature", "0"], input=f"a\n{'x' * 600}\nb\n")
    first, refused, last = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["answer"], last["answer"]) == ("a", "b")
    assert "/clear starts over" in refused["error"]["message"]
    assert "x" not in bytes(t for t in toy_server.engine.seen[-1].prompt if t < 256).decode()


def test_serve_refuses_a_taken_port_before_it_looks_for_the_model(
    runner: CliRunner, toy_server: Live
) -> None:
    port = toy_server.url.rpartition(":")[2]
    result = runner.invoke(app, ["serve", "no-such-model", "--port", port])
    assert result.exit_code == 1
    assert f"is taken by pid {os.getpid()}" in result.stderr and "--port" in result.stderr


def test_serve_refuses_other_machines_without_keys(runner: CliRunner) -> None:
    result = runner.invoke(app, ["serve", "--host", "0.0.0.0", "--port", "0"])
    assert result.exit_code == 1
    assert "DEEPWELL_API_KEYS" in result.stderr


def test_serve_names_a_bad_flag_and_where_it_came_from(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "flag --precision" in runner.invoke(app, ["serve", "--precision", "int5"]).stderr
    monkeypatch.setenv("DEEPWELL_THREADS", "0")
    assert "environment DEEPWELL_THREADS" in runner.invoke(app, ["serve"]).stderr


def test_doctor_names_what_is_missing_and_the_command(runner: CliRunner) -> None:
    result = runner.invoke(app, ["doctor", "--port", "0", "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert any("deepwell pull smollm2" in problem["fix"] for problem in report["problems"])
    assert report["settings"]["port"] == {"value": 0, "origin": "flag --port"}
    assert report["settings"]["models_dir"]["origin"] == "default"
    assert report["threads"]["used"] >= 1
    assert report["kernels"]["isa"]
    text = runner.invoke(app, ["doctor", "--port", "0"]).output
    assert "fix:" in text and "deepwell pull smollm2" in text


def test_doctor_shows_the_sampling_defaults_that_requests_get(
    runner: CliRunner, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model_directory(tmp_path_factory.mktemp("model"))
    declared = {"temperature": 0.6, "top_p": 0.95, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(declared))
    command = ["doctor", "--port", "0", "--model", f"{folder}/"]
    sampling = json.loads(runner.invoke(app, [*command, "--json"]).stdout)["model"]["sampling"]
    assert (sampling["temperature"], sampling["top_p"]) == (0.6, 0.95)
    assert "temperature 0.6, top_p 0.95" in runner.invoke(app, command).output
    monkeypatch.setenv("DEEPWELL_SAMPLING_DEFAULTS", "off")
    off = json.loads(runner.invoke(app, [*command, "--json"]).stdout)["model"]["sampling"]
    assert (off["temperature"], off["source"]) == (1.0, "OpenAI")


def test_doctor_shows_no_keys(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPWELL_API_KEYS", "a-very-secret-key-0001")
    for arguments in (["doctor", "--port", "0"], ["doctor", "--port", "0", "--json"]):
        output = runner.invoke(app, arguments).output
        assert "very-secret" not in output and "environment DEEPWELL_API_KEYS" in output


def test_doctor_knows_a_running_server(runner: CliRunner, toy_server: Live) -> None:
    report = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert report["server"]["state"] == "a running server serves toy: ready"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_and_stops_cleanly(smollm2_path: Path, home: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "deepwell", "serve", str(smollm2_path), "--port", "0", "--json"]
    command += ["--context", "512", "--demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ready, answer = (json.loads(process.stdout.readline()) for _ in range(2))
        assert ready["event"] == "ready" and ready["context"] == 512
        assert answer["completion_tokens"] > 0
        assert httpx.get(f"{ready['url']}/readyz", timeout=60).json()["model"] == ready["model"]
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def test_ask_loads_the_model_when_no_server_runs(
    smollm2_path: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_PORT", "1")
    question = "What is the capital of France? Answer in one sentence."
    arguments = ["ask", question, "--temperature", "0", "--max-tokens", "8", "--json"]
    answer = json.loads(runner.invoke(app, [*arguments, "--model", str(smollm2_path)]).stdout)
    assert answer["where"] == "this process"
    assert "Paris" in answer["answer"]


@pytest.fixture(params=PRESETS)
def guarded_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Live]:
    """A running server under a policy that ships; a small list stands in for the one that `cn-public` wants pulled."""
    folder = tmp_path_factory.mktemp("guarded")
    terms = [Term("forbidden fruit", "politics", "block")]
    TermList("jionlp", terms, "test", "none", "0" * 64).write(folder / "terms")
    engine = FakeEngine(max_model_len=16_384)
    context = make_service(
        engine,
        make_codec(folder / "tokenizer"),
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        guard=GuardOptions(request.param, folder / "terms"),
    )
    running = start(context, engine)
    monkeypatch.setenv("DEEPWELL_PORT", running.url.rpartition(":")[2])
    monkeypatch.setenv("DEEPWELL_MODEL", "toy")
    yield running
    running.stop()


@pytest.mark.parametrize("verb", ["ask", "chat", "agent run", "agent list", "agent tools", "ps", "mcp serve"])
def test_verbs_that_ask_a_server_work_under_every_policy(
    runner: CliRunner, guarded_server: Live, verb: str
) -> None:
    result = runner.invoke(app, list(VERBS_ASKING[verb]), input="What is the capital of France?\n")
    assert result.exit_code in ((0, 3) if verb == "agent run" else (0,)), result.output
    assert judged(result.output, works=True, why="") == ("works", "")


def test_verbs_that_ask_a_server_are_tried_under_every_policy() -> None:
    """A new one needs a command line in `bench policies`."""
    measured_apart = {
        "compliance",  # asks what is to be refused
        "evaluate", "improve", "simulate",  # minutes of measurements, with prompts of their caller
        "serve", "answers", "aliases", "servers",  # the server itself, and parts of `ask`, `ps` and others
    }  # fmt: skip
    sources = Path(deepwell.cli.__file__).parent
    asking = re.compile(r"from deepwell\.cli\.(?:answers|servers) import")
    found = {
        path.relative_to(sources).parts[0].removesuffix(".py")
        for path in sources.rglob("*.py")
        if "bench" not in path.parts and asking.search(path.read_text("utf-8"))
    }
    assert found - measured_apart <= {line[0] for line in VERBS_ASKING.values()}


def test_a_refusal_without_a_rule_has_failed() -> None:
    refusal = Policy.load("strict").refusal
    assert judged(refusal.text("en", "classifier.injection"), works=True, why="") == (
        "refused",
        "classifier.injection",
    )
    assert judged(refusal.text("zh", "terms:jionlp") + "content_filter", works=False, why="") == (
        "refused",
        "terms:jionlp",
    )
    assert judged('{"finish_reason": "content_filter"}', works=True, why="")[0] == "failed"
    assert judged("Traceback", works=False, why="broke") == ("failed", "broke")
