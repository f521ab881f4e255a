"""`deepwell serve --improve`: looks in a process of their own, which end with the server, and what they are told to do."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.improving import beside
from deepwell.cli.improving.beside import Looks
from deepwell.cli.improving.look import MISTAKE, Order, command, look, main
from deepwell.settings import Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database

STAND_IN = """
import json, os, signal, sys, time
folder = sys.argv[1]
count = len(os.listdir(folder))
open(f"{folder}/look-{count}", "w").write(f"{os.nice(0)}")
print("a library says hello")
if count == 0:
    print(json.dumps({"event": "progress", "waiting": "3 new votes, 50 are needed"}), flush=True)
    sys.exit(0)
if count == 1:
    print(json.dumps({"event": "error", "message": "no room", "fix": "make some"}), flush=True)
    sys.exit(2)
def stop(*_):
    open(f"{folder}/stopped", "w").close()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print(json.dumps({"event": "stage", "round": 1, "stage": "train", "model": "m-1"}), flush=True)
open(f"{folder}/waiting", "w").close()
while True:
    time.sleep(0.05)
"""


def test_looks_run_at_the_lowest_priority_and_end_with_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deepwell.server")
    program, seen = tmp_path / "look.py", tmp_path / "seen"
    program.write_text(STAND_IN)
    seen.mkdir()
    looks = Looks([sys.executable, str(program), str(seen)], tmp_path / "improve", "m@prod", 0.05)
    looks.start()
    until((seen / "waiting").exists)
    until(lambda: any("train" in one.message for one in caplog.records))
    looks.stop()
    assert (seen / "stopped").exists(), "it was asked to stop, not killed"
    assert (seen / "look-0").read_text() == "19"
    assert [one.message for one in caplog.records if one.message.startswith("improve")] == [
        "improve m@prod: waiting: 3 new votes, 50 are needed",
        "improve m@prod: no room: make some",
        "improve m@prod: round 1: train m-1",
    ]


@pytest.fixture
def home_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (home / "data").mkdir()
    monkeypatch.setenv("DEEPWELL_DATA_DIR", str(home / "data"))
    monkeypatch.setenv("DEEPWELL_STATE_DIR", str(home / "state"))
    return home


async def test_a_look_makes_the_alias_of_the_main_model_and_waits_for_votes(home_dir: Path) -> None:
    settings = Settings.load(model="smollm2", adapter_dir=home_dir / "adapters")
    order = Order.of(settings, "smollm2")
    assert (order.alias, order.make) == ("smollm2@prod", True)
    assert order.flags["adapter_dir"] == str(home_dir / "adapters")
    database = Database.of(settings)
    events: list[dict[str, Any]] = []
    try:
        for _ in range(2):
            found = await look(order, settings, database, events.append)
            assert found is not None and found.waiting == "0 votes to train on, 50 are needed"
        assert (await AliasStore(database).names()).models == {"smollm2@prod": "smollm2"}
    finally:
        database.close()
    assert (home_dir / "adapters" / "improve" / "smollm2@prod" / "state.json").is_file()


def test_an_alias_that_is_named_is_not_made(home_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.load(model="smollm2", improve_alias="chat")
    assert main([command(Order.of(settings, "smollm2"))[-1]]) == MISTAKE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["event"] == "error" and "deepwell models alias set chat smollm2" in told["fix"]


def test_a_folder_that_cannot_be_written_is_told_as_an_error(
    home_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home_dir / "state").write_text("in the way")
    settings = Settings.load(model="smollm2")
    assert main([command(Order.of(settings, "smollm2"))[-1]]) == MISTAKE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["event"] == "error" and str(home_dir / "state") in told["message"] + told["fix"]


def test_a_server_that_cannot_train_says_so_before_it_loads(
    home_dir: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "_NEEDED", ("a_package_that_is_not_there",))
    found = runner.invoke(app, ["serve", "smollm2", "--improve", "--json"])
    error = json.loads(found.output.splitlines()[-1])["error"]
    assert found.exit_code == 1 and "a_package_that_is_not_there" in error["message"]
    assert "deepwell[tune]" in error["fix"]
