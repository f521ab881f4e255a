"""What `Database` promises whatever is below it: one commit a read, races done again, tables changed once, no secret told."""

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

import deepwell.storage
from deepwell.errors import InvalidRequest, NotFound, StorageError
from deepwell.settings import InvalidSettings, Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.installation import Installation
from deepwell.storage.jobs import JobStore
from deepwell.storage.postgres import PostgreSQL
from deepwell.storage.tables import metadata

pytestmark = pytest.mark.usefixtures("every_database_is_migrated")

A = Tenant("a")


def insert(name):
    statement = sa.text("INSERT INTO conversations VALUES ('t', :id, 0, '{}', 0)")
    return lambda connection: connection.execute(statement, {"id": name})


def update(name):
    statement = sa.text("UPDATE conversations SET created_at = created_at + 1 WHERE id = :id")
    return lambda connection: connection.execute(statement, {"id": name})


def count(connection):
    return connection.execute(sa.text("SELECT count(*) FROM conversations")).scalar_one()


async def test_a_read_sees_one_commit_throughout(database):
    seen, written = threading.Event(), threading.Event()

    def work(connection):
        before = count(connection)
        seen.set()
        assert written.wait(30)
        return before, count(connection)

    reading = asyncio.ensure_future(database.read(work))
    await asyncio.to_thread(seen.wait, 30)
    await database.write(insert("a"))
    written.set()
    assert await reading == (0, 0)
    assert await database.read(count) == 1


async def test_a_name_with_a_nul_is_unknown_or_refused_and_no_failure(database):
    aliases = AliasStore(database)
    for call in (aliases.history("a\0b"), aliases.remove("a\0b", "cli"), aliases.list(after="\0")):
        with pytest.raises((InvalidRequest, NotFound)):
            await call
    await aliases.set("a", "toy", "cli")


async def test_a_read_changes_nothing(database):
    with pytest.raises(Exception, match="database is read-only"):
        await database.read(insert("a"))
    assert await database.read(count) == 0


async def test_a_mistake_in_a_query_is_no_fault_of_the_database(database):
    def mistaken(connection):
        connection.execute(sa.text("SELECT nothing FROM nowhere"))

    for ask in (database.read, database.write):
        with pytest.raises(DBAPIError):
            await ask(mistaken)


@pytest.fixture
def two(opened):
    """Two servers on one database."""
    databases = [opened(), opened()]
    yield databases
    for database in databases:
        database.close()


async def test_two_servers_that_add_one_job_add_it_once(two):
    stores = [JobStore(database) for database in two]
    for number in range(10):
        asked = [
            store.enqueue(A, "k", f'"{place}"', id=str(number)) for place, store in enumerate(stores * 3)
        ]
        jobs = await asyncio.gather(*asked)
        assert len({job.payload for job in jobs}) == 1
    assert len((await stores[0].list(A, "k", limit=100)).data) == 10


async def test_two_servers_share_a_queue_without_doubling(two):
    stores = [JobStore(database) for database in two]
    for number in range(40):
        await stores[0].enqueue(A, "k", "{}", id=str(number))
    done = []

    async def worker(store, name):
        # Another server's claim may hide the last jobs for a moment, so a worker stops when all are done.
        while len(done) < 40:
            job = await store.claim(["k"], name, 600)
            if job is not None and await store.finish(job, "succeeded"):
                done.append(job.id)

    workers = [
        worker(store, f"{place}-{number}") for place, store in enumerate(stores) for number in range(3)
    ]
    # The limit is for a hang: six workers that ask on and on are slow on a busy machine
    await asyncio.wait_for(asyncio.gather(*workers), 300)
    assert sorted(done, key=int) == [str(number) for number in range(40)]
    assert {job.attempts for job in (await stores[0].list(A, "k", limit=100)).data} == {1}


