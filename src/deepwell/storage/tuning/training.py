"""`TrainingStore`: what the worker of a fine-tuning job writes while it trains, and the models that jobs have made."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound
from deepwell.storage.blobs import Draft
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import Job
from deepwell.storage.tables import (
    fine_tuned_models,
    fine_tuning_checkpoints,
    fine_tuning_jobs,
    jobs,
)
from deepwell.storage.tuning.fine_tuning import PARKED_JOB, TUNE_JOB, add_event, change, find_job
from deepwell.storage.tuning.records import (
    CHECKPOINT_COLUMNS,
    JOB_COLUMNS,
    MODEL_COLUMNS,
    StoredFineTuning,
    TunedModel,
)

__all__ = ["NewModel", "Told", "TrainingStore"]


@dataclass(frozen=True, slots=True)
class Told:
    """An event that a worker adds. `step`: its place among those of the steps; one that is not behind the last is left out."""

    message: str
    data: Mapping[str, Any] | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model that a job has made. `step`: of the checkpoint that it is; None: the end of the training."""

    name: str
    folder: str
    step: int | None = None


class TrainingStore:
    """Writes of workers. A job that has been cancelled, or that is another worker's, stays as it is."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database = database
        self._files = files

    async def begin(self, job: Job) -> StoredFineTuning | None:
        """Counts one more start of the training process, and marks a queued job as running. None: it is another worker's."""

        def work(connection: Connection) -> StoredFineTuning | None:
            found = find_job(connection, job.tenant, job.id, lock=True)
            if not _owned(connection, job):
                return None
            if found.status not in ("queued", "running"):
                return found
            if found.status == "queued":
                add_event(connection, job.tenant, job.id, "The training has started")
            values = {"status": "running", "starts": found.starts + 1}
            return change(connection, job.tenant, job.id, values)

        return await self._database.write(work)

    async def tell(self, job: Job, told: Sequence[Told], *, finish_at: int | None = None) -> StoredFineTuning:
        """Adds events, and the time at which the training is expected to end."""

        def work(connection: Connection) -> StoredFineTuning:
            found = find_job(connection, job.tenant, job.id, lock=True)
            if found.status != "running" or not _owned(connection, job):
                return found
            last = found.step
            for one in told:
                if one.step is not None and one.step <= found.step:
                    continue  # computed again after a crash
                last = max(last, one.step or 0)
                add_event(connection, job.tenant, job.id, one.message, data=one.data)
            return change(connection, job.tenant, job.id, {"step": last, "estimated_finish": finish_at})

        return await self._database.write(work)

    async def checkpoint(
        self, job: Job, step: int, folder: str, metrics: Mapping[str, Any]
    ) -> StoredFineTuning:
        """Adds a checkpoint, if there is none of this step. The training may then fail as often again as before."""
        mine = (fine_tuning_checkpoints.c.tenant == job.tenant) & (fine_tuning_checkpoints.c.job_id == job.id)

        def work(connection: Connection) -> StoredFineTuning:
            found = find_job(connection, job.tenant, job.id, lock=True)
            if found.ended or not _owned(connection, job):
                return found
            known = sa.select(fine_tuning_checkpoints.c.seq).where(
                mine, fine_tuning_checkpoints.c.step == step
            )
            if connection.execute(known).first() is None:
                connection.execute(
                    sa.insert(fine_tuning_checkpoints).values(
                        tenant=job.tenant,
                        job_id=job.id,
                        id=f"ftckpt_{uuid.uuid4().hex[:24]}",
                        step=step,
                        folder=folder,
                        metrics=json.dumps(dict(metrics)),
                        created_at=int(shared_time()),
                    )
                )
                add_event(connection, job.tenant, job.id, f"Checkpoint created at step {step}")
                return change(connection, job.tenant, job.id, {"starts": 1})
            return found

        return await self._database.write(work)

    async def park(self, job: Job) -> bool:
        """Puts the durable job of a paused job aside. False: it was resumed in the meantime, or is another worker's."""

        def work(connection: Connection) -> bool:
            found = find_job(connection, job.tenant, job.id, lock=True)
            if found.status != "paused" or not _owned(connection, job):
                return False
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.tenant == job.tenant, jobs.c.id == job.id)
                .values(status="queued", kind=PARKED_JOB, owner=None, lease_s=None, lease_until=None)
            )
            return True

        return await self._database.write(work)

    async def succeed(
        self, job: Job, models: Sequence[NewModel], *, trained_tokens: int, results: Draft
    ) -> StoredFineTuning:
        """Ends a job with its models; the first is the one that the job names. `results` is a draft."""
        now = int(shared_time())

        def work(connection: Connection) -> StoredFineTuning:
            found = find_job(connection, job.tenant, job.id, lock=True)
            if found.ended or not _owned(connection, job):
                return found
            stored = self._files.insert(
                connection,
                job.tenant,
                results,
                filename="step_metrics.csv",
                purpose="fine-tune-results",
            )
            for one in models:
                connection.execute(
                    sa.insert(fine_tuned_models).values(
                        tenant=job.tenant,
                        name=one.name,
                        base=found.model,
                        job_id=job.id,
                        step=one.step,
                        folder=one.folder,
                        created_at=now,
                    )
                )
            values = {
                "status": "succeeded",
                "finished_at": now,
                "estimated_finish": None,
                "fine_tuned_model": models[0].name,
                "result_file": stored.id,
                "trained_tokens": trained_tokens,
            }
            add_event(connection, job.tenant, job.id, f"New fine-tuned model created: {models[0].name}")
            add_event(connection, job.tenant, job.id, "The job has succeeded")
            return change(connection, job.tenant, job.id, values)

        async with self._files.placing(results):
            return await self._database.write(work)

    async def fail(self, job: Job, code: str, message: str, param: str | None = None) -> StoredFineTuning:
        """Ends a job with an error."""
        error = json.dumps({"code": code, "message": message, "param": param})
        now = int(shared_time())

        def work(connection: Connection) -> StoredFineTuning:
            found = find_job(connection, job.tenant, job.id, lock=True)
            if found.ended or not _owned(connection, job):
                return found
            add_event(connection, job.tenant, job.id, message, level="error")
            values = {"status": "failed", "finished_at": now, "estimated_finish": None, "error": error}
            return change(connection, job.tenant, job.id, values)

        return await self._database.write(work)

    async def checkpoints(self, tenant: Tenant, id: str) -> Sequence[tuple[int, str]]:
        """Returns step and folder of every checkpoint of a job, in order."""
        columns = fine_tuning_checkpoints.c
        query = sa.select(*CHECKPOINT_COLUMNS).where(columns.tenant == tenant, columns.job_id == id)

        def work(connection: Connection) -> Sequence[tuple[int, str]]:
            return [(row.step, row.folder) for row in connection.execute(query.order_by(columns.step))]

        return await self._database.read(work)

    async def models(self) -> Sequence[TunedModel]:
        """Returns the models of all tenants, in the order in which they were made."""
        query = sa.select(*MODEL_COLUMNS).order_by(fine_tuned_models.c.seq)
        return await self._database.read(
            lambda connection: [TunedModel(**row._mapping) for row in connection.execute(query)]
        )

    async def model(self, tenant: Tenant, name: str) -> TunedModel | None:
        """Returns the tenant's model of a name."""
        columns = fine_tuned_models.c
        query = sa.select(*MODEL_COLUMNS).where(columns.tenant == tenant, columns.name == name)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else TunedModel(**row._mapping)

    async def delete_model(self, tenant: Tenant, name: str) -> Sequence[TunedModel]:
        """Deletes a model, and with the one of a training's end those of its checkpoints. Returns what was deleted.

        Raises:
            NotFound: the tenant has none of this name.
        """
        columns = fine_tuned_models.c

        def work(connection: Connection) -> Sequence[TunedModel]:
            mine = columns.tenant == tenant
            row = connection.execute(
                sa.select(*MODEL_COLUMNS).where(mine, columns.name == name)
            ).one_or_none()
            if row is None:
                raise NotFound(
                    f"there is no fine-tuned model {name!r}", fix="list the models: GET /v1/models"
                )
            chosen = mine & (columns.job_id == row.job_id if row.step is None else columns.name == name)
            gone = [
                TunedModel(**one._mapping)
                for one in connection.execute(sa.select(*MODEL_COLUMNS).where(chosen))
            ]
            connection.execute(sa.delete(fine_tuned_models).where(chosen))
            inside, steps = fine_tuning_checkpoints.c, [one.step for one in gone if one.step is not None]
            connection.execute(
                sa.delete(fine_tuning_checkpoints).where(
                    inside.tenant == tenant, inside.job_id == row.job_id, inside.step.in_(steps)
                )
            )
            return gone

        return await self._database.free(work)

    async def lost(self) -> Sequence[tuple[Tenant, StoredFineTuning]]:
        """Returns open jobs without a durable job that works on them, because a server was killed between two steps."""
        columns = fine_tuning_jobs.c
        names = list(StoredFineTuning.__dataclass_fields__)
        query = (
            sa.select(columns.tenant, *JOB_COLUMNS)
            .outerjoin(jobs, (jobs.c.tenant == columns.tenant) & (jobs.c.id == columns.id))
            .where(
                columns.status.in_(["queued", "running"]),
                sa.or_(jobs.c.id.is_(None), jobs.c.status.in_(["succeeded", "failed", "cancelled"])),
            )
        )

        def work(connection: Connection) -> Sequence[tuple[Tenant, StoredFineTuning]]:
            found: list[tuple[Tenant, StoredFineTuning]] = []
            for row in connection.execute(query):
                values = {name: row._mapping[name] for name in names}
                found.append((Tenant(row.tenant), StoredFineTuning(**values)))
            return found

        return await self._database.read(work)

    async def known_runs(self) -> set[str]:
        """Returns the ids of the jobs whose folders are needed: those under way, and those that made a model."""
        open_ones = sa.select(fine_tuning_jobs.c.id).where(
            fine_tuning_jobs.c.status.in_(["queued", "running", "paused"])
        )
        made = sa.select(fine_tuned_models.c.job_id)
        return await self._database.read(
            lambda connection: {*connection.scalars(open_ones), *connection.scalars(made)}
        )


def _owned(connection: Connection, job: Job) -> bool:
    """Returns whether the worker that claimed a durable job still has it."""
    mine = sa.select(jobs.c.seq).where(
        jobs.c.tenant == job.tenant,
        jobs.c.id == job.id,
        jobs.c.kind == TUNE_JOB,
        jobs.c.status == "running",
        jobs.c.owner == job.owner,
        jobs.c.attempts == job.attempts,
    )
    return connection.execute(mine.with_for_update()).first() is not None
