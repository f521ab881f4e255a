"""`deepwell models updates`: what it prints for people and for programs, in both languages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.models.http_files import FileServer, serve_files
from tests.models.revisions.test_updates import OLD, publish, sha256, stored, template_config
from typer.testing import CliRunner, Result

from deepwell.cli import app
from deepwell.models.revisions.news import REPORT_FILE

FILES = {"config.json": b"{}", "tokenizer_config.json": template_config("{{ old }}")}


def run(store: Path, *arguments: str, language: str = "C.UTF-8", **environ: str) -> Result:
    words = ["models", "updates", *arguments, "--models-dir", str(store)]
    return CliRunner().invoke(app, words, env={"LC_ALL": language, "COLUMNS": "160", **environ})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    stored(tmp_path / "store", "hf:org/m", FILES, revision=OLD, template_hash=sha256("{{ old }}"))
    with serve_files() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        now = {"config.json": b'{"a": 1}', "tokenizer_config.json": template_config("{{ new }}")}
        publish(server, now, licence="mit")
        yield server


@pytest.mark.parametrize(
    ("language", "words"),
    [
        (
            "C.UTF-8",
            ["new", "config.json  changed", "2 -> 8 bytes", "licence: apache-2.0 -> mit", "template:"],
        ),
        (
            "zh_CN.UTF-8",
            ["有更新", "config.json  已修改", "2 -> 8 字节", "许可证: apache-2.0 -> mit", "对话模板:"],
        ),
    ],
)
def test_what_changed_is_printed_in_the_language_of_the_terminal(
    hub: FileServer, tmp_path: Path, language: str, words: list[str]
) -> None:
    done = run(tmp_path / "store", language=language)
    assert done.exit_code == 0
    for word in words:
        assert word in done.output
    assert "deepwell pull 'hf:org/m@" in done.output and "--name m-bbbbbbbbbbbb" in done.output


def test_json_has_everything_and_the_report_is_kept(hub: FileServer, tmp_path: Path) -> None:
    done = run(tmp_path / "store", "--json")
    (model,) = json.loads(done.stdout)["models"]
    assert (model["name"], model["state"]) == ("m", "new")
    assert len(model["sources"][0]["files"]) == 2
    assert (tmp_path / "store" / REPORT_FILE).is_file()


def test_what_was_not_asked_is_said_with_the_fix(hub: FileServer, tmp_path: Path) -> None:
    done = run(tmp_path / "store", DEEPWELL_OFFLINE="1")
    assert done.exit_code == 0
    assert "Not asked:" in done.output and "hf:org/m (m): this source was not asked" in done.output
    assert "unset `offline`" in done.output and "nothing is known" in done.output
    assert "未能询问：" in run(tmp_path / "store", DEEPWELL_OFFLINE="1", language="zh_CN.UTF-8").output


def test_an_unknown_model_is_an_error(hub: FileServer, tmp_path: Path) -> None:
    done = run(tmp_path / "store", "none", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["error"]["code"] == "model_not_found"


def test_an_empty_store_has_nothing_to_look_for(tmp_path: Path) -> None:
    assert "The store is empty." in run(tmp_path / "empty").output
