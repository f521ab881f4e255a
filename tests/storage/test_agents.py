"""Runs of agents and their steps, on SQLite and PostgreSQL."""

import dataclasses

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.agents import (
    AGENT_JOB,
    MOST_OPEN,
    AgentStore,
    StepTaken,
    StoredAgentRun,
    StoredStep,
    TooManyAgentRuns,
)
from deepwell.storage.database import Tenant
from deepwell.storage.jobs import JobStore

A, B = Tenant("a"), Tenant("b")
END = StoredStep(0, "end", "{}")


def a_run(number: int = 1, **values) -> StoredAgentRun:
    return dataclasses.replace(
        StoredAgentRun(f"run_{number}", "queued", "toy", "task", "{}", number), **values
    )


def step(number: int) -> StoredStep:
    return StoredStep(number, "turn", f'{{"number": {number}}}')


@pytest.fixture
def store(database):
    return AgentStore(database)


async def test_runs_are_of_one_tenant_and_listed_newest_first(store):
    for number in (1, 2, 3):
        await store.create(A, a_run(number), [step(0)], payload="{}")
    await store.create(B, a_run(1, task="other"), [step(0)], payload="{}")
    assert [one.id for one in (await store.list(A)).data] == ["run_3", "run_2", "run_1"]
    assert [one.id for one in (await store.list(A, after="run_3", limit=1)).data] == ["run_2"]
    assert (await store.get(B, "run_1")).task == "other"
    assert (await store.list(A, status="completed")).data == []
    for call in (
        store.get(B, "run_2"),
        store.steps(B, "run_2"),
        store.append(B, "run_2", step(1)),
        store.settle(B, a_run(2)),
        store.answer(B, "run_2", [step(1)], left=None, payload="{}"),
        store.cancel(B, "run_2", END, "no"),
        store.delete(B, "run_2"),
    ):
        with pytest.raises(NotFound):
            await call


async def test_a_step_is_written_once_and_in_order(store):
    await store.create(A, a_run(), [step(0)], payload="{}")
    assert await store.append(A, "run_1", step(1)) is False
    for wrong in (1, 3):
        with pytest.raises(StepTaken):
            await store.append(A, "run_1", step(wrong))
    assert [one.number for one in await store.steps(A, "run_1")] == [0, 1]
    assert [one.number for one in await store.steps(A, "run_1", after=0, limit=5)] == [1]


async def test_cancelling_ends_a_run_that_nobody_works_on_and_tells_a_worker(store, database):
    jobs = JobStore(database)
    await store.create(A, a_run(1), [step(0)], payload="{}")
    assert (await store.cancel(A, "run_1", END, "enough")).status == "cancelled"
    assert (await jobs.get(A, "run_1")).status == "cancelled"
    assert (await store.steps(A, "run_1"))[-1].kind == "end"
    with pytest.raises(StepTaken):
        await store.append(A, "run_1", step(2))
    await store.create(A, a_run(2), [step(0)], payload="{}")
    job = await jobs.claim([AGENT_JOB], "worker", 60)
    assert job is not None and job.id == "run_2"
    await store.settle(A, a_run(2, status="in_progress"))
    assert (await store.cancel(A, "run_2", END, "enough")).status == "in_progress"
    assert await store.append(A, "run_2", step(1)) is True
    ended = await store.settle(A, a_run(2, status="cancelled", finished_at=1))
    assert ended.ended and (await store.settle(A, a_run(2, status="completed"))).status == "cancelled"


async def test_an_answer_puts_a_run_that_waits_back_into_the_queue(store, database):
    jobs = JobStore(database)
    await store.create(A, a_run(), [step(0)], payload="{}")
    with pytest.raises(InvalidRequest, match="waits for nothing"):
        await store.answer(A, "run_1", [step(1)], left=None, payload="{}")
    job = await jobs.claim([AGENT_JOB], "worker", 60)
    await store.settle(A, a_run(status="requires_action", pending='["x", "y"]'))
    assert (await store.answer(A, "run_1", [step(1)], left='["y"]', payload="{}")).status == "requires_action"
    assert (await store.answer(A, "run_1", [step(2)], left=None, payload="{}")).status == "queued"
    assert job is not None and not await jobs.finish(job, "succeeded")  # the worker of before has it no more
    assert (await jobs.get(A, "run_1")).status == "queued"


async def test_a_tenant_has_a_bounded_number_of_open_runs(store):
    for number in range(MOST_OPEN):
        await store.create(A, a_run(number), [], payload=None)
    with pytest.raises(TooManyAgentRuns):
        await store.create(A, a_run(MOST_OPEN), [], payload=None)
    await store.create(B, a_run(1), [], payload=None)


async def test_deleting_takes_the_steps_and_the_job(store, database):
    await store.create(A, a_run(), [step(0)], payload="{}")
    await store.create(B, a_run(), [step(0)], payload="{}")
    with pytest.raises(InvalidRequest, match="cancel it first"):
        await store.delete(A, "run_1")
    await store.cancel(A, "run_1", END, "enough")
    await store.delete(A, "run_1")
    with pytest.raises(NotFound):
        await JobStore(database).get(A, "run_1")
    assert len(await store.steps(B, "run_1")) == 1
