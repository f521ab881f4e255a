"""The database dies, hangs, fills up, is locked: calls say what became of their change, and queued work is there afterwards."""

import asyncio
import contextlib
import os
import pwd
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import make_url
from tests.postgres import Server
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.waiting import until_async

from deepwell.errors import StorageUnavailable
from deepwell.server.app import create_app
from deepwell.server.options import FileOptions
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.jobs import JobStore
from deepwell.storage.postgres import PostgreSQL
from deepwell.storage.sqlite import SQLite
from deepwell.storage.tables import batches, fine_tuned_models

NOTHING_KEPT = "nothing of this change was kept"
LIMIT_S = 60  # of waits that take a fraction of it


@pytest.fixture
def on_postgres(postgres: Server) -> Iterator[Database]:
    database = Database.connect(postgres.emptied())
    yield database
    database.close()


@pytest.fixture
def hasty(postgres: Server, on_postgres: Database) -> Iterator[Database]:
    """The same database, for which two seconds of silence are too long."""
    assert postgres.emptied_url is not None
    database = Database(PostgreSQL(postgres.emptied_url, patience_s=2))
    yield database
    database.close()


async def queued_and_running(database: Database):
    """A queue of three jobs, of which one is being worked on."""
    store = JobStore(database)
    for name in ("first", "second", "third"):
        await store.enqueue(LOCAL, "k", "{}", id=name)
    job = await store.claim(["k"], "worker", 600)
    return store, await store.heartbeat(job, 600, '"half"')


async def all_is_as_before(store: JobStore, job) -> None:
    """No job was lost, doubled or added, and the worker still has its own."""
    assert {one.id for one in (await store.list(LOCAL, "k")).data} == {"first", "second", "third"}
    kept = await store.heartbeat(job, 600)
    assert kept is not None and kept.progress == '"half"'
    assert await store.finish(job, "succeeded")
    assert [(await store.claim(["k"], "worker", 600)).id for _ in range(2)] == ["second", "third"]
    assert await store.claim(["k"], "worker", 600) is None


