"""`deepwell improve`: what it says without an alias, without votes, and of a round under way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.fleet.improve.state import Round, State, StateFile

PROD = "smollm2@prod"


@pytest.fixture(autouse=True)
def data_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "data"
    folder.mkdir()
    monkeypatch.setenv("DEEPWELL_DATA_DIR", str(folder))
    monkeypatch.setenv("DEEPWELL_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("COLUMNS", "160")
    return folder


def test_without_an_alias_the_fix_makes_it(runner: CliRunner) -> None:
    result = runner.invoke(app, ["improve", "run", PROD, "--model", "smollm2", "--json"])
    error = json.loads(result.output.splitlines()[-1])["error"]
    assert result.exit_code == 1 and error["fix"] == f"make it: deepwell models alias set {PROD} smollm2"


def test_without_votes_it_waits(runner: CliRunner) -> None:
    runner.invoke(app, ["models", "alias", "set", PROD, "smollm2"])
    result = runner.invoke(app, ["improve", "run", PROD, "--model", "smollm2"])
    assert result.exit_code == 0, result.output
    assert "Waiting: 0 votes to train on, 50 are needed" in result.output
    events = runner.invoke(app, ["improve", "run", PROD, "--model", "smollm2", "--json"]).output.splitlines()
    assert [json.loads(one)["event"] for one in events] == ["votes", "progress"]
    shown = runner.invoke(app, ["improve", "status", PROD])
    assert shown.output.strip() == f"There was no round yet: `deepwell improve run {PROD}` begins one."


def test_sets_that_are_not_there_are_named(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["improve", "run", PROD, "--frozen", str(tmp_path / "none")])
    assert result.exit_code == 1 and "cannot be measured on: no folder" in result.output


def test_status_shows_the_round(runner: CliRunner, tmp_path: Path) -> None:
    StateFile(tmp_path).write(State("salt", 1, Round(1, "smollm2", "smollm2", "smollm2-prod-1", "train")))
    shown = runner.invoke(app, ["improve", "status", PROD, "--folder", str(tmp_path)])
    assert shown.output.strip() == "Round 1 with smollm2-prod-1: train"
    told = runner.invoke(app, ["improve", "status", PROD, "--folder", str(tmp_path), "--json"])
    assert json.loads(told.output)["round"]["stage"] == "train"


def test_an_alias_that_is_spelt_wrongly_is_named(runner: CliRunner) -> None:
    runner.invoke(app, ["models", "alias", "set", PROD, "smollm2"])
    result = runner.invoke(app, ["improve", "run", "smollm2@pord", "--model", "smollm2"])
    assert result.exit_code == 1 and f"did you mean {PROD}?" in result.output


@pytest.mark.parametrize("share", ["0", "1", "2"])
def test_a_share_that_is_no_part_of_the_users_is_refused_before_anything_is_trained(
    runner: CliRunner, share: str
) -> None:
    runner.invoke(app, ["models", "alias", "set", PROD, "smollm2"])
    result = runner.invoke(app, ["improve", "run", PROD, "--model", "smollm2", "--share", share])
    assert result.exit_code != 0 and "--share" in result.output
