"""The trainings and other runs of one server, and the models that they have made."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.models import TunedModels, runs_folder
from deepwell.server.families.fine_tuning.sessions.adapters import SessionAdapters
from deepwell.server.families.fine_tuning.sessions.training import SessionTraining
from deepwell.server.families.fine_tuning.training import Training
from deepwell.server.families.fine_tuning.works.compressing import CompressionRun, drop_partial
from deepwell.server.families.fine_tuning.works.following import WorkRun, work_folders
from deepwell.server.families.fine_tuning.works.optimising import OptimisationRun
from deepwell.server.families.job_worker import Chore, JobWorker, Work
from deepwell.storage.clock import shared_time
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.tuning.fine_tuning import TUNE_JOB
from deepwell.storage.tuning.sessions import SESSION_JOB
from deepwell.storage.tuning.works import COMPRESS_JOB, OPTIMISE_JOB, WORKS

__all__ = ["tuning_worker"]

_SWEEP_S = 10.0
_RUNS: Final[Mapping[str, type[WorkRun]]] = {COMPRESS_JOB: CompressionRun, OPTIMISE_JOB: OptimisationRun}


def tuning_worker(context: ServerContext, _app: object = None) -> JobWorker:
    """Returns what trains in the first process of a server.

    A job under way at its stop goes on from its last checkpoint. Every process of the server knows the models, because they
    share the engines.
    """
    most, idle_s = context.options.tuning.jobs, context.options.tuning.session_idle_s
    context.tuned = models = TunedModels(context)
    context.sessions = adapters = SessionAdapters(context)
    runs = _Runs(context, models, adapters)

    async def sweep_sessions() -> None:
        await adapters.sweep(idle_s, shared_time())

    sessions = Chore("session adapters cannot be swept", sweep_sessions, _SWEEP_S)

    async def forget_sessions() -> None:
        if context.options.worker == 0 and context.kept.is_set():
            await sessions.attempt()

    context.on_erasure(forget_sessions)
    return JobWorker(
        context,
        [Work([TUNE_JOB, *WORKS], runs.run, most), Work([SESSION_JOB], runs.train_session, min(most, 1))],
        [
            Chore("fine-tuned models cannot be loaded", models.load_all),
            Chore("old fine-tuning cannot be swept", runs.sweep, _SWEEP_S),
            sessions,
        ],
        first_process_only=True,
    )


class _Runs:
    """Trainings and other runs, and what they leave."""

    def __init__(self, context: ServerContext, models: TunedModels, adapters: SessionAdapters) -> None:
        self._context = context
        self._models = models
        self._adapters = adapters

    async def run(self, run: JobRun) -> JobOutcome:
        if run.job.kind == TUNE_JOB:
            return await self._train(run)
        kind, command = run.job.kind, self._context.options.tuning.command
        metrics = self._context.metrics.tuning
        metrics.works_running.labels(kind).inc()
        work = _RUNS[kind](self._context, run, command)
        try:
            outcome = await work.go()
        except asyncio.CancelledError:  # the server stops, or the lease is lost
            await work.leave()
            raise
        finally:
            metrics.works_running.labels(kind).dec()
        if not work.lost:
            metrics.works.labels(kind, outcome.status).inc()
        return outcome

    async def _train(self, run: JobRun) -> JobOutcome:
        metrics = self._context.metrics.tuning
        command = self._context.options.tuning.command
        metrics.running.inc()
        try:
            outcome = await Training(self._context, self._models, run, command).go()
        finally:
            metrics.running.dec()
        if (await self._context.state.tunings.get(run.job.tenant, run.job.id)).ended:
            metrics.jobs.labels(outcome.status).inc()
        return outcome

    async def train_session(self, run: JobRun) -> JobOutcome:
        command = self._context.options.tuning.command
        return await SessionTraining(self._context, self._models, self._adapters, run, command).go()

    async def sweep(self) -> None:
        state = self._context.state
        for tenant, job in await state.training.lost():
            await state.tunings.requeue(tenant, job.id)
        await self._models.sweep()
        folders = await asyncio.to_thread(work_folders, runs_folder(self._context))
        open_ones = await state.works.unfinished()  # read last: a job that is made now has no folder yet
        await asyncio.to_thread(_drop, [one for one in folders if one.name not in open_ones])


def _drop(folders: Sequence[Path]) -> None:
    """Deletes the folders of runs that no job needs, and what they were about to bring into the store. Blocks."""
    for folder in folders:
        drop_partial(folder)
        shutil.rmtree(folder, ignore_errors=True)
