"""Durable jobs: claimed once, in order; lost with their worker's silence alone; proved by who claimed them last."""

import asyncio
import threading
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import JobStore, insert_job
from deepwell.storage.jobs.runner import JobOutcome, JobRunner

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database, clock) -> JobStore:
    return JobStore(database, clock=clock)


async def test_a_job_runs_through_its_life(store):
    made = await store.enqueue(A, "batch", '{"n":1}', id="j", priority=3)
    assert (made.id, made.tenant, made.status, made.payload, made.priority) == (
        "j",
        A,
        "queued",
        '{"n":1}',
        3,
    )
    assert await store.claim(["other"], "w", 10) is None
    job = await store.claim(["other", "batch"], "w", 10)
    assert (job.id, job.status, job.owner, job.attempts) == ("j", "running", "w", 1)
    assert job.started_at is not None and job.lease_until > time.time()
    assert await store.claim(["batch"], "v", 10) is None
    kept = await store.heartbeat(job, 20, '{"line":7}')
    assert kept.progress == '{"line":7}' and not kept.cancel_requested
    assert (await store.heartbeat(kept, 20)).progress == '{"line":7}'
    assert await store.finish(job, "succeeded", result='{"ok":true}')
    done = await store.get(A, "j")
    assert (done.status, done.result, done.owner, done.lease_until) == (
        "succeeded",
        '{"ok":true}',
        None,
        None,
    )
    assert done.finished_at is not None
    assert not await store.finish(job, "failed", error="again")
    assert await store.claim(["batch"], "v", 10) is None


async def test_higher_priority_comes_first_then_the_older(store):
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        await store.enqueue(A if name < "c" else B, "k", "{}", id=name, priority=priority)
    claimed = [(await store.claim(["k"], "w", 10)).id for _ in range(5)]
    assert claimed == ["b", "d", "a", "c", "e"]


async def test_jobs_of_tenants_can_be_left_where_they_are(store, clock):
    for tenant, name in ((A, "lost"), (A, "a"), (B, "b")):
        await store.enqueue(tenant, "k", "{}", id=name)
    await store.claim(["k"], "dead", 10)
    assert (await store.claim(["k"], "w", 10, besides=[A])).id == "b"
    clock.now = 10
    assert await store.claim(["k"], "w", 10, besides=[A]) is None
    assert (await store.claim(["k"], "w", 10, besides=[B])).id == "lost"
    assert (await store.claim(["k"], "w", 10)).id == "a"


async def test_the_same_id_is_one_job(store):
    first = await store.enqueue(A, "k", "1", id="j")
    assert await store.enqueue(A, "k", "2", id="j") == first
    other = await store.enqueue(B, "k", "3", id="j")
    assert (other.tenant, other.payload) == (B, "3")
    assert len({(await store.enqueue(A, "k", "{}")).id for _ in range(3)}) == 3


async def test_a_job_is_made_with_other_rows_or_not_at_all(store, database):
    def work(connection):
        insert_job(connection, A, "k", "{}", id="j")
        raise ValueError("the other row")

    with pytest.raises(ValueError, match="other row"):
        await database.write(work)
    with pytest.raises(NotFound, match="'j'"):
        await store.get(A, "j")


async def test_a_silent_worker_loses_its_job(store, clock):
    await store.enqueue(A, "k", "{}")
    lost = await store.claim(["k"], "dead", 10)
    lost = await store.heartbeat(lost, 10, '"half"')
    assert await store.claim(["k"], "heir", 10) is None  # it is watched from here
    clock.now = 9.9
    assert await store.claim(["k"], "heir", 10) is None
    clock.now = 10
    job = await store.claim(["k"], "heir", 30)
    assert (job.id, job.owner, job.attempts, job.progress) == (lost.id, "heir", 2, '"half"')
    assert await store.heartbeat(lost, 10) is None
    assert not await store.finish(lost, "succeeded")
    assert not await store.release(lost)
    assert (await store.get(A, job.id)).status == "running"
    assert await store.finish(job, "succeeded")


