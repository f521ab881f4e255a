"""One database: grouped commits, failures that stay with their caller, tables made by the revisions alone."""

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.migrated import remembered

import deepwell.storage
from deepwell.errors import StorageError
from deepwell.storage import database as databases
from deepwell.storage.database import Database
from deepwell.storage.tables import HEAD, metadata

pytestmark = pytest.mark.usefixtures("every_database_is_migrated")


def insert(name):
    statement = sa.text("INSERT INTO conversations VALUES ('t', :id, 0, '{}', 0)")
    return lambda connection: connection.execute(statement, {"id": name})


def count(connection):
    return connection.execute(sa.text("SELECT count(*) FROM conversations")).scalar_one()


def test_tables_of_another_database_are_those_of_the_migrations(tmp_path: Path, monkeypatch) -> None:
    """Tests take tables from the first database of their process, which is what this one would have become."""
    found = []
    Database.open(tmp_path / "migrated.db").close()
    monkeypatch.setattr(databases, "bring_up_to_date", remembered(databases.bring_up_to_date))
    for name in ("first", "second"):
        Database.open(tmp_path / f"{name}.db").close()
    for name in ("migrated", "first", "second"):
        with contextlib.closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            tables = connection.execute(
                "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
            ).fetchall()
            found.append((tables, connection.execute("SELECT version_num FROM alembic_version").fetchall()))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) > 20


async def test_a_write_that_fails_undoes_itself_and_nobody_elses(database):
    def half(connection):
        insert("half")(connection)
        raise ValueError("no")

    results = await asyncio.gather(
        database.write(insert("a")), database.write(half), database.write(insert("b")), return_exceptions=True
    )
    assert isinstance(results[1], ValueError)
    assert await database.read(count) == 2


def half_read(connection):
    rows = connection.execute(sa.text("SELECT id FROM conversations"))
    return [int(row.id) for row in rows]


async def test_a_read_that_fails_half_way_leaves_no_old_state_behind(database):
    for name in "abc":
        await database.write(insert(name))
    with pytest.raises(
        ValueError, match="invalid literal"
    ) as failed:  # keeps the error, and what its frames hold
        await database.read(half_read)
    await database.write(insert("d"))
    assert await database.read(count) == 4, failed


async def test_a_write_that_fails_half_way_does_not_keep_the_next_one_from_its_turn(opened):
    one, other = opened(), opened()
    for name in "abc":
        await one.write(insert(name))
    with pytest.raises(ValueError, match="invalid literal") as failed:
        await one.write(half_read)
    await other.write(insert("d"))
    await one.write(insert("e"))
    assert await other.read(count) == 5, failed
    one.close()
    other.close()


async def test_writes_that_wait_share_one_transaction(database):
    gate = threading.Event()
    transactions = []

    def work(connection):
        transactions.append(connection.get_transaction())

    first = asyncio.ensure_future(database.write(lambda _: gate.wait(60)))
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(database.write(work)) for _ in range(20)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *others)
    assert len(transactions) == 20 and all(one is transactions[0] for one in transactions)


async def test_a_closed_database_refuses_and_has_kept_what_was_asked_for(tmp_path: Path):
    database = Database.open(tmp_path / "x.db")
    writes = [asyncio.ensure_future(database.write(insert(str(i)))) for i in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(database.close)
    await asyncio.gather(*writes)
    with pytest.raises(StorageError, match="closed"):
        await database.write(insert("late"))
    again = Database.open(tmp_path / "x.db")
    assert await again.read(count) == 5
    again.close()


def test_the_revisions_make_the_tables_that_the_code_knows(database):
    with database._backend.writer.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == HEAD
    config = Config()
    config.set_main_option("script_location", str(Path(deepwell.storage.__file__).with_name("migrations")))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


# Tables as the fourteen revisions left them, which the baseline replaced. Columns that were added later have defaults.
LAST_OF_THE_FOURTEEN = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE installation (
    id VARCHAR(64) NOT NULL, generation BIGINT NOT NULL, CONSTRAINT pk_installation PRIMARY KEY (id)
);
CREATE TABLE api_keys (
    id VARCHAR(64) NOT NULL, tenant VARCHAR(64) NOT NULL, name VARCHAR(256) NOT NULL,
    digest VARCHAR(64) NOT NULL, hint VARCHAR(16) NOT NULL, scopes VARCHAR(256) NOT NULL,
    requests_per_minute BIGINT, tokens_per_minute BIGINT, created_at BIGINT NOT NULL, last_used_at BIGINT,
    expires_at BIGINT, revoked_at BIGINT, audio_seconds_per_minute BIGINT, images_per_minute BIGINT,
    seal VARCHAR(64) DEFAULT '' NOT NULL,
    CONSTRAINT pk_api_keys PRIMARY KEY (id), CONSTRAINT uq_api_keys_digest UNIQUE (digest)
);
CREATE TABLE conversations (
    tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL, metadata TEXT NOT NULL,
    updated_at BIGINT DEFAULT '0' NOT NULL, CONSTRAINT pk_conversations PRIMARY KEY (tenant, id)
);
INSERT INTO alembic_version VALUES ('0014');
INSERT INTO installation VALUES ('0123456789abcdef0123456789abcdef', 7);
INSERT INTO api_keys VALUES ('key_1', 't', 'n', 'd', 'h', '["inference"]', 1, NULL, 2, 3, 4, NULL, NULL, 5, 's');
INSERT INTO conversations VALUES ('t', 'conv_1', 1, '{}', 2);
"""


def test_a_database_of_the_last_revision_before_the_baseline_is_taken_over_as_it_is(tmp_path: Path):
    path = tmp_path / "x.db"
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript(LAST_OF_THE_FOURTEEN)
        before = list(raw.iterdump())
    database = Database.open(path)
    assert database.id == "0123456789abcdef0123456789abcdef"
    database.close()
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert list(raw.iterdump()) == before


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path):
    path = tmp_path / "x.db"
    Database.open(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match="revision 9999"):
        Database.open(path)


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be read as one" * 20, b"SQLite format 3\0" * 300]
)
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="cannot be opened"):
        Database.open(path)


def test_the_file_is_its_owners_alone(tmp_path: Path):
    Database.open(tmp_path / "x.db").close()
    assert (tmp_path / "x.db").stat().st_mode & 0o077 == 0


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="DEEPWELL_DATA_DIR"):
        Database.open(tmp_path / "file" / "x.db")


def test_two_processes_may_open_one_file(tmp_path: Path):
    one, two = Database.open(tmp_path / "x.db"), Database.open(tmp_path / "x.db")
    one.write_now(insert("a"))
    two.write_now(insert("b"))
    assert one.write_now(count) == two.write_now(count) == 2
    one.close()
    two.close()
