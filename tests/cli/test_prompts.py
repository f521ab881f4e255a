"""`deepwell prompts`: packs become stored prompts of a tenant."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app

PACK = """id = "greeting"
version = {version}
language = "en"
industry = "support"
purpose = "Greets."
license = "MIT"
text = "{text} {{{{name}}}}."
[variables]
name = "who is greeted"
[example]
input = "Hi"
answer = "Hello, [Ada]."
variables = {{ name = "Ada" }}
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path / "home"))
    return CliRunner()


def prompts(runner: CliRunner, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = runner.invoke(app, ["prompts", *arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def pack(folder: Path, version: int, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "greeting.toml").write_text(PACK.format(version=version, text=text))
    return str(folder)


def test_a_folder_is_loaded_once_for_each_version(runner: CliRunner, tmp_path: Path) -> None:
    folder = pack(tmp_path / "packs", 1, "Greet")
    assert [one["state"] for one in prompts(runner, "load", folder)["data"]] == ["new"]
    assert [one["state"] for one in prompts(runner, "load", folder)["data"]] == ["unchanged"]
    pack(tmp_path / "packs", 1, "Welcome")
    error = prompts(runner, "load", folder, code=1)["error"]
    assert "versions never change" in error["message"] and "the version 2" in error["fix"]
    pack(tmp_path / "packs", 2, "Welcome")
    assert [one["state"] for one in prompts(runner, "load", folder)["data"]] == ["new version"]
    shown = prompts(runner, "show", "greeting")
    assert (shown["version"], shown["instructions"]) == (2, "Welcome {{name}}.")
    assert prompts(runner, "use", "greeting", "1")["current"] is True
    assert prompts(runner, "show", "greeting")["versions"] == [
        {"version": 2, "current": False},
        {"version": 1, "current": True},
    ]
    assert prompts(runner, "list")["data"][0]["version"] == 1
    assert prompts(runner, "list", "--tenant", "acme")["data"] == []
    assert "not found" in prompts(runner, "show", "greeting", "--tenant", "acme", code=1)["error"]["message"]
    assert prompts(runner, "remove", "greeting") == {"id": "greeting", "deleted": True}
    assert "not found" in prompts(runner, "remove", "greeting", code=1)["error"]["message"]


def test_an_older_version_that_is_loaded_again_says_that_it_is_current_now(
    runner: CliRunner, tmp_path: Path
) -> None:
    folder = pack(tmp_path / "packs", 1, "Greet")
    runner.invoke(app, ["prompts", "load", folder])
    newer = pack(tmp_path / "newer", 2, "Welcome")
    assert prompts(runner, "load", newer)["data"][0]["state"] == "new version"
    assert prompts(runner, "load", folder)["data"][0]["state"] == "current again"
    assert prompts(runner, "list")["data"][0]["version"] == 1


def test_people_read_tables_and_the_whole_text(runner: CliRunner, tmp_path: Path) -> None:
    assert "no prompts yet" in runner.invoke(app, ["prompts", "list"]).output
    runner.invoke(app, ["prompts", "load", pack(tmp_path / "packs", 1, "Greet")])
    assert "greeting" in runner.invoke(app, ["prompts", "list"]).output
    shown = runner.invoke(app, ["prompts", "show", "greeting"]).output
    assert "Greet {{name}}." in shown and "Hello, [Ada]." in shown and "who is greeted" in shown
    assert "is current" in runner.invoke(app, ["prompts", "use", "greeting", "1"]).output
    assert "is deleted" in runner.invoke(app, ["prompts", "remove", "greeting"]).output


def test_a_version_that_no_database_holds_is_refused(runner: CliRunner, tmp_path: Path) -> None:
    runner.invoke(app, ["prompts", "load", pack(tmp_path / "packs", 1, "Greet")])
    for words in (["show", "greeting", "--version"], ["use", "greeting"]):
        result = runner.invoke(app, ["prompts", *words, "99999999999999999999"])
        assert result.exit_code == 2 and isinstance(result.exception, SystemExit)


def test_a_pack_that_comes_along_is_loaded_by_its_id(runner: CliRunner) -> None:
    found = prompts(runner, "packs")["data"]
    assert found and found[0]["id"] in runner.invoke(app, ["prompts", "packs"]).output
    assert prompts(runner, "load", found[0]["id"])["data"][0]["state"] == "new"


def test_one_bad_file_keeps_all_of_a_folder_out(runner: CliRunner, tmp_path: Path) -> None:
    folder = pack(tmp_path / "packs", 1, "Greet")
    (tmp_path / "packs" / "z.toml").write_text("id = 1")
    error = prompts(runner, "load", folder, code=1)["error"]
    assert "z.toml" in error["message"] and error["fix"]
    assert prompts(runner, "list")["data"] == []
