"""The databases that every store must work on: SQLite in a file, and a real PostgreSQL server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.object_store import ObjectStore
from tests.object_store import running as running_store
from tests.postgres import Server, running

from deepwell.storage import database as databases
from deepwell.storage.database import Database
from deepwell.storage.migrations import bring_up_to_date


@pytest.fixture
def every_database_is_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table is taken from another database, as `tests.migrated` does. For tests of what opening a database does to it."""
    monkeypatch.setattr(databases, "bring_up_to_date", bring_up_to_date)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    with running_store() as store:
        yield store


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the database."""
    return request.param


@pytest.fixture
def opened(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    """How to open one and the same database."""
    if kind == "sqlite":
        path = tmp_path / "data" / "deepwell.db"
        return lambda: Database.open(path)
    url = request.getfixturevalue("postgres").emptied()
    return lambda: Database.connect(url)


@pytest.fixture
def database(opened) -> Iterator[Database]:
    database = opened()
    yield database
    database.close()
