"""Retention by a fake clock: all that is too old goes, nothing younger does, on both databases."""

import asyncio
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.waiting import until_async

from deepwell.settings import Settings
from deepwell.storage.completions import CompletionStore, StoredCompletion
from deepwell.storage.conversations import ConversationStore, Item, StoredConversation
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.responses import ResponseStore, StoredResponse
from deepwell.storage.retention import Retention, RetentionPolicy
from deepwell.storage.tables import (
    batch_lines,
    batches,
    completion_metadata,
    completions,
    conversation_items,
    conversations,
    files,
    jobs,
    responses,
    uploads,
)

A = Tenant("a")
NOW = 2_000_000_000
AGE = 100
EVERYTHING = RetentionPolicy(*[float(AGE)] * len(fields(RetentionPolicy)))


def retention(database, folder: Path, policy=EVERYTHING, now=NOW, pause_s=0.0):
    return Retention(database, FileStore(database, folder), policy, clock=lambda: now, pause_s=pause_s)


async def ids(database, table) -> set[str]:
    return set(await database.read(lambda connection: connection.scalars(sa.select(table.c.id)).all()))


def insert(table, rows):
    return lambda connection: connection.execute(sa.insert(table), rows) if rows else None


def batch(id, age, **more):
    zeros = dict.fromkeys(
        ("total", "completed", "failed", "input_tokens", "cached_tokens", "output_tokens"), 0
    )
    return {"tenant": A, "id": id, "status": "completed", "endpoint": "/v1/completions", "input_file_id": "f",
            "completion_window": "24h", "created_at": NOW - age, "expires_at": NOW, "completed_at": None,
            **zeros, **more}  # fmt: skip


def job(id, finished, status="succeeded"):
    return {"tenant": A, "id": id, "kind": "k", "status": status, "payload": "{}", "attempts": 1, "priority": 0,
            "created_at": NOW - 9000, "finished_at": finished, "beat": 0, "cancel_requested": False}  # fmt: skip


def file(id, age, expires_at=None):
    return {"tenant": A, "id": id, "created_at": NOW - age, "expires_at": expires_at, "filename": "f",
            "purpose": "user_data", "bytes": 1, "sha256": "0" * 64}  # fmt: skip


def upload(id, age, status="completed"):
    return {"tenant": A, "id": id, "created_at": NOW - age - 3600, "expires_at": NOW - age, "status": status,
            "filename": "f", "purpose": "user_data", "mime_type": "text/plain", "bytes": 1}  # fmt: skip


def response_rows(made):
    """Rows from (age, number of the one before or None, is working)."""
    return [
        {"tenant": A, "id": f"r{number}", "created_at": NOW - age, "status": "completed", "input": "[]", "body": "{}",
         "previous_id": None if before is None else f"r{before}", "owner": "somebody" if working else None}
        for number, (age, before, working) in enumerate(made)
    ]  # fmt: skip


ages = st.integers(0, 2 * AGE)
chains = st.lists(st.tuples(ages, st.none() | st.integers(0, 12), st.booleans()), max_size=14).map(
    # one before is an earlier one, and older
    lambda made: [
        (age, None if before is None or before >= number or made[before][0] < age else before, working)
        for number, (age, before, working) in enumerate(made)
    ]
)


