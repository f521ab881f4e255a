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


def rows(path: Path, count: int = 90) -> str:
    """Writes rows whose labels are the first letter of their input."""
    lines = [{"input": f"{'ab'[n % 2]} {n}", "label": "ab"[n % 2]} for n in range(count)]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return str(path)


def test_a_prompt_is_optimised_and_a_second_run_asks_nothing_again(
    runner: CliRunner, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts(runner, "load", pack(tmp_path / "packs", 1, "Greet"))
    start = tmp_path / "letter.toml"
    start.write_text(
        'id = "letter"\nversion = 1\nlanguage = "en"\nindustry = "other"\npurpose = "Letters."\n'
        'license = "MIT"\ntext = "Name the letter."\n'
    )
    words = [str(start), "--data", rows(tmp_path / "rows.jsonl"), "--model", str(tiny_model)]
    options = ["--calls", "100", "--save", "letter", "--precision", "fp32", "--max-examples", "2"]
    found = prompts(runner, "optimise", *words, *options)
    folder = tmp_path / "prompt-letter"
    assert found["folder"] == "prompt-letter" and found["rows"]["dropped"] == 0
    assert found["search"]["calls"] <= 100 and found["search"]["remembered"] == 0
    assert {one["key"] for one in found["candidates"]} >= {found["start"], found["winner"]}
    assert (found["saved"] is not None) == (
        found["held_out"] is not None and found["held_out"]["verdict"] == "better"
    )
    assert json.loads((folder / "report.json").read_text())["winner"] == found["winner"]
    prompts(runner, "load", str(folder / "winner.toml"))
    shown = runner.invoke(app, ["prompts", "optimise", *words, *options]).output
    calls = found["search"]["calls"]
    assert f"search: {calls} calls ({calls} of them from the journal)" in shown
    assert json.loads((folder / "report.json").read_text())["winner"] == found["winner"]
    other = prompts(runner, "optimise", *words, "--seed", "1", "--precision", "bf16", code=1)["error"]
    assert "other options" in other["message"] and "--output" in other["fix"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no prompt 'nothing'"),
        (["law-clause-en", "--save", "../x"], "cannot be used"),
        (["law-clause-en", "--save", "x\n"], "cannot be used"),
        (["law-clause-en", "--metric", "deep.json"], "is no JSON"),
        (["law-clause-en", "--candidates", "deep.jsonl"], "is no text"),
        (["law-clause-en", "--candidates", "/dev/zero"], "over 4 MB"),
        (["law-clause-en", "--shares", "train=0.5,test=0.5"], "other parts"),
        (["law-clause-en", "--shares", "train=nan,development=0.5,held_out=0.5"], "other parts"),
        (["law-clause-en", "--held-out", "missing.jsonl"], "missing.jsonl does not exist"),
        (["law-clause-en", "--held-out", "."], "directory"),
        (["law-clause-en", "--metric", "accuracy"], "'accuracy' is no metric"),
        (["law-clause-en", "--calls", "20"], "too few to tell"),
        (["law-clause-en", "--answer-field", "none"], "have no answer"),
    ],
)
def test_a_search_that_cannot_be_made_says_why(
    runner: CliRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("deep.json", "deep.jsonl"):
        (tmp_path / name).write_text("[" * 100_000)
    given = ["--data", rows(tmp_path / "rows.jsonl"), "--model", "no-model"]  # not even looked for
    error = prompts(runner, "optimise", *words, *given, code=1)["error"]
    assert said in error["message"] and error["fix"]
    if words[1:] and words[1] in ("--metric", "--calls"):
        assert not (tmp_path / "prompt-law-clause-en").exists()


def test_changes_on_the_command_line_stand_in_the_audit_trail(runner: CliRunner, tmp_path: Path) -> None:
    folder = pack(tmp_path / "packs", 1, "Greet")
    for words in (["load", folder], ["load", folder], ["use", "greeting", "1"], ["remove", "greeting"]):
        prompts(runner, *words)
    trail = tmp_path / "trail.jsonl"
    result = runner.invoke(app, ["audit", "export", "--tenant", "local", "--output", str(trail)])
    assert result.exit_code == 0, result.output
    entries = [one for one in trail.read_text().splitlines() if "prompt" in one]
    assert [
        action in entry for action, entry in zip(("create", "choose", "delete"), entries, strict=True)
    ] == [True] * 3
    assert "greeting" not in "".join(entries)  # a client's name stands there as a hash
    assert "Greet {{name}}" not in trail.read_text()