async def test_what_loses_a_deadlock_is_done_again(postgres):
    url = postgres.emptied()
    one, other = Database.connect(url), Database.connect(url)
    try:
        await one.write(insert("x"))
        await one.write(insert("y"))
        both = threading.Barrier(2)
        tries = []

        def crossing(first, second):
            def work(connection):
                update(first)(connection)
                tries.append(first)
                if len(tries) <= 2:
                    both.wait(30)
                update(second)(connection)

            return work

        await asyncio.gather(one.write(crossing("x", "y")), other.write(crossing("y", "x")))
        assert len(tries) >= 3
        total = await one.read(
            lambda connection: connection.execute(
                sa.text("SELECT sum(created_at) FROM conversations")
            ).scalar_one()
        )
        assert total == 4
    finally:
        one.close()
        other.close()


@pytest.fixture(params=["sqlite", "postgres"])
def fresh(request, tmp_path):
    """How to open a database that has no tables yet."""
    if request.param == "sqlite":
        return lambda: Database.open(tmp_path / "fresh.db")
    url = request.getfixturevalue("postgres").create()
    return lambda: Database.connect(url)


def test_servers_that_start_together_make_the_tables_once(fresh):
    with ThreadPoolExecutor(4) as pool:
        databases = list(pool.map(lambda _: fresh(), range(4)))
    databases[0].write_now(insert("a"))
    assert [database.write_now(count) for database in databases] == [1] * 4
    for database in databases:
        database.close()


def test_servers_that_start_together_on_a_database_without_an_id_give_it_one(postgres):
    url = postgres.emptied()
    one, other = PostgreSQL(url), PostgreSQL(url)
    name = str(sa.make_url(url).database)

    def start():
        with other.writer.connect() as connection, connection.begin():
            Installation().adopt(connection, other)

    waiting = threading.Thread(target=start)
    with one.writer.connect() as connection, connection.begin():
        Installation().adopt(connection, one)
        waiting.start()
        blocked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while waiting.is_alive() and postgres.sql(name, blocked) == [(0,)]:
            waiting.join(0.01)
        assert waiting.is_alive(), "it made an id of its own"
    waiting.join(30)
    for backend in (one, other):
        backend.writer.dispose()
    assert postgres.sql(name, "SELECT count(*) FROM installation") == [(1,)]


def test_every_revision_goes_up_and_down(fresh):
    database = fresh()
    config = Config()
    config.set_main_option("script_location", deepwell.storage.__path__[0] + "/migrations")
    revisions = len(list(ScriptDirectory.from_config(config).walk_revisions()))

    def tables(connection):
        return set(sa.inspect(connection).get_table_names()) - {"alembic_version"}

    def work(connection):
        config.attributes["connection"] = connection
        assert tables(connection) == set(metadata.tables)
        states = [tables(connection)]
        for _ in range(revisions):
            command.downgrade(config, "-1")
            states.append(tables(connection))
        assert states[-1] == set()
        for state in reversed(states[:-1]):
            command.upgrade(config, "+1")
            assert tables(connection) == state

    database.write_now(work)
    database.write_now(insert("a"))
    database.close()


def set_revision(revision):
    statement = sa.text("UPDATE alembic_version SET version_num = :revision")
    return lambda connection: connection.execute(statement, {"revision": revision})


