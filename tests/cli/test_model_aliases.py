"""`deepwell models alias`: names that are set without a server, and what a server then finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app


@pytest.fixture(autouse=True)
def data_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "data"
    folder.mkdir()
    monkeypatch.setenv("DEEPWELL_DATA_DIR", str(folder))
    return folder


def alias(runner: CliRunner, *arguments: str) -> dict[str, Any]:
    result = runner.invoke(app, ["models", "alias", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def shown(runner: CliRunner, *arguments: str) -> str:
    result = runner.invoke(app, ["models", "alias", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_an_alias_is_set_listed_and_removed_with_its_history_kept(runner: CliRunner) -> None:
    assert "There is no alias yet" in shown(runner, "list")
    made = alias(runner, "set", "prod", "smollm2")
    assert (made["name"], made["model"], made["changed_by"], made["stored"]) == (
        "prod",
        "smollm2",
        "cli",
        False,
    )
    alias(runner, "set", "prod", "qwen3-8b")
    assert [one["model"] for one in alias(runner, "list")["aliases"]] == ["qwen3-8b"]
    assert alias(runner, "remove", "prod") == {"removed": "prod"}
    assert alias(runner, "list") == {"aliases": []}
    changes = alias(runner, "history", "prod")["changes"]
    assert [one["model"] for one in changes] == [None, "qwen3-8b", "smollm2"]
    assert [one["model"] for one in alias(runner, "history", "prod", "--limit", "1")["changes"]] == [None]


def test_the_text_says_what_means_what(runner: CliRunner) -> None:
    text = shown(runner, "set", "prod", "smollm2")
    assert "prod means smollm2" in text and "no smollm2 in the model store" in text
    table = shown(runner, "list")
    assert "prod" in table and "smollm2" in table and "cli" in table
    assert "prod is removed" in shown(runner, "remove", "prod")
    assert "(removed)" in shown(runner, "history", "prod")


def test_more_aliases_than_one_page_are_listed(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.cli.model_aliases._PAGE", 2)
    for number in range(5):
        alias(runner, "set", f"name-{number}", "smollm2")
    assert [one["name"] for one in alias(runner, "list")["aliases"]] == [f"name-{n}" for n in range(5)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "a/../b", "smollm2"), "cannot be an alias"),
        (("set", "prod", "prod"), "itself"),
        (("remove", "none"), "there is no alias 'none'"),
        (("history", "none"), "deepwell models alias list"),
    ],
)
def test_mistakes_name_the_fix(runner: CliRunner, arguments: tuple[str, ...], words: str) -> None:
    result = runner.invoke(app, ["models", "alias", *arguments])
    assert result.exit_code == 1 and words in result.output
