"""Fine-tuning jobs and the models that they make, on SQLite and PostgreSQL."""

import json

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.tuning.fine_tuning import (
    MOST_OPEN,
    PARKED_JOB,
    TUNE_JOB,
    FineTuningStore,
    TooManyFineTunings,
)
from deepwell.storage.tuning.training import NewModel, Told, TrainingStore

A, B = Tenant("a"), Tenant("b")


class Stores:
    def __init__(self, database, folder):
        self.files = FileStore(database, folder)
        self.jobs = JobStore(database)
        self.tunings = FineTuningStore(database, self.files)
        self.training = TrainingStore(database, self.files)

    async def upload(self, tenant=A, purpose="fine-tune", data=b'{"messages": []}\n'):
        draft = self.draft(data)
        try:
            return await self.files.create(tenant, content=draft, filename="a.jsonl", purpose=purpose)
        finally:
            draft.discard()

    def draft(self, data):
        draft = self.files.draft()
        draft.write(data)
        draft.close()
        return draft

    async def create(self, tenant=A, file=None, **values):
        file = file or await self.upload(tenant)
        given = {
            "model": "toy",
            "training_file": file.id,
            "validation_file": None,
            "suffix": "s",
            "seed": 1,
            "hyperparameters": {"n_epochs": 3},
            "options": {},
            "metadata": None,
        }
        return await self.tunings.create(tenant, **given | values)

    async def claim(self, owner="w"):
        return await self.jobs.claim([TUNE_JOB], owner, 60.0)


@pytest.fixture
def stores(database, tmp_path):
    return Stores(database, tmp_path / "files")


async def test_jobs_are_of_one_tenant_and_listed_by_metadata(stores):
    made = [await stores.create(metadata=one) for one in (None, {"run": "1"}, {"run": "2", "x": ""})]
    await stores.create(B)
    page = await stores.tunings.list(A, limit=2)
    assert [one.id for one in page.data] == [made[2].id, made[1].id] and page.has_more
    page = await stores.tunings.list(A, after=made[1].id)
    assert [one.id for one in page.data] == [made[0].id]
    for wanted, expected in (({"run": "1"}, [made[1].id]), ({"x": ""}, [made[2].id]), ({"y": "1"}, [])):
        assert [one.id for one in (await stores.tunings.list(A, metadata=wanted)).data] == expected
    page = await stores.tunings.list(A, without_metadata=True)
    assert [one.id for one in page.data] == [made[0].id]
    for call in (stores.tunings.get, stores.tunings.cancel, stores.tunings.pause, stores.tunings.events):
        with pytest.raises(NotFound):
            await call(B, made[0].id)


async def test_files_are_the_tenants_own_and_uploaded_for_tuning(stores):
    other, wrong = await stores.upload(B), await stores.upload(A, "batch")
    with pytest.raises(NotFound):
        await stores.create(A, other)
    with pytest.raises(InvalidRequest, match="uploaded for 'batch'"):
        await stores.create(A, wrong)


async def test_a_tenant_has_a_limited_number_of_open_jobs(stores):
    file = await stores.upload()
    made = [await stores.create(A, file) for _ in range(MOST_OPEN)]
    with pytest.raises(TooManyFineTunings) as refused:
        await stores.create(A, file)
    assert refused.value.retry_after
    await stores.create(B)
    await stores.tunings.cancel(A, made[0].id)
    await stores.create(A, file)


async def test_the_bytes_stay_while_a_job_needs_them(stores):
    file = await stores.upload()
    job = await stores.create(A, file)
    await stores.files.delete(A, file.id)
    assert stores.files.blobs.path(file.sha256).exists()
    await stores.tunings.cancel(A, job.id)
    assert not stores.files.blobs.path(file.sha256).exists()


async def test_a_paused_job_is_claimed_by_nobody_until_it_is_resumed(stores):
    job = await stores.create()
    await stores.tunings.pause(A, job.id)
    assert await stores.claim() is None
    assert (await stores.jobs.get(A, job.id)).kind == PARKED_JOB
    await stores.tunings.resume(A, job.id)
    claimed = await stores.claim()
    assert claimed.id == job.id
    running = await stores.training.begin(claimed)
    assert (running.status, running.starts) == ("running", 1)
    await stores.tunings.pause(A, job.id)
    assert await stores.training.park(claimed)
    assert not await stores.jobs.finish(claimed, "succeeded") and await stores.claim() is None
    await stores.tunings.resume(A, job.id)
    again = await stores.claim()
    assert again.id == job.id and again.attempts == 2
    with pytest.raises(InvalidRequest, match="is queued and cannot be resumed"):
        await stores.tunings.resume(A, job.id)