@pytest.mark.parametrize("revision", ["0001", "0013"])
def test_a_database_from_before_the_baseline_is_refused_with_the_way_to_bring_it_there(fresh, revision):
    database = fresh()
    database.write_now(insert("a"))
    database.write_now(set_revision(revision))
    database.close()
    with pytest.raises(StorageError, match=f"revision {revision}") as refused:
        fresh()
    assert "commit 5cdca289" in refused.value.fix and "deepwell keys list" in refused.value.fix
    backend = database._backend
    with backend.writer.connect() as connection, connection.begin():
        assert count(connection) == 1
        set_revision("0014")(connection)  # as that commit does
    backend.writer.dispose()
    database = fresh()
    assert database.read_now(count) == 1
    database.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://deepwell:{password}@/postgres?host={folder}",
        "postgres://deepwell:{password}@/nowhere?host={folder}",
        "postgresql+psycopg://deepwell:{password}@127.0.0.1:1/postgres",
        "postgresql:///postgres?host={folder}&user=deepwell&password={password}",
        "postgresql://deepwell:{password}@localhost:notaport/postgres",
        "postgresql://deepwell@localhost/postgres?password={password}&nonsense=1",
        "mysql://deepwell:{password}@localhost/postgres",
        "deepwell:{password}@localhost",
    ],
)
def test_a_url_that_does_not_open_says_why_and_keeps_its_password(postgres, url, caplog):
    for password in ("wrongs3cret", "p%40ss%3Aw%2Frd%3F%23s3cret"):
        with pytest.raises(StorageError) as raised:
            Database.connect(url.format(password=password, folder=postgres.folder))
        told = f"{raised.value} {raised.value!r} {raised.value.__cause__} {caplog.text}"
        assert "DEEPWELL_DATABASE_URL" in told and "s3cret" not in told


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://deepwell:s3cret@127.0.0.1:1,{folder}/{name}",
        "postgresql://deepwell:s3cret@/{name}?host=127.0.0.1,{folder}&port=1,5432",
        "postgresql://deepwell:s3cret@/{name}?host=127.0.0.1&host={folder}&port=1&port=5432",
        "postgresql://deepwell:s3cret@[::1]:1,127.0.0.1:1,{folder}/{name}?target_session_attrs=read-write",
    ],
)
async def test_a_url_of_several_hosts_is_that_of_the_one_that_takes_writes(postgres, url):
    parsed = sa.make_url(postgres.emptied())
    folder = str(postgres.folder) if "?host" in url else str(postgres.folder).replace("/", "%2F")
    database = Database.connect(url.format(folder=folder, name=parsed.database))
    try:
        await database.write(insert("a"))
        assert await database.read(count) == 1
    finally:
        database.close()


def test_settings_name_the_database_and_hide_it(postgres, monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path))
    monkeypatch.setenv("DEEPWELL_DATABASE_URL", postgres.emptied())
    settings = Settings.load()
    assert "s3cret" not in repr(settings) + str(settings.model_dump())
    database = Database.of(settings)
    assert isinstance(database._backend, PostgreSQL)
    assert "s3cret" not in database._backend.shown and "***" in database._backend.shown
    database.close()
    monkeypatch.setenv("DEEPWELL_DATABASE_URL", "mysql://user:s3cret@host/name")
    with pytest.raises(InvalidSettings, match="database_url") as raised:
        Settings.load()
    assert "s3cret" not in str(raised.value)


async def test_no_query_of_the_jobs_reads_the_whole_table(tmp_path):
    database = Database.open(tmp_path / "x.db")
    asked = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith(("SELECT", "UPDATE")):
            asked.append((statement, parameters))

    for engine in (database._backend.reader, database._backend.writer):
        sa.event.listen(engine, "before_cursor_execute", note)
    store = JobStore(database)
    await store.enqueue(A, "k", "{}", id="j")
    job = await store.claim(["k", "l"], "w", 0)
    await store.heartbeat(job, 0)
    job = await store.claim(["k", "l"], "w", 0)
    await store.release(job)
    job = await store.claim(["k"], "w", 10)
    await store.get(A, "j")
    await store.cancel(A, "j")
    await store.list(A, "k", after="j")
    await store.finish(job, "succeeded")
    assert len(asked) >= 12

    def explain(connection):
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            words = " / ".join(row[3] for row in plan)
            # An empty list of tenants is a subquery of no row, which is scanned, and no table.
            scanned = re.findall(r"SCAN (?!CONSTANT ROW|\(subquery)", words)
            assert not scanned and "TEMP B-TREE" not in words, (statement, words)

    await database.write(explain)
    database.close()
