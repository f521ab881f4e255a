"""`deepwell rules`: the output that people and programs see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.agents.rules.sets import rule, written
from typer.testing import CliRunner, Result

from deepwell.cli import app
from deepwell_bench.harness.assets import repository

LOAN = repository() / "examples" / "rules" / "loan"


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.setenv(name, "C")


def run(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["rules", *map(str, arguments)], input=stdin)


def test_a_sound_rule_set_passes() -> None:
    result = run("check", LOAN)
    assert result.exit_code == 0 and result.stdout == "loan 1.0.0: 0 errors, 0 warnings; 0 of 11 cases fail\n"
    assert run("check", LOAN, "--lang", "zh").stdout.startswith("loan 1.0.0：0 个错误")


def test_faults_and_failing_cases_are_listed_and_set_the_status(tmp_path: Path) -> None:
    result = run("check", written(tmp_path, "p(X) :- not label(X)."), "--json")
    body = json.loads(result.stdout)
    assert result.exit_code == 3 and not body["ok"] and body["cases"] == []
    assert {
        "level": "error",
        "where": "program, line 1",
        "key": "rules_unsafe",
        "message": "no fact gives a value to X",
    } in body["findings"]
    case = {"name": "never", "facts": [], "expect": {"outcome": "grant"}}
    failing = run("check", written(tmp_path, cases=[case]))
    assert failing.exit_code == 3 and "case never: outcome: ask, expected grant" in failing.stdout


def test_a_case_is_decided_and_explained(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(
        json.dumps([{"name": "asked", "arguments": {"yuan": 9000, "months": 48}, "source": "form"}])
    )
    plain = run("run", LOAN, "--facts", facts)
    assert plain.exit_code == 0 and plain.stdout.splitlines()[0] == "reject"
    assert "accepted  asked(9000, 48)  form" in plain.stdout
    explained = run("run", LOAN, "--facts", facts, "--explain", "--lang", "zh")
    assert (
        "一万元以下的贷款期限不得超过 36 个月" in explained.stdout
        and "规则 months_limit；form" in explained.stdout
    )
    body = json.loads(run("run", LOAN, "--facts", "-", "--json", stdin=facts.read_text()).stdout)
    assert body["outcome"] == "reject" and body["because"]["rule"] == "months_limit"


def test_errors_name_their_fix(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text("no json")
    result = run("run", LOAN, "--facts", facts)
    assert result.exit_code == 1 and "is no JSON" in result.stderr and "rules schema" in result.stderr
    facts.write_text("{}")
    assert "has another form" in run("run", LOAN, "--facts", facts).stderr
    assert "no rule set" in run("check", tmp_path / "none").stderr
    facts.write_text("[]")
    broken = written(tmp_path, "{ p }.")
    assert "rules check" in run("run", broken, "--facts", facts).stderr


def test_the_schema_is_printed_plain_and_for_a_request(tmp_path: Path) -> None:
    path = written(tmp_path, rule("a", "outcome(deny) :- label(gpl)."))
    plain = json.loads(run("schema", path).stdout)
    assert plain["properties"]["facts"]["maxItems"] == 64
    wrapped = json.loads(run("schema", path, "--response-format", "--score", "--most", "3", "--json").stdout)
    schema = wrapped["json_schema"]["schema"]
    assert wrapped["type"] == "json_schema" and schema["properties"]["facts"]["maxItems"] == 3
    assert "score" in schema["properties"]["facts"]["items"]["anyOf"][0]["required"]
