"""Needs that a machine lacks: tests that have them are skipped, and the run names it once, with the command that brings it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.needs import NEEDS, OPENSSL, VALKEY, hide, require


def test_a_run_names_a_missing_program_once_and_imports_without_it(tmp_path: Path) -> None:
    hide(tmp_path / "programs")
    modules = ("tests/faults/test_valkey.py", "tests/faults/test_valkey_erasure.py")
    environment = {**os.environ, "PATH": str(tmp_path / "programs"), "CI": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    [line] = [one for one in done.stdout.splitlines() if one.startswith("SKIPPED")]
    assert line.endswith("] valkey-server is not installed: apt-get install valkey-server")


def test_programs_are_hidden_and_all_others_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "bin"
    installed.mkdir()
    for name in (*VALKEY.programs, "other"):
        (installed / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'nothing'}:{installed}")
    assert VALKEY.find() == str(installed / "valkey-server")
    hide(tmp_path / "left")
    assert [one.name for one in (tmp_path / "left").iterdir()] == ["other"]
    monkeypatch.setenv("PATH", str(tmp_path / "left"))
    assert not VALKEY.find()
    monkeypatch.setattr("tests.needs.IN_CI", False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install valkey-server"):
        require(VALKEY)
    monkeypatch.setattr("tests.needs.IN_CI", True)  # where the gate has installed it
    with pytest.raises(pytest.fail.Exception, match="apt-get install openssl"):
        require(OPENSSL)


def test_every_need_has_words_and_a_command() -> None:
    assert len({one.lack for one in NEEDS}) == len(NEEDS) > 20
    assert all(one.lack and one.fix for one in NEEDS)
