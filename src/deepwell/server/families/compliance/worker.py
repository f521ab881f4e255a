"""`ComplianceWorker`: runs queued compliance checks beside requests, in a thread, in the first process of a server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deepwell.errors import InvalidRequest
from deepwell.safety.guard import Guard
from deepwell.safety.policy import Policy
from deepwell.safety.terms.pull import lists_folder
from deepwell.server.context import ServerContext
from deepwell.server.observe.jobs import traced
from deepwell.settings import Settings
from deepwell.storage.jobs.runner import JobOutcome, JobRun, JobRunner

if TYPE_CHECKING:
    from deepwell.safety.compliance.context import Context

__all__ = ["COMPLIANCE_JOB", "ComplianceWorker"]

COMPLIANCE_JOB = "compliance.check"
"""Kind of the jobs."""


class _Stopped(BaseException):
    """Raised when the job is cancelled or the server stops. A check takes no notice of it: it is no failure of its own."""


class ComplianceWorker:
    """The compliance checks of one server. They look at the configuration that it was started with."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._starting: asyncio.Task[None] | None = None
        self._runner: JobRunner | None = None

    def start(self) -> None:
        """Starts to claim jobs, in the first process of a server."""
        if self._context.options.worker == 0:
            self._starting = asyncio.create_task(self._begin())

    async def stop(self) -> None:
        """Returns a job under way to the queue. Its thread ends with the step that it is at."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,))
        if self._runner is not None:
            await self._runner.stop()

    async def _begin(self) -> None:
        await self._context.kept.wait()
        state, lease_s = self._context.state, self._context.options.files.job_lease_s
        self._runner = JobRunner(
            state.jobs,
            [COMPLIANCE_JOB],
            state.owner,
            traced(self._context.observer, self._run),
            lease_s=lease_s,
            most=1,
        )
        self._runner.start()

    async def _run(self, run: JobRun) -> JobOutcome:
        packs: list[str] = json.loads(run.job.payload)["packs"]
        stop = threading.Event()
        checking = asyncio.ensure_future(asyncio.to_thread(self._report, packs, run, stop))
        cancelled = asyncio.create_task(run.cancelled.wait())
        try:
            await asyncio.wait((checking, cancelled), return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            report = await checking
        except _Stopped:
            return JobOutcome("cancelled")
        except InvalidRequest as error:  # the policy's file is gone or wrong: it is not tried for ever
            return JobOutcome("failed", error=str(error))
        finally:
            stop.set()
            cancelled.cancel()
        return JobOutcome("succeeded", result=json.dumps(report, ensure_ascii=False))

    def _report(self, packs: Sequence[str], run: JobRun, stop: threading.Event) -> dict[str, Any]:
        """Returns the report as `deepwell compliance check --json` prints it."""
        from dataclasses import replace

        from deepwell.safety.compliance.making import make_report
        from deepwell.safety.compliance.report import as_json

        checked: dict[str, Any] = {}  # of the pack; a check may tell of steps of its own

        def told(what: str, done: int, total: int) -> None:
            if stop.is_set():
                raise _Stopped
            if what.startswith("pack "):
                checked.update(done=done, total=total, unit="checks")
            run.progress = json.dumps({"step": what, **checked})

        context = replace(self._looked_at(), progress=told)
        return as_json(make_report(packs, context, self._context.state.database))

    def _looked_at(self) -> Context:
        from deepwell.safety.compliance.context import Context

        options = self._context.options
        settings = options.settings or Settings.load()
        policy = None if options.guard is None else Policy.load(options.guard.policy)
        terms = lists_folder(settings.models_dir) if options.guard is None else options.guard.terms
        guard = None if policy is None else Guard.of(policy, terms)
        return Context(settings, policy, guard, self._context.audit.store)
