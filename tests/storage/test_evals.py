"""Evaluations and their runs, on SQLite and PostgreSQL."""

import dataclasses

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.tuning.evals import (
    EVAL_JOB,
    MOST_OPEN,
    EvalStore,
    OutputItem,
    RunCounts,
    StoredEval,
    StoredRun,
    TooManyRuns,
)

A, B = Tenant("a"), Tenant("b")


def an_eval(number):
    return StoredEval(f"eval_{number}", f"name {number}", "{}", "[]", None, number)


def a_run(number, eval_id="eval_1"):
    return StoredRun(f"evalrun_{number}", eval_id, "r", "queued", "toy", "{}", None, None, number)


@pytest.fixture
def store(database, tmp_path):
    return EvalStore(database, FileStore(database, tmp_path / "files"))


async def ids(page):
    return [one.id for one in (await page).data]


async def test_evals_are_of_one_tenant_and_ordered_by_either_time(store):
    for number in (1, 2, 3):
        await store.create(A, an_eval(number))
    await store.create(B, an_eval(1))
    asked = {"after": None, "limit": 10, "order": "asc"}
    assert await ids(store.list(A, **asked)) == ["eval_1", "eval_2", "eval_3"]
    await store.update(A, "eval_1", {"name": "new"})
    assert await ids(store.list(A, **asked, by="updated_at")) == ["eval_2", "eval_3", "eval_1"]
    assert (await store.get(A, "eval_1")).name == "new" and (await store.get(B, "eval_1")).name == "name 1"
    await store.delete(A, "eval_2")
    for call in (store.get(A, "eval_2"), store.update(B, "eval_3", {"name": "x"}), store.delete(B, "eval_3")):
        with pytest.raises(NotFound):
            await call


async def test_a_row_has_one_result_and_counts_add_up(store):
    await store.create(A, an_eval(1))
    await store.create_run(A, a_run(1))
    await store.begin(A, "evalrun_1", 3)
    for number, status in ((0, "pass"), (1, "fail"), (0, "fail"), (2, "error")):
        await store.record(A, "evalrun_1", OutputItem(number, status, "{}", 1))
    assert await store.done(A, "evalrun_1") == {0, 1, 2}
    counts = (await store.counts(A, ["evalrun_1"]))["evalrun_1"]
    assert counts == RunCounts(1, 1, 1) and counts.total == 3
    assert (await store.counts(B, ["evalrun_1"]))["evalrun_1"] == RunCounts(0, 0, 0)
    page = await store.items(A, "evalrun_1", limit=2)
    assert [one.id for one in page.data] == ["outputitem_0", "outputitem_1"] and page.has_more
    assert await ids(store.items(A, "evalrun_1", after="outputitem_1")) == ["outputitem_2"]
    assert await ids(store.items(A, "evalrun_1", order="desc", passed=False)) == [
        "outputitem_2",
        "outputitem_1",
    ]
    assert (await store.item(A, "evalrun_1", "outputitem_0")).status == "pass"
    for tenant, name in ((B, "outputitem_0"), (A, "outputitem_00"), (A, "outputitem_9"), (A, "x'; --")):
        with pytest.raises(NotFound):
            await store.item(tenant, "evalrun_1", name)


async def test_runs_are_listed_cancelled_and_deleted(store, database):
    await store.create(A, an_eval(1))
    await store.create(A, an_eval(2))
    for number in (1, 2):
        await store.create_run(A, a_run(number))
    asked = {"after": None, "limit": 10, "order": "asc"}
    jobs = JobStore(database)
    claimed = await jobs.claim([EVAL_JOB], "w", 60.0)
    await store.begin(A, claimed.id, 1)
    assert await ids(store.runs(A, "eval_1", **asked, status="queued")) == ["evalrun_2"]
    assert (await store.cancel_run(A, "evalrun_1", "eval_1")).status == "canceled"
    assert (await jobs.heartbeat(claimed, 60.0)).cancel_requested
    assert await store.record(A, "evalrun_1", OutputItem(0, "pass", "{}", 1)) == "canceled"
    assert await store.done(A, "evalrun_1") == set()
    await store.cancel_run(A, "evalrun_2", "eval_1")
    assert await jobs.claim([EVAL_JOB], "w", 60.0) is None
    with pytest.raises(NotFound):
        await store.run(A, "evalrun_1", "eval_2")
    with pytest.raises(NotFound):
        await store.delete_run(B, "evalrun_1", "eval_1")
    await store.delete_run(A, "evalrun_1", "eval_1")
    assert await ids(store.runs(A, "eval_1", **asked)) == ["evalrun_2"]
    await store.delete(A, "eval_1")
    with pytest.raises(NotFound):
        await store.run(A, "evalrun_2")


async def test_a_run_that_ended_is_not_cancelled(store):
    await store.create(A, an_eval(1))
    await store.create_run(A, a_run(1))
    await store.begin(A, "evalrun_1", 0)
    await store.end(A, "evalrun_1", "completed")
    with pytest.raises(InvalidRequest, match="is completed"):
        await store.cancel_run(A, "evalrun_1")


async def test_a_tenant_has_a_limited_number_of_open_runs(store):
    await store.create(A, an_eval(1))
    for number in range(MOST_OPEN):
        await store.create_run(A, a_run(number))
    with pytest.raises(TooManyRuns):
        await store.create_run(A, a_run(MOST_OPEN))


async def test_the_bytes_stay_while_a_run_needs_them(store, database, tmp_path):
    files = FileStore(database, tmp_path / "files")
    draft = files.draft()
    draft.write(b"{}\n")
    draft.close()
    file = await files.create(A, content=draft, filename="a", purpose="evals")
    draft.discard()
    await store.create(A, an_eval(1))
    run = await store.create_run(A, a_run(1), file_id=file.id)
    await files.delete(A, file.id)
    assert files.blobs.path(run.source_sha256).exists()
    await store.end(A, run.id, "failed", error="{}")
    assert not files.blobs.path(run.source_sha256).exists()
    assert dataclasses.replace(await store.run(A, run.id)).source_sha256 is None