@contextlib.asynccontextmanager
async def served(database: Database, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on the database, with a key that is not in there."""
    folder = tmp_path / "codec"
    folder.mkdir()
    key = SecretStr("a-key-of-the-settings")
    service = make_service(FakeEngine(), make_codec(folder), model="toy", database=database, api_keys=[key])
    headers = {"authorization": f"Bearer {key.get_secret_value()}"}
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        yield client


def unavailable(answer: httpx.Response) -> str:
    """The message of a 503 that the database is the reason of; clients learn nothing of where it is."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "storage_unavailable")
    assert "/tmp" not in error["message"] and "s3cret" not in error["message"]
    return error["message"]


async def test_sigkill_of_postgresql(postgres, on_postgres, tmp_path, caplog):
    store, job = await queued_and_running(on_postgres)
    async with served(on_postgres, tmp_path) as client:
        postgres.kill()
        with pytest.raises(StorageUnavailable, match=NOTHING_KEPT):
            await store.enqueue(LOCAL, "k", "{}", id="fourth")
        with pytest.raises(StorageUnavailable, match="cannot be reached"):
            await store.get(LOCAL, "first")
        answer = await client.post("/v1/conversations", json={})
        assert NOTHING_KEPT in unavailable(answer) and "DEEPWELL_DATABASE_URL" in unavailable(answer)
        unavailable(await client.get("/v1/responses/resp_1"))
        postgres.start()
        await all_is_as_before(store, job)
        assert (await client.post("/v1/conversations", json={})).status_code == 200
    assert "s3cret" not in caplog.text


async def test_sigkill_of_postgresql_amid_writes(postgres, on_postgres):
    store = JobStore(on_postgres)
    kept, refused, doubtful = set(), set(), set()
    enough = asyncio.Event()

    async def client(number: int) -> None:
        for count in range(10_000):
            id = f"{number}-{count}"
            try:
                await store.enqueue(LOCAL, "k", "{}", id=id)
            except StorageUnavailable as error:
                told = {NOTHING_KEPT: refused, "it is not known whether this change was kept": doubtful}
                [ids] = [ids for words, ids in told.items() if words in error.message]
                ids.add(id)
                return
            kept.add(id)
            if len(kept) >= 200:
                enough.set()

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    await asyncio.wait_for(enough.wait(), LIMIT_S)
    await asyncio.to_thread(postgres.kill)
    await asyncio.gather(*clients)
    assert len(refused) + len(doubtful) == 8
    postgres.start()
    found = {job.id for job in (await store.list(LOCAL, "k", limit=100_000)).data}
    assert kept <= found and not refused & found and found <= kept | doubtful


async def test_sigstop_of_postgresql(postgres, on_postgres, hasty):
    store, job = await queued_and_running(on_postgres)
    waiting = JobStore(hasty)

    async def again():
        with contextlib.suppress(StorageUnavailable):
            assert (await waiting.get(LOCAL, "first")).status == "running"
            return await waiting.heartbeat(job, 600)

    await until_async(again, lambda answer: answer is not None)  # it has its connections
    postgres.signal(signal.SIGSTOP)
    try:
        results = await asyncio.gather(
            waiting.enqueue(LOCAL, "k", "{}", id="fourth"),
            waiting.get(LOCAL, "first"),
            return_exceptions=True,
        )
    finally:
        postgres.signal(signal.SIGCONT)
    assert [type(one) for one in results] == [StorageUnavailable, StorageUnavailable]
    assert NOTHING_KEPT in str(results[0])
    await until_async(again, lambda answer: answer is not None)
    await all_is_as_before(store, job)


async def test_a_connection_that_broke_is_replaced_unseen(postgres, on_postgres):
    store, job = await queued_and_running(on_postgres)
    await store.get(LOCAL, "first")
    name = make_url(postgres.emptied_url).database
    postgres.sql(
        "postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    assert (await store.get(LOCAL, "first")).status == "running"
    await all_is_as_before(store, job)


async def test_a_full_disk_below_postgresql(postgres, on_postgres, small_disk):
    store, job = await queued_and_running(on_postgres)
    owner = pwd.getpwnam("postgres")
    small_disk.chmod(0o777)
    for folder in small_disk.parents:
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(0o755)
    space = small_disk / "space"
    space.mkdir()
    os.chown(space, owner.pw_uid, owner.pw_gid)
    name = make_url(postgres.emptied_url).database
    postgres.sql(name, f"CREATE TABLESPACE small LOCATION '{space}'")
    postgres.sql(name, "ALTER TABLE jobs SET TABLESPACE small")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2 << 20))
    try:
        await fill(store)
        filler.unlink()
        await all_is_as_before(store, job)
    finally:
        postgres.sql(name, "ALTER TABLE jobs SET TABLESPACE pg_default")
        postgres.sql(name, "DROP TABLESPACE small")


async def fill(store: JobStore) -> None:
    """Write until the disk is full; jobs of another kind, so that the queue is still what it was."""

    async def write() -> None:
        for _ in range(200):
            await store.enqueue(LOCAL, "filling", f'"{secrets.token_hex(50_000)}"')

    with pytest.raises(StorageUnavailable, match="disk of the database") as raised:
        await write()
    assert NOTHING_KEPT in str(raised.value) and "free space" in raised.value.fix


async def test_a_full_disk_below_sqlite(small_disk, tmp_path):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2 << 20))
    database = Database.open(small_disk / "deepwell.db")
    try:
        store, job = await queued_and_running(database)
        async with served(database, tmp_path) as client:
            await fill(store)
            while (answer := await client.post("/v1/conversations", json={})).status_code == 200:
                pass  # small ones still had a place
            assert NOTHING_KEPT in unavailable(answer) and "free space" in unavailable(answer)
            filler.unlink()
            await all_is_as_before(store, job)
            assert (await client.post("/v1/conversations", json={})).status_code == 200
    finally:
        database.close()


