"""One process at a time works on the rounds of an alias, and another takes over from one that died."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepwell.errors import DeepwellError
from deepwell.fleet.improve.leading import OPERATOR, lead
from deepwell.fleet.improve.loop import Progress
from deepwell.storage.database import Database
from deepwell.storage.jobs.rows import JobStore
from deepwell.storage.keys import KeyStore

PROD = "smollm2@prod"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


async def waits() -> Progress:
    return Progress(None, "12 new votes, 50 are needed")


async def test_a_second_process_leaves_the_work_to_the_first(database: Database) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> Progress:
        begun.set()
        await go_on.wait()
        return await waits()

    first = asyncio.create_task(lead(JobStore(database), PROD, "one", work))
    await begun.wait()
    assert await lead(JobStore(database), PROD, "two", waits, patience_s=0) is None
    other = await lead(JobStore(database), "other@prod", "two", waits, patience_s=0)
    assert other is not None, "each alias has a leader of its own"
    go_on.set()
    found = await first
    assert found is not None and found.waiting.startswith("12")
    page = await JobStore(database).list(OPERATOR)
    rows = {json.loads(one.payload)["alias"]: one for one in page.data}
    assert rows[PROD].status == "queued"
    assert json.loads(rows[PROD].progress or "")["waiting"] == "12 new votes, 50 are needed"
    assert await lead(JobStore(database), PROD, "two", waits, patience_s=0) == found
    assert len((await JobStore(database).list(OPERATOR)).data) == 2, "the row stays the same"


async def test_the_work_of_a_process_that_died_is_taken_over(database: Database) -> None:
    jobs = JobStore(database)
    await lead(jobs, PROD, "one", waits)
    kind = (await jobs.list(OPERATOR)).data[0].kind
    assert await jobs.claim([kind], "dead", 0.2) is not None
    assert await lead(JobStore(database), PROD, "two", waits, lease_s=0.2) is not None


async def test_work_whose_lease_is_lost_is_ended(database: Database) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> Progress:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    leading = asyncio.create_task(lead(JobStore(database), PROD, "one", work, lease_s=0.3))
    await begun.wait()
    now = 0.0
    late = JobStore(database, clock=lambda: now)
    kind = (await late.list(OPERATOR)).data[0].kind
    while await late.claim([kind], "two", 30.0) is None:  # it believes that hours pass between its looks
        now += 3600
    with pytest.raises(DeepwellError, match="lease"):
        await leading
    assert ended.is_set()


async def test_a_failure_gives_the_work_back(database: Database) -> None:
    async def fails() -> Progress:
        raise DeepwellError("the gates are shut", fix="open them")

    with pytest.raises(DeepwellError, match="gates are shut"):
        await lead(JobStore(database), PROD, "one", fails)
    assert await lead(JobStore(database), PROD, "two", waits, patience_s=0) is not None


def test_no_key_is_of_the_tenant_that_owns_the_work(database: Database) -> None:
    with pytest.raises(DeepwellError):
        KeyStore(database).create(OPERATOR, "app", ["inference"])