async def test_a_heartbeat_starts_the_silence_anew(store, clock):
    await store.enqueue(A, "k", "{}")
    job = await store.claim(["k"], "w", 10)
    for now in (0, 8, 16, 24, 32):
        clock.now = now
        assert await store.claim(["k"], "heir", 10) is None
        assert await store.heartbeat(job, 10) is not None


async def test_each_set_of_kinds_is_watched_for_itself(store, clock):
    await store.enqueue(A, "k", "{}")
    await store.claim(["k"], "dead", 10)
    for now in (0, 5, 10):
        clock.now = now
        assert await store.claim(["other"], "w", 10) is None
        job = await store.claim(["k"], "heir", 10)
    assert job.attempts == 2


async def test_a_lost_job_takes_its_place_in_the_order(store, clock):
    await store.enqueue(A, "k", "{}", id="old")
    await store.claim(["k"], "dead", 10)
    assert await store.claim(["k"], "heir", 10) is None
    await store.enqueue(A, "k", "{}", id="urgent", priority=1)
    await store.enqueue(A, "k", "{}", id="young")
    clock.now = 10
    assert [(await store.claim(["k"], "heir", 10)).id for _ in range(3)] == ["urgent", "old", "young"]


async def test_the_same_name_does_not_give_a_job_back_to_a_restarted_worker(store, clock):
    await store.enqueue(A, "k", "{}")
    before = await store.claim(["k"], "worker-0", 10)
    await store.claim(["k"], "worker-0", 10)
    clock.now = 10
    after = await store.claim(["k"], "worker-0", 10)
    assert after.owner == before.owner and after.attempts == 2
    assert await store.heartbeat(before, 10) is None


async def test_wall_clocks_decide_nothing(store, clock, monkeypatch):
    await store.enqueue(A, "k", "{}", id="j")
    monkeypatch.setattr(time, "time", lambda: 1e9)  # the owner's clock is years behind
    job = await store.claim(["k"], "w", 10)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # the claimers' is years ahead
    assert await store.claim(["k"], "heir", 10) is None
    assert await store.heartbeat(job, 10) is not None
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert await store.claim(["k"], "heir", 10) is None
    clock.now = 10
    assert (await store.claim(["k"], "heir", 10)).attempts == 2


async def test_released_jobs_go_back_with_their_progress(store):
    await store.enqueue(A, "k", "{}", id="j")
    job = await store.claim(["k"], "w", 10)
    await store.heartbeat(job, 10, '"half"')
    assert await store.release(job)
    assert not await store.release(job)
    assert await store.heartbeat(job, 10) is None
    again = await store.claim(["k"], "v", 10)
    assert (again.attempts, again.progress, again.started_at) == (2, '"half"', job.started_at)


async def test_cancelling(store):
    for name in ("running", "queued", "done"):
        await store.enqueue(A, "k", "{}", id=name)
    job = await store.claim(["k"], "w", 10)
    assert (await store.cancel(A, "queued")).status == "cancelled"
    asked = await store.cancel(A, "running")
    assert (asked.status, asked.cancel_requested, asked.owner) == ("running", True, "w")
    assert (await store.heartbeat(job, 10)).cancel_requested
    assert await store.finish(job, "cancelled")
    done = await store.claim(["k"], "w", 10)
    assert done.id == "done"
    await store.finish(done, "succeeded")
    before = await store.get(A, "done")
    assert await store.cancel(A, "done") == before
    assert await store.claim(["k"], "w", 10) is None


async def test_an_heir_learns_that_its_job_was_cancelled(store, clock):
    await store.enqueue(A, "k", "{}", id="j")
    await store.claim(["k"], "dead", 10)
    await store.cancel(A, "j")
    await store.claim(["k"], "heir", 10)
    clock.now = 10
    assert (await store.claim(["k"], "heir", 10)).cancel_requested


