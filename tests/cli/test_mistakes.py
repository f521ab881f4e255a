"""Forty mistakes of the first hour: each message names its fix, in English and in Chinese, without a traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from tests.parallel import free_port
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from typer.testing import CliRunner

from deepwell.cli import app

LANGUAGES = {"en": ("C.UTF-8", "en-GB,en;q=0.9"), "zh": ("zh_CN.UTF-8", "zh-CN,zh;q=0.9,en;q=0.8")}
HANZI = re.compile(r"[\u4e00-\u9fff]")
KEY = "key-of-one-user-0001"
CHAT = "/v1/chat/completions"
QUESTION = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True)
class Stage:
    """The places of a mistake: an empty home, a servable model, a server, and one that asks for a key."""

    home: Path
    model: Path
    url: str
    keyed_url: str
    absent_port: int

    def filled(self, text: str) -> str:
        port = self.url.rpartition(":")[2]
        return text.format(
            home=self.home,
            model=self.model,
            url=self.url,
            port=port,
            keyed=self.keyed_url,
            absent=self.absent_port,
        )


@dataclass(frozen=True)
class Mistake:
    """A command as it is typed, the variables and files around it, and what its message has to name.

    `ends` is the exit code. A conversation goes on after a mistake, and so ends with 0. An error that a server sends has its
    fix in its message.
    """

    name: str
    command: str
    fix: str
    environ: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    typed: str = ""
    ends: int = 1
    by_server: bool = False


@dataclass(frozen=True)
class Request:
    """A request, and what the message of its answer has to name."""

    name: str
    path: str
    fix: str
    method: str = "POST"
    json: object = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    keyed: bool = False


COMMANDS = [
    Mistake("a verb misspelt", "lst", "deepwell list", ends=2),
    Mistake("an action misspelt", "models remov x", "deepwell models remove", ends=2),
    Mistake("an option misspelt", "ask --max-token 20 hi", "--max-tokens", ends=2),
    Mistake("an argument left out", "pull", "deepwell pull", ends=2),
    Mistake("an option left out", "media draw apple", "deepwell media draw --out FILE", ends=2),
    Mistake("a question left out", "ask", 'deepwell ask "', ends=1),
    Mistake("a variable misspelt", "doctor", "DEEPWELL_PRECISION", environ={"DEEPWELL_PRECISON": "int4"}),
    Mistake("a wrong precision", "serve --precision int5", "auto, int8, int4"),
    Mistake("a port too high", "serve --port 70000", "port = 8000"),
    Mistake("no threads", "serve", "DEEPWELL_THREADS", environ={"DEEPWELL_THREADS": "0"}),
    Mistake("a broken config file", "serve", 'model = "smollm2"', files={"config.toml": b"port ="}),
    Mistake("a setting misspelt", "serve", "port", files={"config.toml": b"prot = 8001"}),
    Mistake(
        "a config file that is not there", "serve", "DEEPWELL_CONFIG", environ={"DEEPWELL_CONFIG": "/no.toml"}
    ),
    Mistake("a model misspelt", "ask --model smolm2 hi", "smollm2"),
    Mistake("a model not pulled yet", "serve qwen2.5-0.5b", "deepwell pull qwen2.5-0.5b"),
    Mistake("a file that is not there", "serve ./nofile.gguf", "deepwell list"),
    Mistake("a file that is no model", "serve {home}/notes.txt", ".gguf", files={"notes.txt": b"hello"}),
    Mistake(
        "half a download",
        "serve {home}/half.gguf",
        "half.gguf",
        files={"half.gguf": b"GGUF\x03\0\0\0" + b"\xff" * 40},
    ),
    Mistake("a folder that is no model", "serve {home}/cache", "safetensors", files={"cache/a.txt": b""}),
    Mistake("a model named twice", "serve {model} {model}", "/v1/embeddings"),
    Mistake(
        "an adapter of a model that is not served",
        "serve {model} --adapter other:sql=./sql",
        "MODEL:NAME=PATH",
    ),
    Mistake("a port that is taken", "serve {model} --port {port}", "--port"),
    Mistake("every machine, and no key", "serve {model} --host 0.0.0.0", "deepwell keys create"),
    Mistake("a context too long for the model", "serve {model} --context 1000000", "--context 1"),
    Mistake("a cache too large", "serve {model} --kv-tokens 100000000000", "--kv-tokens"),
    Mistake("a source that is none", "pull smollm", "deepwell pull smollm2"),
    Mistake(
        "a pull while offline is set", "pull smollm2", "DEEPWELL_OFFLINE", environ={"DEEPWELL_OFFLINE": "1"}
    ),
    Mistake(
        "a hub that cannot be reached",
        "pull hf:org/name",
        "HF_ENDPOINT",
        environ={"HF_ENDPOINT": "http://127.0.0.1:{absent}"},
    ),
    Mistake(
        "an architecture that is not served",
        "pull {home}/gpt",
        "Qwen3",
        files={"gpt/config.json": b'{"architectures": ["GPT2LMHeadModel"]}', "gpt/model.safetensors": b""},
    ),
    Mistake(
        "a model store that is a file", "models list --models-dir {home}/a", "{home}/a", files={"a": b""}
    ),
    Mistake("a configuration that is not there", "tune dpo {home}/run.yaml", "YAML"),
    Mistake(
        "a configuration that is not well formed",
        "tune sft {home}/run.yaml",
        "{home}/run.yaml",
        files={"run.yaml": b"data: [a"},
    ),
    Mistake("a value that cannot be used", "tune sft --data a.jsonl --set train.seed=many", "train.seed"),
    Mistake(
        "two keys that do not go together",
        "tune ppo --data a.jsonl --reward rule --algorithm grpo",
        "train.samples=4",
    ),
    Mistake("a reinforcement without a reward", "tune ppo --data a.jsonl", "--reward moderation"),
    Mistake(
        "an artefact that is no folder", "models register a@prod b --artefact {home}/no", "deepwell tune"
    ),
    Mistake("an export into nowhere", "models export {model} /proc/none/out", "mkdir -p"),
    Mistake("an export to another format", "models export {model} out --to onnx", "--to safetensors"),
    Mistake("nobody at the port", "ask --port {absent} hi", "deepwell serve --port {absent}"),
    Mistake("a server's key left out", "ask --url {keyed} hi", "DEEPWELL_API_KEY"),
    Mistake("a server's key wrong", "ask --url {keyed}/v1 --api-key wrong hi", "deepwell keys create"),
    Mistake("a model that the server has not", "ask --port {port} --model gpt-4o hi", "--model toy"),
    Mistake("a prompt too long", "ask --port {port} " + "x" * 600, "512", by_server=True),
    Mistake("a scope misspelt", "keys create ci --scope inferense", "inference"),
    Mistake("a package that is missing", "bench sdk --model {model}", "pip install anthropic"),
    Mistake(
        "a disk that is full", "chat --port {port}", "DEEPWELL_HOME", typed="hi\n/save /dev/full\n", ends=0
    ),
]
REQUESTS = [
    Request("a base URL without /v1", "/chat/completions", CHAT, json=QUESTION),
    Request("another vendor's model", CHAT, "'toy'", json=QUESTION | {"model": "gpt-4o"}),
    Request(
        "broken JSON",
        CHAT,
        "JSON",
        content=b'{"model": "toy",}',
        headers={"content-type": "application/json"},
    ),
    Request("a parameter misspelt", CHAT, "'max_tokens'", json=QUESTION | {"max_token": 5}),
    Request("a request without a key", "/v1/models", "deepwell keys create", method="GET", keyed=True),
]
MISTAKES = [*COMMANDS, *REQUESTS]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    codec = make_codec(tmp_path_factory.mktemp("tokenizer"))
    running: list[Live] = []
    for keys in ((), (SecretStr(KEY),)):
        engine = FakeEngine()
        running.append(start(make_service(engine, codec, model="toy", api_keys=keys), engine))
    yield running[0].url, running[1].url
    for one in running:
        one.stop()


@pytest.fixture
def stage(home: Path, tiny_model: Path, urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(home)
    return Stage(home, tiny_model, *urls, absent_port=free_port())


def message_of_command(stage: Stage, mistake: Mistake, language: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, content in mistake.files.items():
        path = stage.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setenv("LANG", LANGUAGES[language][0])
    monkeypatch.setenv("DEEPWELL_PORT", str(stage.absent_port))
    for name, value in mistake.environ.items():
        monkeypatch.setenv(name, stage.filled(value))
    command = [stage.filled(word) for word in mistake.command.split()]
    result = CliRunner().invoke(app, command, input=mistake.typed, prog_name="deepwell")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == mistake.ends, result.output
    return result.stderr


def message_of_request(stage: Stage, request: Request, language: str) -> str:
    headers = {"accept-language": LANGUAGES[language][1], **request.headers}
    url = f"{stage.keyed_url if request.keyed else stage.url}{request.path}"
    answer = httpx.request(request.method, url, headers=headers, json=request.json, content=request.content)
    assert answer.status_code in (400, 401, 404)
    return answer.json()["error"]["message"]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_message_names_the_fix_in_both_languages(
    stage: Stage, mistake: Mistake | Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mistake.name == "a package that is missing":
        monkeypatch.setitem(sys.modules, "anthropic", None)
    said: dict[str, str] = {}
    for language in LANGUAGES:
        if isinstance(mistake, Request):
            said[language] = message_of_request(stage, mistake, language)
        else:
            said[language] = message_of_command(stage, mistake, language, monkeypatch)
    for language, text in said.items():
        assert stage.filled(mistake.fix) in text, text
        assert "Traceback" not in text
        assert bool(HANZI.search(text)) == (language == "zh"), text
        assert len(text) < 1600, "a list of everything names nothing"
    if isinstance(mistake, Mistake) and not mistake.by_server:
        assert re.search(r"^error: .+\nfix:   .+", said["en"], re.MULTILINE | re.DOTALL)
        assert re.search(r"^错误：.+\n解决：.+", said["zh"], re.MULTILINE | re.DOTALL)


def test_there_are_at_least_forty_and_no_two_alike() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 40