async def check_sweep(database, tmp_path, made, others):
    """Fills the tables, sweeps, and compares what is left with what is young enough."""
    for table in (responses, completions, conversations, files, uploads, batches, jobs):
        await database.write(lambda connection, table=table: connection.execute(sa.delete(table)))
    await database.write(insert(responses, response_rows(made)))
    numbered = list(enumerate(others))
    await database.write(
        insert(
            conversations,
            [
                {"tenant": A, "id": f"c{n}", "created_at": NOW - max(pair), "updated_at": NOW - min(pair), "metadata": "{}"}
                for n, pair in numbered
            ],
        )
    )  # fmt: skip
    await database.write(
        insert(batches, [batch(f"b{n}", max(pair), completed_at=NOW - min(pair)) for n, pair in numbered])
    )
    await database.write(insert(jobs, [job(f"j{n}", NOW - age) for n, (age, _) in numbered]))
    await database.write(insert(files, [file(f"f{n}", age) for n, (age, _) in numbered]))
    await database.write(insert(uploads, [upload(f"u{n}", age) for n, (age, _) in numbered]))
    await retention(database, tmp_path / "files").sweep()
    needed = {number for number, (age, _, working) in enumerate(made) if age <= AGE or working}
    while more := {made[number][1] for number in needed} - {None} - needed:
        needed |= more
    assert await ids(database, responses) == {f"r{number}" for number in needed}
    assert await ids(database, conversations) == {f"c{n}" for n, pair in numbered if min(pair) <= AGE}
    assert await ids(database, batches) == {f"b{n}" for n, pair in numbered if min(pair) <= AGE}
    for table, letter in ((jobs, "j"), (files, "f"), (uploads, "u")):
        assert await ids(database, table) == {f"{letter}{n}" for n, (age, _) in numbered if age <= AGE}
    removed = await retention(database, tmp_path / "files").sweep()
    assert set(removed.values()) == {0}


def test_all_that_is_too_old_goes_and_nothing_younger(database, tmp_path):
    @settings(max_examples=8, deadline=None)
    @given(made=chains, others=st.lists(st.tuples(ages, ages), max_size=8))
    def each(made, others):
        asyncio.run(check_sweep(database, tmp_path, made, others))

    each()


async def test_by_default_stored_objects_are_kept(database, tmp_path):
    policy = RetentionPolicy.of(Settings())
    day = 86_400
    assert policy == RetentionPolicy(responses_s=30 * day, jobs_s=30 * day)
    for store, made in (
        (CompletionStore(database), StoredCompletion("x", 1, "m", "[]", "{}", {"k": "v"})),
        (ConversationStore(database), StoredConversation("x", 1, "{}")),
        (ResponseStore(database), StoredResponse("x", NOW - 29 * day, "completed", "[]", "{}")),
    ):
        if isinstance(store, ConversationStore):
            await store.create(A, made, [])
        else:
            await (store.put if isinstance(store, ResponseStore) else store.create)(A, made)
    await database.write(insert(files, [file("x", NOW - 1)]))
    await database.write(insert(batches, [batch("x", NOW - 1, completed_at=1)]))
    await retention(database, tmp_path, policy).sweep()
    for table in (completions, conversations, responses, files, batches):
        assert await ids(database, table) == {"x"}
    removed = await retention(database, tmp_path, policy, NOW + 2 * day).sweep()
    assert removed["responses"] == 1 and sum(removed.values()) == 1


async def test_what_belongs_to_a_row_goes_with_it(database, tmp_path):
    await CompletionStore(database).create(A, StoredCompletion("x", 1, "m", "[]", "{}", {"k": "v"}))
    items = [Item(f"i{number}", "{}") for number in range(700)]
    await ConversationStore(database).create(A, StoredConversation("x", 1, "{}"), items)
    old = sa.update(conversations).values(updated_at=1)
    await database.write(lambda connection: connection.execute(old))
    lines = [{"tenant": A, "batch_id": "x", "line": n, "failed": 0, "body": "{}"} for n in range(1200)]
    await database.write(insert(batches, [batch("x", NOW - 1, status="failed", failed_at=1)]))
    await database.write(insert(batch_lines, lines))
    await database.write(insert(jobs, [job("x", 1, "failed")]))
    source = tmp_path / "source"
    source.write_bytes(b"1")
    store = FileStore(database, tmp_path / "files")
    kept = await store.create(A, filename="f", purpose="user_data", content=source)
    await database.write(lambda connection: connection.execute(sa.update(files).values(created_at=1)))
    await retention(database, tmp_path / "files").sweep()
    for table in (
        completions,
        completion_metadata,
        conversations,
        conversation_items,
        batches,
        batch_lines,
        jobs,
    ):
        count = sa.select(sa.func.count()).select_from(table)
        assert (
            await database.read(lambda connection, count=count: connection.execute(count).scalar_one()) == 0
        )
    assert not store.blobs.path(kept.sha256).exists()