async def test_tenants_do_not_see_each_others_jobs(store):
    await store.enqueue(A, "k", "{}", id="j")
    for ask in (store.get(B, "j"), store.cancel(B, "j"), store.get(A, "'; --")):
        with pytest.raises(NotFound):
            await ask
    assert (await store.list(B, "k")).data == []
    with pytest.raises(InvalidRequest, match="after"):
        await store.list(B, "k", after="j")
    assert (await store.get(A, "j")).status == "queued"


async def test_lists_are_pages_of_one_kind_the_newest_first(store):
    for number in range(5):
        await store.enqueue(A, "k", "{}", id=str(number))
    await store.enqueue(A, "other", "{}", id="x")
    page = await store.list(A, "k", limit=2)
    assert [job.id for job in page.data] == ["4", "3"] and page.has_more
    page = await store.list(A, "k", after="3", limit=3)
    assert [job.id for job in page.data] == ["2", "1", "0"] and not page.has_more
    assert [job.id for job in (await store.list(A, "k", order="asc")).data] == list("01234")


async def test_a_list_of_all_kinds_leaves_some_out_and_may_be_of_one_status(store):
    made = [await store.enqueue(A, kind, "{}") for kind in ("x", "y", "secret", "x")]
    await store.enqueue(B, "x", "{}")
    await store.cancel(A, made[0].id)
    page = await store.list(A, besides=["secret"], limit=2)
    assert ([one.id for one in page.data], page.has_more) == ([made[3].id, made[1].id], True)
    rest = await store.list(A, besides=["secret"], after=page.data[-1].id)
    assert [one.id for one in rest.data] == [made[0].id]
    assert [one.id for one in (await store.list(A, status="cancelled")).data] == [made[0].id]
    assert [one.id for one in (await store.list(A, "x", status="queued", order="asc")).data] == [made[3].id]


async def test_work_that_has_not_ended_is_queued_once(store):
    first = await store.enqueue_once(A, "pull", "m")
    assert await store.enqueue_once(A, "pull", "m") == first
    others = [
        await store.enqueue_once(*one) for one in ((B, "pull", "m"), (A, "pull", "n"), (A, "push", "m"))
    ]
    assert len({first.id, *(one.id for one in others)}) == 4
    job = await store.claim(["pull"], "w", 60)
    assert (await store.enqueue_once(A, "pull", "m")).id == first.id == job.id
    await store.cancel(A, first.id)
    again = await store.enqueue_once(A, "pull", "m")
    assert again.id != first.id, "one that is being cancelled is not joined"


async def test_a_runner_stops_although_it_is_woken_at_the_same_moment():
    class Empty:
        """A queue in which there is never a job: the runner waits at once."""

        async def claim(self, *_, **__):
            return None

    async def work(_run):
        return JobOutcome("succeeded")

    runner = JobRunner(Empty(), ["x"], "w", work, lease_s=60)
    runner.start()
    for _ in range(10):
        await asyncio.sleep(0)
    runner.wake()
    async with asyncio.timeout(30):
        await runner.stop()


async def test_tenants_take_turns(store):
    for tenant, count in ((A, 3), (B, 2), (C, 1)):
        for _ in range(count):
            await store.enqueue(tenant, "k", "{}")
    order, last = [], asyncio.Event()

    async def work(run):
        order.append(run.job.tenant)
        if len(order) == 6:
            last.set()
        return JobOutcome("succeeded")

    runner = JobRunner(store, ["k"], "w", work, lease_s=60, most=1)
    runner.start()
    async with asyncio.timeout(60):
        await last.wait()
        await runner.stop()
    assert order == [A, B, C, A, B, A]


async def test_a_claim_that_is_cancelled_while_it_commits_leaves_the_job_in_the_queue(store, database):
    job = await store.enqueue(A, "k", "{}")
    queued, claimed, cancelled = (threading.Event() for _ in range(3))

    def after_the_claim(_connection):
        claimed.set()
        assert cancelled.wait(30)

    # All three are one transaction, because the first lasts until the others are in the queue
    writes = [asyncio.create_task(database.write(lambda _connection: queued.wait(30)))]
    claim = asyncio.create_task(store.claim(["k"], "w", 600))
    for _ in range(5):
        await asyncio.sleep(0)
    writes.append(asyncio.create_task(database.write(after_the_claim)))
    await asyncio.sleep(0)
    queued.set()
    assert await asyncio.to_thread(claimed.wait, 30)
    claim.cancel()
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await claim
    await asyncio.gather(*writes)
    assert (await store.get(A, job.id)).status == "queued"


