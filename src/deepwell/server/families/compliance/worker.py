"""Runs queued compliance checks beside requests, in a thread."""

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
from deepwell.server.families.job_worker import JobWorker, Work
from deepwell.settings import Settings
from deepwell.storage.jobs.runner import JobOutcome, JobRun

if TYPE_CHECKING:
    from deepwell.safety.compliance.context import Context

__all__ = ["COMPLIANCE_JOB", "compliance_worker"]

COMPLIANCE_JOB = "compliance.check"
"""Kind of the jobs."""


class _Stopped(BaseException):
    """Raised when the job is cancelled or the server stops. A check takes no notice of it: it is no failure of its own."""


def compliance_worker(context: ServerContext, _app: object = None) -> JobWorker:
    """Returns what runs compliance checks, in the first process of a server."""
    return JobWorker(context, [Work([COMPLIANCE_JOB], _Checks(context).run)], first_process_only=True)


class _Checks:
    """The checks look at the configuration that the server was started with."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def run(self, run: JobRun) -> JobOutcome:
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