@pytest.mark.parametrize("small_disk", ["20m"], indirect=True)
async def test_what_frees_space_goes_through_on_a_full_disk(small_disk, tmp_path):
    """Other writes are refused, each kind of thing can be deleted, and afterwards writes are taken again."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2 << 20))
    database = Database.open(small_disk / "deepwell.db")
    (tmp_path / "codec").mkdir()
    service = make_service(
        FakeEngine(),
        make_codec(tmp_path / "codec"),
        model="toy",
        database=database,
        files=FileOptions(folder=small_disk / "files"),
    )
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        made = await one_of_each(client, database)
        await fill(JobStore(database))
        with contextlib.suppress(OSError), (small_disk / "other").open("wb", buffering=0) as other:
            while other.write(bytes(4096)):  # somebody else takes the last page
                pass
        while (answer := await client.post("/v1/conversations", json={})).status_code == 200:
            pass
        unavailable(answer)
        for path in made:
            answer = await client.delete(path)
            assert answer.status_code == 200, (path, answer.text)
            assert (await client.get(path)).status_code == 404, path
        filler.unlink()
        assert (await client.post("/v1/conversations", json={})).status_code == 200
        await database.record()
        assert (small_disk / "deepwell.db-reserve").stat().st_size
    await service.close_background()
    database.close()


async def one_of_each(client: httpx.AsyncClient, database: Database) -> list[str]:
    """Makes one of each kind of thing, and returns their paths."""

    async def made(path: str, body: dict, **form: dict) -> str:
        answer = await client.post(f"/v1/{path}", **(form or {"json": body}))
        assert answer.status_code == 200, (path, answer.text)
        return f"/v1/{path}/{answer.json()['id']}"

    chat = {"model": "toy", "messages": [{"role": "user", "content": "once"}], "max_tokens": 4}
    item = {"type": "message", "role": "user", "content": "once"}
    evaluation = {
        "data_source_config": {"type": "custom", "item_schema": {"type": "object"}},
        "testing_criteria": [
            {"type": "string_check", "name": "g", "input": "a", "reference": "a", "operation": "eq"}
        ],
    }
    form = {"files": {"file": ("f.txt", bytes(20_000))}, "data": {"purpose": "user_data"}}
    batch = await made("messages/batches", {"requests": [{"custom_id": "a", "params": chat}]})
    # No worker runs here.
    await database.write(lambda connection: connection.execute(sa.update(batches).values(status="completed")))
    tuned = {
        "tenant": LOCAL,
        "name": "ft:toy:1",
        "base": "toy",
        "job_id": "j",
        "folder": "a",
        "created_at": 1,
    }
    await database.write(lambda connection: connection.execute(sa.insert(fine_tuned_models).values(tuned)))
    return [
        await made("files", {}, **form),
        await made("vector_stores", {"name": "v"}),
        "/v1/models/ft:toy:1",
        batch,
        await made("conversations", {"items": [item]}),
        await made("responses", {"model": "toy", "input": "once", "store": True, "max_output_tokens": 4}),
        await made("chat/completions", chat | {"store": True}),
        await made("evals", evaluation),
        await made("prompts", {"id": "greeting", "instructions": "Be brief."}),
    ]


CHILD = """
import asyncio, resource, secrets, signal, sys, time
from deepwell.errors import StorageUnavailable
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.jobs import JobStore
from deepwell.storage.sqlite import SQLite
from pathlib import Path
path = Path(sys.argv[1])

async def main():
    store = JobStore(Database.open(path))
{body}

