"""Spans of jobs: a trace for each claim, with the steps of the work below it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from deepwell.server.observe.observer import Observer
from deepwell.server.observe.record import Phase
from deepwell.storage.jobs.runner import JobOutcome, JobRun

__all__ = ["traced"]

_RETURNED: Final = "returned"
"""Status of a claim that ends before its job does: the server stops, the lease is lost, or the work is tried again."""


def traced(
    observer: Observer, work: Callable[[JobRun], Awaitable[JobOutcome]]
) -> Callable[[JobRun], Awaitable[JobOutcome]]:
    """Returns the work of a `JobRunner` with the spans of each claim. Nothing is kept where no traces are made."""

    async def run_traced(run: JobRun) -> JobOutcome:
        if not observer.traces:
            return await work(run)
        record = observer.begin_run(run.job.id)
        record.operation, record.job, record.tenant = "run_job", run.job.kind, run.job.tenant
        record.finish_reason = _RETURNED
        try:
            outcome = await work(run)
            record.finish_reason = outcome.status
            record.error = "failed" if outcome.status == "failed" else ""
            return outcome
        except Exception as error:
            record.error = type(error).__name__
            raise
        finally:
            now = time.perf_counter()
            record.duration_s = now - record.started
            ends = [*(begin for _, begin in run.steps[1:]), now]
            for (name, begin), end in zip(run.steps, ends, strict=False):
                record.phases.append(Phase(name, begin, end))
            observer.end(record)

    return run_traced
