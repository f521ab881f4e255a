"""`deepwell privacy`: a person is exported and erased, and every place is listed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.safety.privacy.places import PLACES
from deepwell.settings import Settings
from deepwell.storage.completions import CompletionStore, StoredCompletion
from deepwell.storage.database import Database, Tenant


def privacy(runner: CliRunner, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = runner.invoke(app, ["privacy", *arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.output)


def write(user: str, tenant: str = "acme") -> None:
    database = Database.of(Settings.load())
    body = json.dumps({"text": f"secret of {user}"})
    stored = StoredCompletion(f"chatcmpl-{user}", 1, "m", "[]", body, {}, user)
    asyncio.run(CompletionStore(database).create(Tenant(tenant), stored))
    database.close()


def everything(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_an_end_user_is_exported_and_erased_down_to_the_bytes(runner: CliRunner, home: Path) -> None:
    write("lin")
    write("ada")
    folder = home.parent / f"{home.name}-export"
    told = privacy(runner, "export", "--tenant", "acme", "--user", "lin", "-o", str(folder))
    assert told["counts"] == {"completions": 1}
    assert "secret of lin" in (folder / "tables" / "completions.jsonl").read_text()
    done = privacy(runner, "erase", "--tenant", "acme", "--user", "lin", "--yes")
    assert (done["scope"], done["counts"], done["overwritten"]) == ("person", {"completions": 1}, True)
    left = everything(home)
    assert b"secret of lin" not in left and b"chatcmpl-lin" not in left
    assert b"secret of ada" in left
    assert privacy(runner, "erase", "--tenant", "acme", "--user", "lin", "--yes")["counts"] == {}


def test_nothing_is_erased_without_a_yes(runner: CliRunner, home: Path) -> None:
    write("lin")
    assert "--yes" in privacy(runner, "erase", "--tenant", "acme", code=1)["error"]["fix"]
    assert runner.invoke(app, ["privacy", "erase", "--tenant", "acme"], input="n\n").exit_code == 130
    assert b"secret of lin" in everything(home)
    result = runner.invoke(app, ["privacy", "erase", "--tenant", "acme"], input="y\n")
    assert result.exit_code == 0 and "completions" in result.output
    assert b"secret of lin" not in everything(home)


def test_a_tenant_that_is_erased_loses_its_keys_and_the_server_stays_closed(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.safety.privacy.erase.SETTLE_S", 0.01)
    made = json.loads(runner.invoke(app, ["keys", "create", "laptop", "--tenant", "acme", "--json"]).output)
    privacy(runner, "erase", "--tenant", "acme", "--yes")
    [key] = json.loads(runner.invoke(app, ["keys", "list", "--json"]).output)["keys"]
    assert key["revoked_at"] and key["id"] == made["id"]
    assert (key["tenant"], key["name"], key["hint"]) == ("", "erased", "")


def test_a_user_of_no_name_is_refused(runner: CliRunner) -> None:
    assert "whole tenant" in privacy(runner, "erase", "--tenant", "a", "--user", " ", code=1)["error"]["fix"]


def test_every_place_is_listed(runner: CliRunner) -> None:
    assert [one["name"] for one in privacy(runner, "places")["places"]] == [place.name for place in PLACES]
    assert "prefix_cache" in runner.invoke(app, ["privacy", "places"]).output
