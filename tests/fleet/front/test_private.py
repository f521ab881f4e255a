"""Folders of fronts: one whose process was killed goes at the next start, every other one stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepwell.fleet.front.private import PrivateFolder

HOLDER = """
import time
from deepwell.fleet.front.private import PrivateFolder
held = PrivateFolder()
print(held.path, flush=True)
time.sleep(60)
"""


def test_only_a_folder_whose_process_is_gone_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    begun = tmp_path / "deepwell-front-begun"
    begun.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "front.lock").touch()
    (tmp_path / "deepwell-front-link").symlink_to(elsewhere)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    left = Path(holder.stdout.readline().strip())
    first = PrivateFolder()
    assert left.is_dir(), "its process runs"
    holder.kill()
    holder.communicate()
    assert left.is_dir()
    second = PrivateFolder()
    assert not left.exists()
    assert first.path.is_dir() and second.path.is_dir() and begun.is_dir(), "others stay"
    assert (elsewhere / "front.lock").exists(), "a link is not followed"
    path = second.path
    del second
    assert not path.exists()
