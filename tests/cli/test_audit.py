"""`deepwell audit`: a trail is verified, exported and pruned; a break ends with exit code 1."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.settings import Settings
from deepwell.storage.database import Database, Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord

DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def trail(runner: CliRunner) -> None:
    settings = Settings.load()
    database = Database.of(settings)
    now = int(time.time() * 1000)
    store = AuditStore(database, Anchors.of(settings))
    records = [AuditRecord("decision", now - age * DAY_MS, {"action": "block"}) for age in (400, 300, 2, 1)]
    asyncio.run(store.append_all({Tenant("acme"): records, Tenant("other"): records[2:]}))
    database.close()


def audit(runner: CliRunner, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = runner.invoke(app, ["audit", *arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.output)


def test_whole_trails_hold(runner: CliRunner) -> None:
    told = audit(runner, "verify")
    assert told["holds"]
    assert {one["tenant"]: (one["entries"], len(one["anchors"])) for one in told["trails"]} == {
        "acme": (4, 1),
        "other": (2, 1),
    }
    head = next(f"{one['last']}:{one['head']}" for one in told["trails"] if one["tenant"] == "acme")
    assert audit(runner, "verify", "--tenant", "acme", "--head", head)["holds"]
    assert "acme: 4 entries hold, 1 to 4; anchored up to 4" in runner.invoke(app, ["audit", "verify"]).output


def test_a_flipped_byte_ends_with_exit_code_1(runner: CliRunner) -> None:
    database = Database.of(Settings.load())
    statement = "UPDATE audit_entries SET entry = replace(entry, 'block', 'allow') WHERE sequence = 2"
    database.write_now(lambda connection: connection.execute(sa.text(statement)).rowcount)
    database.close()
    told = audit(runner, "verify", "--tenant", "acme", code=1)
    assert [(one["sequence"], one["kind"]) for one in told["trails"][0]["problems"]] == [(2, "changed")]
    result = runner.invoke(app, ["audit", "verify"])
    assert result.exit_code == 1 and "at 2: the entry does not have its hash" in result.output


def test_a_byte_that_is_not_utf8_is_reported_as_damage(runner: CliRunner) -> None:
    database = Database.of(Settings.load())
    statement = "UPDATE audit_entries SET entry = CAST(replace(CAST(entry AS BLOB), x'6c', x'ec') AS TEXT) WHERE sequence = 2"
    database.write_now(lambda connection: connection.execute(sa.text(statement)).rowcount)
    database.close()
    told = audit(runner, "verify", "--tenant", "acme", code=1)
    assert {one["sequence"] for one in told["trails"][0]["problems"]} == {2}
    result = runner.invoke(app, ["audit", "verify"])
    assert (
        result.exit_code == 1
        and "at 2: the entry cannot be read: it has bytes that are not UTF-8" in result.output
    )


def test_an_exported_file_is_verified_without_the_database(runner: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "trail.jsonl"
    told = audit(runner, "export", "--tenant", "acme", "--since", "30d", "-o", str(path))
    assert (told["entries"], told["first"], told["last"]) == (2, 3, 4)
    head = f"{told['last']}:{told['head']}"
    assert audit(runner, "verify", "--file", str(path), "--head", head)["holds"]
    path.write_text(path.read_text().replace("block", "allow", 1))
    assert not audit(runner, "verify", "--file", str(path), code=1)["holds"]
    result = runner.invoke(app, ["audit", "export", "--tenant", "other"])
    assert len([line for line in result.stdout.splitlines() if line.startswith("{")]) == 2


def test_pruning_keeps_six_months_and_a_trail_that_holds(runner: CliRunner) -> None:
    refused = audit(runner, "prune", "--before", "100d", code=1)
    assert "six months" in refused["error"]["message"]
    done = audit(runner, "prune", "--before", "200d")["pruned"]
    assert sorted(one["entries"] for one in done) == [0, 2]
    told = audit(runner, "verify", "--tenant", "acme")
    assert [(one["first"], one["last"]) for one in told["trails"]] == [(3, 5)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("export",),
        ("export", "--tenant", "nobody"),
        ("verify", "--tenant", "acme", "--head", "3:xyz"),
        ("verify", "--head", "1:" + "0" * 64),
        ("prune", "--before", "yesterday"),
    ],
)
def test_a_mistake_is_told_with_its_fix(runner: CliRunner, arguments: tuple[str, ...]) -> None:
    assert audit(runner, *arguments, code=1)["error"]["fix"]


def test_the_program_of_the_guide_verifies_an_export(runner: CliRunner, tmp_path: Path) -> None:
    """It needs nothing but Python, names the head that `export` printed, and finds a changed line."""
    guide = Path(__file__).parents[2] / "docs" / "guides" / "audit-and-privacy.md"
    [program] = re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)
    out = tmp_path / "acme.jsonl"
    told = runner.invoke(app, ["audit", "export", "--tenant", "acme", "--output", str(out)])
    assert told.exit_code == 0, told.output

    def verified() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True)

    whole = verified()
    assert whole.returncode == 0 and whole.stdout.startswith("head 4:")
    lines = out.read_text("utf-8").splitlines(keepends=True)
    out.write_text(lines[0].replace("block", "allow") + "".join(lines[1:]), "utf-8")
    changed = verified()
    assert changed.returncode == 1 and "broken before entry 2" in changed.stderr
