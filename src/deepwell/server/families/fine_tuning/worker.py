"""`TuningWorker`: the trainings and other runs of one server, and the models that they have made."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.models import TunedModels, runs_folder
from deepwell.server.families.fine_tuning.sessions.worker import SessionWorker
from deepwell.server.families.fine_tuning.training import Training
from deepwell.server.families.fine_tuning.works.compressing import CompressionRun, drop_partial
from deepwell.server.families.fine_tuning.works.following import WorkRun, work_folders
from deepwell.server.families.fine_tuning.works.optimising import OptimisationRun
from deepwell.server.observe.jobs import traced
from deepwell.storage.jobs.runner import JobOutcome, JobRun, JobRunner
from deepwell.storage.tuning.fine_tuning import TUNE_JOB
from deepwell.storage.tuning.works import COMPRESS_JOB, OPTIMISE_JOB, WORKS

__all__ = ["TuningWorker"]

_log = logging.getLogger("deepwell.server")
_SWEEP_S = 10.0
_RUNS: Final[Mapping[str, type[WorkRun]]] = {COMPRESS_JOB: CompressionRun, OPTIMISE_JOB: OptimisationRun}


class TuningWorker:
    """Trains in the first process of a server. Every process of it knows the models, because they share the engines."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._models = TunedModels(context)
        context.tuned = self._models
        self._sessions = SessionWorker(context, self._models)
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: JobRunner | None = None

    def start(self) -> None:
        """Starts to claim jobs, in the first process of a server."""
        if self._context.options.worker == 0:
            self._tasks = [asyncio.create_task(self._begin())]

    async def stop(self) -> None:
        """Returns a job under way to the queue, where the next server goes on from its last checkpoint."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._sessions.stop()
        if self._runner is not None:
            await self._runner.stop()

    async def _begin(self) -> None:
        context = self._context
        await context.kept.wait()
        state, options = context.state, context.options
        await _survived("fine-tuned models cannot be loaded", self._models.load_all())
        if options.tuning.jobs:
            self._runner = JobRunner(
                state.jobs,
                [TUNE_JOB, *WORKS],
                state.owner,
                traced(context.observer, self._work),
                lease_s=options.files.job_lease_s,
                most=options.tuning.jobs,
            )
            self._runner.start()
            state.tuning_wake = self._runner.wake
        self._tasks.append(asyncio.create_task(self._sessions.run()))
        while True:
            await _survived("old fine-tuning cannot be swept", self._sweep())
            await asyncio.sleep(_SWEEP_S)

    async def _work(self, run: JobRun) -> JobOutcome:
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

    async def _sweep(self) -> None:
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


async def _survived(what: str, work: Awaitable[None]) -> None:
    """Waits for work whose failure goes to the log, with its traceback if it was not foreseen."""
    try:
        await work
    except Exception as error:
        foreseen = isinstance(error, DeepwellError)
        _log.warning("%s: %s", what, error, exc_info=None if foreseen else error)
