"""Servers and small disks that faults may break."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgres import Server, running


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def postgres(_server: Server) -> Iterator[Server]:
    """A PostgreSQL server that a test may kill and start again."""
    yield _server
    if not _server.is_running():
        _server.start()


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 4 MB if the parameter does not say otherwise."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = getattr(request, "param", "4m")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk; a quota stands for it in the test beside this one")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