async def test_many_workers_share_the_queue_without_doubling(store):
    for number in range(60):
        await store.enqueue(A, "k", "{}", id=str(number))
    done = []

    async def worker(name):
        while (job := await store.claim(["k"], name, 60)) is not None:
            assert await store.heartbeat(job, 60) is not None
            assert await store.finish(job, "succeeded")
            done.append(job.id)

    await asyncio.gather(*(worker(f"w{number}") for number in range(8)))
    assert sorted(done, key=int) == [str(number) for number in range(60)]


class Workers(RuleBasedStateMachine):
    """Workers that claim, beat, finish, give back and die, against a model of what each may believe."""

    database: Database
    numbers = 0

    def __init__(self) -> None:
        super().__init__()
        Workers.numbers += 1
        self.kind = f"k{Workers.numbers}"
        self.clock = Clock()
        self.store = JobStore(self.database, clock=self.clock)
        self.held = {}  # worker: the job that it believes in
        self.owner = {}  # id: the worker that has it
        self.beats = {}  # id: when its worker was heard of
        self.seen = {}  # id: when a claim first saw that beat
        self.ended = set()
        self.ids = set()

    def run(self, awaitable):
        return asyncio.run(awaitable)

    @rule(priority=st.integers(-1, 1))
    def enqueue(self, priority):
        job = self.run(self.store.enqueue(A, self.kind, "{}", priority=priority))
        self.ids.add(job.id)

    @rule(worker=st.sampled_from("uvw"))
    def claim(self, worker):
        job = self.run(self.store.claim([self.kind], worker, 10))
        silent = {id for id, since in self.seen.items() if self.clock.now - since >= 10}
        free = self.ids - self.ended - set(self.owner)
        for id in self.owner:
            self.seen.setdefault(id, self.clock.now)
        if job is None:
            assert not free and not silent
            return
        assert job.id in free | silent
        self.held[worker], self.owner[job.id] = job, worker
        self.seen.pop(job.id, None)

    @rule(worker=st.sampled_from("uvw"))
    def beat(self, worker):
        if (job := self.held.get(worker)) is not None:
            kept = self.run(self.store.heartbeat(job, 10))
            assert (kept is not None) == self._has(worker, job)
            if kept is not None:
                self.seen.pop(job.id, None)

    @rule(worker=st.sampled_from("uvw"), how=st.sampled_from(["finish", "release", "die"]))
    def end(self, worker, how):
        if (job := self.held.pop(worker, None)) is None or how == "die":
            return
        has = self._has(worker, job, popped=True)
        ask = self.store.release(job) if how == "release" else self.store.finish(job, "succeeded")
        assert self.run(ask) == has
        if has:
            del self.owner[job.id]
            self.seen.pop(job.id, None)
            if how == "finish":
                self.ended.add(job.id)

    @rule(seconds=st.sampled_from([1, 5, 10, 3600]))
    def wait(self, seconds):
        self.clock.now += seconds

    @precondition(lambda self: self.ids)
    @invariant()
    def rows_say_the_same(self):
        page = self.run(self.store.list(A, self.kind, limit=100))
        status = {job.id: job.status for job in page.data}
        assert {id for id, one in status.items() if one == "succeeded"} == self.ended
        assert {id for id, one in status.items() if one == "running"} == set(self.owner)

    def _has(self, worker, job, popped=False):
        row = self.run(self.store.get(A, job.id))
        return row.status == "running" and row.owner == worker and row.attempts == job.attempts


def test_whatever_workers_do_no_job_is_lost_or_doubled(database):
    machine = type("On", (Workers,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
