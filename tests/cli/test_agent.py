"""`deepwell agent` against a running server: runs, approvals, logs, and what it says without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.agents.serving import agent_server, call
from tests.server.conftest import codec as codec
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.dialogue.text import Codec

SUM = call("calculate", expression="20 + 22")
WRITE = call("write_file", path="a.txt", content="hello")


@pytest.fixture
def command(codec: Codec, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs an action of `deepwell agent` against a server whose model says the lines of the parameter."""
    lines, tools = request.param
    with agent_server(codec, tmp_path, *lines, tools=tools) as live:

        def run(*arguments: str) -> Any:
            verb, *rest = arguments
            return CliRunner().invoke(app, ["agent", verb, *rest, "--url", live.url])

        yield run


def with_(*lines: str, tools: tuple[str, ...] = ("calculator",)) -> Any:
    return pytest.mark.parametrize("command", [(lines, tools)], indirect=True)


@with_(SUM, "It is 42.")
def test_a_run_is_shown_listed_and_replayed(command: Any) -> None:
    done = command("run", "What is 20 + 22?", "--json")
    assert done.exit_code == 0, done.output
    run = json.loads(done.stdout)
    assert (run["status"], run["output_text"]) == ("completed", "It is 42.")
    assert run["id"] in command("list").stdout
    shown = command("show", run["id"]).stdout
    assert "calculate -> 42" in shown and "It is 42." in shown
    assert "1 call," in shown
    assert "No run has the status failed." in command("list", "--status", "failed").stdout
    played = command("replay", run["id"])
    assert played.exit_code == 0 and "assistant: It is 42." in played.stdout
    assert "calculate" in command("tools").stdout


@with_(WRITE, "Written.", tools=("files_write",))
def test_a_run_waits_where_nobody_can_be_asked(command: Any, tmp_path: Path) -> None:
    waits = command("run", "Write hello to a.txt.", "--json")
    assert waits.exit_code == 4
    run = json.loads(waits.stdout)
    assert [one["name"] for one in run["required_action"]] == ["write_file"]
    done = command("approve", run["id"])
    assert done.exit_code == 0, done.output
    assert "Written." in done.stdout
    assert (tmp_path / "work" / "a.txt").read_text() == "hello"


@with_(WRITE, "I may not.", tools=("files_write",))
def test_approve_never_denies(command: Any, tmp_path: Path) -> None:
    done = command("run", "Write hello to a.txt.", "--approve", "never")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "work" / "a.txt").exists()


@with_(WRITE, "I may not.", tools=("files_write",))
def test_a_decision_names_its_call_and_counts_turns_on(command: Any) -> None:
    run = json.loads(command("run", "Write hello to a.txt.", "--json").stdout)
    done = command("deny", run["id"], "--reason", "not on a Friday")
    assert "write_file denied: not on a Friday" in done.stderr
    assert "turn 1:" not in done.stderr


@with_("", "")
def test_a_run_without_an_answer_has_its_own_exit_code(command: Any) -> None:
    done = command("run", "Say nothing.", "--json", "--turns", "2")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["status"] == "incomplete"


def test_a_folder_of_this_machine_is_no_servers() -> None:
    done = CliRunner().invoke(
        app, ["agent", "run", "x", "--folder", ".", "--url", "http://127.0.0.1:9", "--json"]
    )
    assert done.exit_code == 1
    assert "--folder" in json.loads(done.stdout)["error"]["message"]
