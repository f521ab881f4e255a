"""`SessionWorker`: trains and sweeps the session adapters of a server, in its first process."""

from __future__ import annotations

import asyncio
import logging

from deepwell.errors import DeepwellError
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.models import TunedModels
from deepwell.server.families.fine_tuning.sessions.adapters import SessionAdapters
from deepwell.server.families.fine_tuning.sessions.training import SessionTraining
from deepwell.server.observe.jobs import traced
from deepwell.storage.clock import shared_time
from deepwell.storage.jobs.runner import JobOutcome, JobRun, JobRunner
from deepwell.storage.tuning.sessions import SESSION_JOB

__all__ = ["SessionWorker"]

_log = logging.getLogger("deepwell.server")
_SWEEP_S = 10.0


class SessionWorker:
    """Runs one training at a time, beside those of fine-tuning jobs."""

    def __init__(self, context: ServerContext, models: TunedModels) -> None:
        self._context = context
        self._models = models
        self._adapters = SessionAdapters(context)
        context.sessions = self._adapters
        context.on_erasure(self._sweep)
        self._runner: JobRunner | None = None

    async def run(self) -> None:
        """Claims jobs until it is cancelled."""
        context = self._context
        state, options = context.state, context.options
        if options.tuning.jobs:
            self._runner = JobRunner(
                state.jobs,
                [SESSION_JOB],
                state.owner,
                traced(context.observer, self._train),
                lease_s=options.files.job_lease_s,
                most=1,
            )
            self._runner.start()
            state.sessions_wake = self._runner.wake
        while True:
            await self._sweep()
            await asyncio.sleep(_SWEEP_S)

    async def stop(self) -> None:
        """Returns a job under way to the queue."""
        if self._runner is not None:
            await self._runner.stop()

    async def _train(self, run: JobRun) -> JobOutcome:
        command = self._context.options.tuning.command
        return await SessionTraining(self._context, self._models, self._adapters, run, command).go()

    async def _sweep(self) -> None:
        if self._context.options.worker or not self._context.kept.is_set():
            return
        try:
            await self._adapters.sweep(self._context.options.tuning.session_idle_s, shared_time())
        except Exception as error:
            foreseen = isinstance(error, DeepwellError)
            _log.warning("session adapters cannot be swept: %s", error, exc_info=None if foreseen else error)
