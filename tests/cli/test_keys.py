"""`deepwell keys`: a key is shown once, listed without itself, and ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.keys import has_stored_key
from deepwell.settings import InvalidSettings, Settings


@pytest.fixture(autouse=True)
def data_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "data"
    folder.mkdir()
    monkeypatch.setenv("DEEPWELL_DATA_DIR", str(folder))
    return folder


def keys(runner: CliRunner, *arguments: str) -> dict[str, Any]:
    result = runner.invoke(app, ["keys", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_a_key_is_shown_once(runner: CliRunner, data_dir: Path) -> None:
    made = keys(runner, "create", "laptop", "--tenant", "acme", "--expires", "2h", "--tokens-per-minute", "9")
    assert made["key"].startswith("dw-") and made["scopes"] == ["inference", "files"]
    assert made["expires_at"] - made["created_at"] == 7200 and made["tokens_per_minute"] == 9
    listed = runner.invoke(app, ["keys", "list"]).output + json.dumps(keys(runner, "list"))
    assert made["id"] in listed and made["key"] not in listed and made["key"][3:] not in listed
    assert not any(made["key"].encode() in path.read_bytes() for path in data_dir.iterdir() if path.is_file())


def test_the_first_line_of_the_text_is_the_key(runner: CliRunner) -> None:
    first, second = (runner.invoke(app, ["keys", "create", "n"]).output.splitlines()[0] for _ in range(2))
    assert first.startswith("dw-") and len(first) == 46 and first != second
    tenants = {key["tenant"] for key in keys(runner, "list")["keys"]}
    assert len(tenants) == 2  # each is a tenant of its own


def test_a_revoked_key_stays_in_the_list_and_lets_no_server_out(runner: CliRunner) -> None:
    settings = Settings.load(host="0.0.0.0")
    with pytest.raises(InvalidSettings, match="deepwell keys create"):
        settings.require_safe_address(stored_keys=lambda: has_stored_key(settings))
    made = keys(runner, "create", "n")
    settings.require_safe_address(stored_keys=lambda: has_stored_key(settings))
    assert keys(runner, "revoke", made["id"])["revoked_at"] is not None
    assert [key["id"] for key in keys(runner, "list")["keys"]] == [made["id"]]
    with pytest.raises(InvalidSettings):
        settings.require_safe_address(stored_keys=lambda: has_stored_key(settings))


def test_lists_of_one_tenant(runner: CliRunner) -> None:
    keys(runner, "create", "n", "--tenant", "a")
    keys(runner, "create", "n", "--tenant", "b")
    assert [key["tenant"] for key in keys(runner, "list", "--tenant", "b")["keys"]] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["create", "n", "--scope", "everything"], "inference, files, tuning, adapters, metrics, admin"),
        (["create", "n", "--expires", "soon"], "90d"),
        (["create", "n", "--tenant", "../x"], "letters"),
        (["create", ""], "choose another"),
        (["revoke", "key_none"], "deepwell keys list"),
    ],
)
def test_what_cannot_be_done_says_what_can(runner: CliRunner, arguments: list[str], fix: str) -> None:
    result = runner.invoke(app, ["keys", *arguments, "--json"])
    assert result.exit_code == 1
    assert fix in json.loads(result.output)["error"]["fix"]


def test_a_lost_database_is_refused_until_it_is_given_up(runner: CliRunner, data_dir: Path) -> None:
    keys(runner, "create", "n")
    (data_dir / "deepwell.db").unlink()
    for command in (["serve"], ["keys", "list"], ["keys", "create", "again"]):
        result = runner.invoke(app, [*command, "--json"])
        assert result.exit_code == 1 and "--init" in result.output, result.output
        assert not (data_dir / "deepwell.db").exists()
    keys(runner, "create", "again", "--init")
    assert [key["name"] for key in keys(runner, "list")["keys"]] == ["again"]


def test_serve_gives_a_lost_database_up_before_it_loads_anything(runner: CliRunner, data_dir: Path) -> None:
    keys(runner, "create", "n")
    (data_dir / "deepwell.db").write_bytes(b"")
    result = runner.invoke(app, ["serve", "no-such-model", "--init", "--port", "0", "--json"])
    assert result.exit_code == 1 and "no-such-model" in result.output
    assert keys(runner, "list")["keys"] == []
