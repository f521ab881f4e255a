"""The databases that every store must work on: one today."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepwell.storage.database import Database


@pytest.fixture(params=["sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "data" / "deepwell.db")
    yield opened
    opened.close()