async def test_a_job_resumed_before_its_worker_stopped_is_not_put_aside(stores):
    job = await stores.create()
    claimed = await stores.claim()
    await stores.training.begin(claimed)
    await stores.tunings.pause(A, job.id)
    await stores.tunings.resume(A, job.id)
    assert not await stores.training.park(claimed)
    await stores.jobs.release(claimed)
    assert (await stores.claim("other")).id == job.id


async def test_a_step_is_told_once_and_a_checkpoint_too(stores):
    job = await stores.create()
    claimed = await stores.claim()
    await stores.training.begin(claimed)
    for steps in ((1, 2), (2, 3)):
        await stores.training.tell(claimed, [Told(f"step {n}", {"step": n}, n) for n in steps], finish_at=9)
        await stores.training.checkpoint(claimed, 2, "checkpoints/step-2/adapter", {"train_loss": 1.5})
    page = await stores.tunings.events(A, job.id, limit=50)
    assert [one.message for one in page.data if one.type == "metrics"] == ["step 3", "step 2", "step 1"]
    (checkpoint,) = (await stores.tunings.checkpoints(A, job.id)).data
    assert checkpoint.step == 2 and json.loads(checkpoint.metrics) == {"train_loss": 1.5}
    found = await stores.tunings.get(A, job.id)
    assert (found.estimated_finish, found.starts) == (9, 1)
    await stores.training.begin(claimed)
    assert (await stores.training.checkpoint(claimed, 2, "again", {})).starts == 2


async def test_another_workers_job_is_left_alone(stores):
    job = await stores.create()
    claimed = await stores.claim()
    await stores.training.begin(claimed)
    await stores.jobs.release(claimed)
    await stores.claim("other")
    assert (await stores.training.fail(claimed, "x", "y")).status == "running"
    await stores.training.tell(claimed, [Told("late", {}, 1)])
    assert "late" not in [one.message for one in (await stores.tunings.events(A, job.id)).data]


async def test_success_makes_models_and_a_file_and_deletion_takes_them(stores):
    job = await stores.create()
    claimed = await stores.claim()
    await stores.training.begin(claimed)
    await stores.training.checkpoint(claimed, 2, "checkpoints/step-2/adapter", {})
    models = [NewModel("ft:toy:s:1", "adapter"), NewModel("ft:toy:s:1:ckpt-step-2", "c/2", 2)]
    draft = stores.draft(b"step\n")
    done = await stores.training.succeed(claimed, models, trained_tokens=7, results=draft)
    draft.discard()
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", "ft:toy:s:1", 7)
    assert (await stores.files.get(A, done.result_file)).purpose == "fine-tune-results"
    assert [one.name for one in await stores.training.models()] == [one.name for one in models]
    assert await stores.training.model(B, "ft:toy:s:1") is None
    assert await stores.training.known_runs() == {job.id}
    with pytest.raises(NotFound):
        await stores.training.delete_model(B, "ft:toy:s:1")
    assert len(await stores.training.delete_model(A, "ft:toy:s:1")) == 2
    assert await stores.training.known_runs() == set()
    assert (await stores.tunings.checkpoints(A, job.id)).data == []


async def test_a_cancelled_job_stays_cancelled(stores):
    job = await stores.create()
    claimed = await stores.claim()
    await stores.training.begin(claimed)
    await stores.tunings.cancel(A, job.id)
    assert (await stores.jobs.heartbeat(claimed, 60.0)).cancel_requested
    assert (await stores.training.fail(claimed, "x", "y")).status == "cancelled"
    assert (await stores.tunings.cancel(A, job.id)).status == "cancelled"
    with pytest.raises(InvalidRequest, match="is cancelled and cannot be paused"):
        await stores.tunings.pause(A, job.id)


async def test_a_job_whose_durable_job_is_gone_is_found(stores):
    job = await stores.create()
    claimed = await stores.claim()
    await stores.training.begin(claimed)
    assert await stores.training.lost() == []
    await stores.jobs.finish(claimed, "failed")
    ((tenant, found),) = await stores.training.lost()
    assert (tenant, found.id) == (A, job.id)