asyncio.run(main())
"""


def child(path: Path, body: str) -> subprocess.Popen:
    """Another process on the same database file: its lines are the answers."""
    lines = "\n".join(f"    {line}" for line in body.strip("\n").split("\n"))
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=lines), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def test_a_quota_that_is_used_up(tmp_path):
    """The kernel refuses every write behind the limit, as a full disk does, to a process without rights of its own."""
    path = tmp_path / "deepwell.db"
    database = Database.open(path)
    store, job = await queued_and_running(database)
    process = child(
        path,
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
try:
    for _ in range(100):
        await store.enqueue(LOCAL, "filling", secrets.token_hex(20_000))
except StorageUnavailable as error:
    print(error, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print((await store.enqueue(LOCAL, "filling", "{}")).status, flush=True)
""",
    )
    told, later = process.communicate(timeout=LIMIT_S)[0].splitlines()
    assert "the disk of the database" in told and NOTHING_KEPT in told and "free space" in told
    assert later == "queued"
    await all_is_as_before(store, job)
    database.close()


async def test_a_database_that_another_process_has_locked(tmp_path):
    path = tmp_path / "deepwell.db"
    database = Database(SQLite(f"sqlite:///{path}", busy_ms=200))
    store, job = await queued_and_running(database)
    body = """
import sqlite3
held = sqlite3.connect(path, isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""
    async with served(database, tmp_path) as client:
        for end in (lambda process: process.communicate("\n", timeout=LIMIT_S), kill):
            holder = child(path, body)
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(StorageUnavailable, match=f"locked.*{NOTHING_KEPT}") as raised:
                await store.enqueue(LOCAL, "k", "{}", id="fourth")
            assert "holds the lock" in raised.value.fix
            assert (await store.get(LOCAL, "first")).status == "running"  # readers do not wait
            assert "locked" in unavailable(await client.post("/v1/conversations", json={}))
            end(holder)
            assert (await client.post("/v1/conversations", json={})).status_code == 200
    await all_is_as_before(store, job)
    database.close()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate(timeout=LIMIT_S)


async def test_a_server_killed_amid_writes_has_kept_what_it_said_it_kept(tmp_path):
    path = tmp_path / "deepwell.db"
    process = child(
        path,
        """
for number in range(100_000):
    print((await store.enqueue(LOCAL, "k", "{}")).id, flush=True)
""",
    )
    told = [process.stdout.readline().strip() for _ in range(100)]
    process.kill()
    told += [
        line.strip() for line in process.communicate(timeout=LIMIT_S)[0].splitlines() if line.endswith("\n")
    ]
    database = Database.open(path)
    found = {job.id for job in (await JobStore(database).list(LOCAL, "k", limit=100_000)).data}
    assert set(told) <= found and len(found) <= len(told) + 2
    check = await database.read(
        lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar_one()
    )
    assert check == "ok"
    database.close()


@pytest.mark.parametrize("hours", [-6, 6])
async def test_a_wall_clock_that_jumps_neither_loses_nor_doubles_a_job(tmp_path, hours):
    path = tmp_path / "deepwell.db"
    database = Database.open(path)
    store = JobStore(database)
    await store.enqueue(LOCAL, "k", "{}", id="j")
    # The other process lives `hours` from here: its leases are hours off by our clock, and ours by its own.
    jump = f"real = time.time\ntime.time = lambda: real() + 3600 * ({hours})\n"
    worker = child(
        path,
        jump
        + """
job = await store.claim(["k"], "worker", 0.5)
await store.heartbeat(job, 0.5, '"half"')
print("has it", flush=True)
while sys.stdin.readline():
    print(await store.heartbeat(job, 0.5) is not None, flush=True)
""",
    )
    assert worker.stdout.readline() == "has it\n"
    for _ in range(3):
        assert await store.claim(["k"], "heir", 600) is None
        worker.stdin.write("\n")
        assert worker.stdout.readline() == "True\n"
    kill(worker)
    job = await until_async(lambda: store.claim(["k"], "heir", 600))
    assert (job.attempts, job.progress) == (2, '"half"')
    # And the other way: no process with such a clock takes it from its new owner.
    thief = child(
        path,
        jump
        + """
for _ in range(20):
    print(await store.claim(["k"], "thief", 600), flush=True)
""",
    )
    assert set(thief.communicate(timeout=LIMIT_S)[0].split()) == {"None"}
    assert await store.finish(job, "succeeded")
    database.close()
