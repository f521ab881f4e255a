"""Servers and small disks that faults may break."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.needs import MOUNTS, require
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
    require(MOUNTS)
    size = getattr(request, "param", "4m")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