async def test_what_is_not_finished_stays(database, tmp_path):
    await database.write(insert(batches, [batch("open", NOW - 1, status="in_progress")]))
    await database.write(insert(jobs, [job("open", 1), job("queued", None, "queued")]))
    await database.write(insert(uploads, [upload("pending", NOW - 1, "pending")]))
    await database.write(insert(files, [file("dated", NOW - 1, expires_at=NOW + 1)]))
    await ResponseStore(database).begin(A, StoredResponse("r", 1, "queued", "[]", "{}"), "owner", 600)
    removed = await retention(database, tmp_path).sweep()
    assert set(removed.values()) == {0}
    assert await ids(database, jobs) == {"open", "queued", "r"}


async def test_writes_of_others_go_on_between(database, tmp_path):
    """A sweep of many rows is many writes: none holds others up for all of it."""
    rows = response_rows([(2 * AGE, None, False)] * 400)
    await database.write(insert(responses, rows))
    store = JobStore(database)
    # It rests behind its first write for longer than the test lasts: only the writes of others can go on there.
    resting = asyncio.create_task(retention(database, tmp_path, pause_s=3600).sweep())
    async with asyncio.timeout(60):
        while len(left := await ids(database, responses)) == 400:
            await store.enqueue(A, "k", "{}")
    await store.enqueue(A, "k", "{}")
    assert 0 < len(left) < 400 and await ids(database, responses) == left
    resting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await resting
    assert (await retention(database, tmp_path).sweep())["responses"] == len(left)


@pytest.mark.parametrize("days", [0.0, 1 / 1440])
def test_the_shortest_time_is_that_of_the_settings(days):
    given = {f"{name}_retention_days": 0.0 for name in ("completion", "conversation", "file", "batch", "job")}
    policy = RetentionPolicy.of(Settings(response_retention_days=days, **given))
    assert policy.shortest_s == (pytest.approx(60) if days else None)


async def test_deleted_responses_go_after_a_time_though_all_others_are_kept(database, tmp_path):
    store = ResponseStore(database)
    month = 30 * 86_400

    def stored(id, previous=None, age=month + 1):
        return StoredResponse(id, NOW - age, "completed", "[]", "{}", previous)

    for one in (
        stored("first"),
        stored("gone", "first"),
        stored("link", "first"),
        stored("last", "link", age=1),
        stored("young", age=month - 1),
    ):
        await store.put(A, one)
    for id in ("gone", "link", "young"):
        await store.delete(A, id)
    removed = await retention(database, tmp_path, RetentionPolicy()).sweep()
    assert removed["responses"] == 1 and sum(removed.values()) == 1
    assert await ids(database, responses) == {"first", "link", "last", "young"}
    assert [one.id for one in await store.chain(A, "last")] == ["first", "last"]


async def test_a_response_that_is_built_on_meanwhile_stays(postgres, tmp_path):
    """One process stores the next of a chain while another removes what is old."""
    url = postgres.emptied()
    one, two = Database.connect(url), Database.connect(url)
    name = str(sa.make_url(url).database)
    held = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    try:
        store = ResponseStore(one)
        await store.put(A, StoredResponse("old", NOW - AGE - 1, "completed", "[]", "{}"))
        young = StoredResponse("young", NOW, "completed", "[]", "{}", "old")
        row = response_rows([(0, None, False)])[0] | {"id": "young"}
        with held.connect() as other:
            other.execute(
                sa.insert(responses), row
            )  # the same key, which makes the writer wait in its middle
            storing = asyncio.create_task(store.put(A, young))
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            await until_async(lambda: asyncio.to_thread(postgres.sql, name, waiting), lambda rows: rows[0][0])
            await retention(two, tmp_path).sweep()
            other.rollback()
        await storing
        assert [found.id for found in await store.chain(A, "young")] == ["old", "young"]
    finally:
        held.dispose()
        one.close()
        two.close()
