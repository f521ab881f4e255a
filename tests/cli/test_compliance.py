"""`deepwell compliance`: the exit code tells whether every check passes; answers are kept and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.settings import Settings
from deepwell.storage.database import Database


def compliance(runner: CliRunner, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = runner.invoke(app, ["compliance", *arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.output)


@pytest.fixture
def configured(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration under which every executable check of the European pack passes."""
    path = home / "policy.yaml"
    path.write_text("version: 1\nextends: standard\nlabel: true\nproducer: '00119'\n")
    monkeypatch.setenv("DEEPWELL_GUARD", str(path))
    for name in ("COMPLETION", "CONVERSATION", "FILE", "BATCH"):
        monkeypatch.setenv(f"DEEPWELL_{name}_RETENTION_DAYS", "90")
    return path


@pytest.mark.usefixtures("configured")
def test_a_configuration_that_passes_ends_with_exit_code_0(runner: CliRunner) -> None:
    told = compliance(runner, "check", "--pack", "eu")
    assert told["holds"]
    assert [(one["pack"], one["counts"]) for one in told["packs"]] == [
        ("eu", {"pass": 11, "not_applicable": 1})
    ]


def test_one_that_fails_ends_with_exit_code_1_and_a_report(runner: CliRunner, home: Path) -> None:
    path = home / "report.md"
    result = runner.invoke(
        app, ["compliance", "check", "--pack", "owasp", "--guard", "open", "--out", str(path)]
    )
    assert result.exit_code == 1
    assert "owasp: fail 9, pass 2; questions 10, due 10" in result.output
    assert "### FAIL: Direct injections and jailbreaks are stopped" in path.read_text()
    again = compliance(runner, "check", "--pack", "owasp", "--out", str(path), code=1)
    assert "exists already" in again["error"]["message"]


def test_the_report_is_in_the_language_of_the_terminal(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    result = runner.invoke(app, ["compliance", "check", "--pack", "owasp"])
    assert "# 合规检查报告" in result.output and "### 未通过：直接提示注入和越狱会被拦截" in result.output


def test_an_answer_is_kept_with_name_and_day_until_it_is_due_again(runner: CliRunner) -> None:
    kept = compliance(runner, "answer", "llm06-tools", "none", "--by", "Han Mei", "--evidence", "ticket 7")
    assert (kept["pack"], kept["answered_by"]) == ("owasp", "Han Mei")
    compliance(runner, "answer", "llm06-tools", "two, read only", "--by", "Li Lei")

    def shown() -> dict[str, Any]:
        told = compliance(runner, "check", "--pack", "owasp", code=1)
        return next(one for one in told["packs"][0]["questions"] if one["id"] == "llm06-tools")

    assert (shown()["due"], shown()["answer"]["answer"]) == (False, "two, read only")
    database = Database.of(Settings.load())
    statement = sa.text("UPDATE compliance_answers SET answered_at = answered_at - 366 * 86400")
    database.write_now(lambda connection: connection.execute(statement).rowcount)
    database.close()
    assert shown()["due"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("llm06-tool", "x", "--by", "me"), "there is no question 'llm06-tool'"),
        (("llm01-direct", "x", "--by", "me"), "there is no question 'llm01-direct'"),
        (("minors", "x", "--by", "me", "--pack", "eu"), "the pack 'eu' has no question 'minors'"),
        (("minors", "x", "--by", "me", "--pack", "us"), "there is no pack 'us'"),
        (("minors", " ", "--by", "me"), "the answer or the name is empty"),
        (("minors", "x" * 20_001, "--by", "me"), "too long"),
    ],
)
def test_an_answer_to_nothing_is_refused(runner: CliRunner, arguments: tuple[str, ...], message: str) -> None:
    assert message in compliance(runner, "answer", *arguments, code=1)["error"]["message"]


def test_a_sampled_run_asks_the_model(runner: CliRunner, tiny_model: Path, home: Path) -> None:
    path = home / "refuse.jsonl"
    rows = [{"prompt": f"question {number}", "risk": "A.1.a"} for number in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    sheets = home / "sheets"
    arguments = ("--pack", "cn", "--refuse", str(path), "--model", str(tiny_model), "--sheets", str(sheets))
    told = compliance(runner, "check", *arguments, "--samples", "10", "--max-tokens", "20", code=1)
    run = next(one for one in told["packs"][0]["checks"] if one["id"] == "run-refuse")
    assert run["status"] == "fail"
    assert run["evidence"][0]["value"].startswith("0/10 = 0.0%")
    assert (sheets / "refuse.csv").is_file()
    again = compliance(runner, "check", *arguments, code=1)
    run = next(one for one in again["packs"][0]["checks"] if one["id"] == "run-refuse")
    assert "exists already" in run["evidence"][0]["value"]


def test_a_sampled_run_asks_a_server(runner: CliRunner, toy_server: Any, home: Path) -> None:
    path = home / "answer.jsonl"
    rows = [{"prompt": f"question {number}", "topic": "history"} for number in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    told = compliance(runner, "check", "--pack", "cn", "--answer", str(path), "--url", toy_server.url, code=1)
    run = next(one for one in told["packs"][0]["checks"] if one["id"] == "run-answer")
    assert run["evidence"][0]["value"].startswith("12/12")


def test_files_that_are_not_there_are_named(runner: CliRunner, home: Path) -> None:
    told = compliance(runner, "check", "--pack", "cn", "--refuse", str(home / "none.jsonl"), code=1)
    assert "none.jsonl" in told["error"]["message"]
    told = compliance(runner, "check", "--pack", "cn", "--judged", str(home), code=1)
    assert "holds none of generation.csv" in told["error"]["message"]
