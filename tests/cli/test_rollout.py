"""`deepwell models register|versions|log` and `deepwell rollout`: the life of a version, told without a server."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.fleet.promotion.tampering import TAMPERINGS, tamper
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.fleet.promotion.gates import GateReport, loss
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion

PROD = "smollm2@prod"


@pytest.fixture(autouse=True)
def data_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "data"
    folder.mkdir()
    monkeypatch.setenv("DEEPWELL_DATA_DIR", str(folder))
    monkeypatch.setenv("COLUMNS", "160")
    return folder


def run(runner: CliRunner, *arguments: str) -> dict[str, Any]:
    result = runner.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def shown(runner: CliRunner, *arguments: str) -> str:
    result = runner.invoke(app, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def under_way(runner: CliRunner) -> dict[str, Any]:
    run(runner, "models", "alias", "set", PROD, "smollm2")
    run(runner, "models", "register", PROD, "v1", "--parent", "smollm2", "--by", "lin")
    return run(runner, "rollout", "start", PROD, "1", "--share", "0.25", "--ungated", "a test", "--by", "lin")


def test_the_log_tells_the_whole_story_and_verifies_it(runner: CliRunner, under_way: dict[str, Any]) -> None:
    assert (under_way["current"], under_way["candidate"], under_way["share"]) == ("smollm2", "v1", 0.25)
    run(runner, "rollout", "promote", PROD, "--reason", "good")
    assert run(runner, "rollout", "revert", PROD)["model"] == "smollm2"
    told = run(runner, "models", "log", PROD)
    assert told["holds"] and told["problems"] == []
    events = [one["event"] for one in told["entries"]]
    assert events == ["alias", "version", "canary", "promoted", "reverted"]
    text = shown(runner, "models", "log")
    for words in (
        f"{PROD} means smollm2; by cli",
        f"{PROD}#1 is v1, made from smollm2; by lin",
        "25 % of the users",
        "now, and not smollm2 any more (good)",
        "The ledger holds",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("replace(entry, '\"v1\"', '\"v2\"')", "entry 2: the entry does not have its hash"),
        ("CAST(x'7bff' AS TEXT)", "cannot be read"),
    ],
)
def test_a_changed_byte_ends_the_log_with_an_error(
    runner: CliRunner, under_way: dict[str, Any], data_dir: Path, changed: str, words: str
) -> None:
    with sqlite3.connect(data_dir / "deepwell.db") as connection:
        connection.execute(f"UPDATE model_ledger SET entry = {changed} WHERE sequence = 2")
    connection.close()
    result = runner.invoke(app, ["models", "log"])
    assert result.exit_code == 1
    assert words in result.output and "was changed" in result.output


def test_no_flipped_bit_ends_the_log_with_a_crash(
    runner: CliRunner, under_way: dict[str, Any], data_dir: Path
) -> None:
    connection = sqlite3.connect(data_dir / "deepwell.db", isolation_level=None)
    connection.text_factory = bytes
    for column in ("entry", "hash", "alias"):
        (right,) = connection.execute(f"SELECT {column} FROM model_ledger WHERE sequence = 3").fetchone()
        for at in range(0, len(right), 17):
            for bit in (1, 128):
                wrong = right[:at] + bytes([right[at] ^ bit]) + right[at + 1 :]
                change = f"UPDATE model_ledger SET {column} = CAST(? AS TEXT) WHERE sequence = 3"
                connection.execute(change, (wrong,))
                result = runner.invoke(app, ["models", "log", "--json"])
                assert isinstance(result.exception, SystemExit), (column, wrong, result.exception)
                assert result.exit_code == 1
                told = json.loads(result.output)
                assert told["problems"] and len(told["entries"]) >= 2
                connection.execute(change, (right,))
    connection.close()
    assert "The ledger holds" in shown(runner, "models", "log")


def test_nothing_is_rolled_out_by_a_ledger_that_tells_no_story(
    runner: CliRunner, under_way: dict[str, Any], data_dir: Path
) -> None:
    with sqlite3.connect(data_dir / "deepwell.db") as connection:
        connection.execute("UPDATE model_ledger SET entry = '{}' WHERE sequence = 2")
    connection.close()
    result = runner.invoke(app, ["rollout", "promote", PROD])
    assert result.exit_code == 1 and "deepwell models log" in result.output


def test_status_versions_and_judge_show_what_there_is(runner: CliRunner) -> None:
    assert "There was no roll-out yet" in shown(runner, "rollout", "status")
    assert "There is no version yet" in shown(runner, "models", "versions")
    assert "The ledger holds" in shown(runner, "models", "log")
    run(runner, "models", "alias", "set", PROD, "smollm2")
    shown(runner, "models", "register", PROD, "v1")
    text = shown(runner, "rollout", "start", PROD, "1", "--ungated", "a test")
    assert "10 % of the users of smollm2@prod get v1, the others smollm2" in text
    status = shown(runner, "rollout", "status", PROD)
    assert f"{PROD}#1: canary" in status and "the votes do not decide yet" in status
    assert run(runner, "rollout", "judge", PROD)["verdict"]["action"] == "wait"
    assert "canary" in shown(runner, "models", "versions", PROD)
    assert "means smollm2 for all users" in shown(runner, "rollout", "abort", PROD, "--reason", "no")
    assert "aborted" in shown(runner, "rollout", "status")
    assert run(runner, "rollout", "status")["under_way"] == []


def test_versions_tell_why_the_gates_refused(runner: CliRunner, data_dir: Path) -> None:
    database = Database.open(data_dir / "deepwell.db")
    report = GateReport.of(loss(2.10, 2.31))
    asyncio.run(Rollouts(database).register(PROD, NewVersion("v1"), "improve", report))
    database.close()
    text = shown(runner, "models", "versions", PROD)
    assert f"{PROD}#1 was refused:" in text
    assert "loss: loss 2.3100 after 2.1000: +10.00 %, where 2 % is the most" in text


def test_an_artefact_is_registered_with_its_record(runner: CliRunner, home: Path) -> None:
    folder = home / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    made = run(runner, "models", "register", PROD, "v1", "--artefact", str(folder))
    assert made["artefact"] == str(folder) and len(made["artefact_sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rollout", "start", PROD, "1"), "there is no alias"),
        (("rollout", "promote", PROD), "there is no alias"),
        (("rollout", "judge", PROD), "deepwell models log"),
        (("rollout", "start", PROD, "1", "--share", "1.5"), "give one between 0 and 1"),
        (("rollout", "start", PROD, "1", "--alpha", "0"), "alpha and margin lie between"),
        (("rollout", "start", PROD, "1", "--steps", "5,nan,100"), "5,nan,100"),
        (("rollout", "start", PROD, "1", "--steps", "5,100", "--hold", "inf"), "cannot be held for inf s"),
        (("models", "register", "../x", "v1"), "cannot be an alias"),
        (("models", "register", PROD, "v1", "--artefact", "/nowhere"), "deepwell tune"),
    ],
)
def test_mistakes_name_the_fix(runner: CliRunner, arguments: tuple[str, ...], words: str) -> None:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == 1 and words in result.output


def test_an_artefact_is_registered_where_servers_in_other_folders_find_it(
    runner: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "adapter").mkdir()
    (home / "adapter" / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(home)
    run(runner, "models", "alias", "set", PROD, "smollm2")
    made = run(runner, "models", "register", PROD, "v1", "--artefact", "adapter")
    assert made["artefact"] == str(home / "adapter")


@pytest.mark.parametrize(("locale", "column"), [("C", 0), ("zh_CN.UTF-8", 1)])
def test_a_wrong_step_says_what_to_do_in_both_languages(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, locale: str, column: int
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    run(runner, "models", "alias", "set", PROD, "smollm2")
    before = (
        (("rollout", "judge", PROD), ("no roll-out of", "没有正在进行的发布"), f"models log {PROD}"),
        (("rollout", "revert", PROD), ("no roll-out made", "不是发布的结果"), f"alias set {PROD} MODEL"),
        (("rollout", "start", PROD, "1"), ("there is no version", "没有版本"), f"models register {PROD}"),
    )
    behind = (
        (("rollout", "start", PROD, "7"), ("there is no version", "没有版本"), f"{PROD}#1"),
        (("rollout", "start", PROD, "1"), ("the gates did not see", "没有经过门禁"), "--ungated"),
        (("rollout", "start", PROD, "1", "--share", "2"), ("no part of the users", "不是用户的一部分"), "0"),
    )
    for steps in (before, behind):
        for command, said, fix in steps:
            result = runner.invoke(app, [*command])
            assert result.exit_code == 1
            assert said[column] in result.output and fix in result.output, result.output
        run(runner, "models", "register", PROD, "v1")
    run(runner, "rollout", "start", PROD, "1", "--ungated", "a test")
    for command in (("models", "alias", "set", PROD, "other"), ("rollout", "revert", PROD)):
        result = runner.invoke(app, [*command])
        assert ("is under way", "正在发布")[column] in result.output
        assert f"rollout abort {PROD}" in result.output


@pytest.mark.parametrize("how", TAMPERINGS)
@pytest.mark.parametrize("verb", ["start", "judge", "promote", "revert"])
def test_no_verb_acts_on_a_ledger_that_does_not_hold(
    runner: CliRunner, data_dir: Path, verb: str, how: str
) -> None:
    run(runner, "models", "alias", "set", PROD, "smollm2")
    database = Database.open(data_dir / "deepwell.db")
    asyncio.run(Rollouts(database).register(PROD, NewVersion("v1"), "loop", GateReport.of()))
    run(runner, "models", "register", PROD, "v2")
    if verb != "start":
        run(runner, "rollout", "start", PROD, "2", "--ungated", "a test")
    if verb == "revert":
        run(runner, "rollout", "promote", PROD)
    tamper(database, how)
    database.close()
    order = ("start", PROD, "1") if verb == "start" else (verb, PROD)
    result = runner.invoke(app, ["rollout", *order])
    if (verb, how) == ("judge", "another alias"):
        assert "wait" in result.output, "nobody voted, so that nothing is acted on"
        return
    assert result.exit_code == 1 and "ledger of models" in result.output
    assert "deepwell models log" in result.output and "backup" in result.output
