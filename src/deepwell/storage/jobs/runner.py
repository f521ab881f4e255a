"""`JobRunner`: claims durable jobs of some kinds, keeps their leases, and ends or returns each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from deepwell.errors import DeepwellError
from deepwell.storage.database import Tenant
from deepwell.storage.jobs.rows import Job, JobStore

__all__ = ["JobOutcome", "JobRun", "JobRunner"]

_log = logging.getLogger("deepwell.storage")
_AFTER_FAILURE_S = 5.0
_MOST_SERVED = 1000  # tenants of a round: they are parameters of the claim
_MOST_STEPS = 100  # of a run that are noted
_POLL_S = 1.0  # between polls for jobs that another process queued or left


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """The end of a job."""

    status: Literal["succeeded", "failed", "cancelled"]
    error: str | None = None
    result: str | None = None


class JobRun:
    """One run of a job.

    Attributes:
        job: the job as it was claimed.
        cancelled: set when somebody asked for its end.
        progress: JSON that the next heartbeat writes to the row.
        steps: names of the steps so far, and when each began, in seconds of `time.perf_counter`.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.cancelled = asyncio.Event()
        self.progress: str | None = job.progress
        self.steps: list[tuple[str, float]] = []
        if job.cancel_requested:
            self.cancelled.set()

    def step(self, name: str) -> None:
        """Notes the step that is under way, for those who trace the run. Said again, it goes on."""
        if name and len(self.steps) < _MOST_STEPS and (not self.steps or self.steps[-1][0] != name):
            self.steps.append((name, time.perf_counter()))


class JobRunner:
    """Runs jobs beside other work of an event loop, some at a time and fewer of one tenant.

    Tenants take turns: one whose job was claimed waits until no other tenant has one, so that many long jobs of one
    tenant hold the others up for one of them at most.

    A job whose `work` raises is returned to the queue after a pause and tried again. One that can never succeed must end with
    the outcome "failed".
    """

    def __init__(
        self,
        jobs: JobStore,
        kinds: Sequence[str],
        owner: str,
        work: Callable[[JobRun], Awaitable[JobOutcome]],
        *,
        lease_s: float,
        most: int = 2,
        most_of_tenant: int | None = None,
    ) -> None:
        """Runs jobs of `kinds` with `work`.

        Args:
            owner: name of this process in leases.
            lease_s: seconds after which another process takes over a job whose lease was not renewed.
            most: number of jobs at a time.
            most_of_tenant: number of those that one tenant may have; None: all but one.
        """
        self._jobs = jobs
        self._kinds = kinds
        self._owner = owner
        self._work = work
        self._lease_s = lease_s
        self._most = most
        # One place is always left to the other tenants
        self._most_of_tenant = max(most - 1, 1) if most_of_tenant is None else most_of_tenant
        self._running: dict[asyncio.Task[None], Tenant] = {}
        self._served: set[Tenant] = set()  # tenants that have had their turn in this round
        self._claiming: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Tells the runner that a job was queued, which it would find by itself within a second."""
        self._changed.set()

    def start(self) -> None:
        """Starts to claim jobs."""
        self._claiming = asyncio.create_task(self._claim_all())

    async def stop(self) -> None:
        """Returns every job to the queue, where the next runner goes on with it."""
        await _end([] if self._claiming is None else [self._claiming])
        await _end(list(self._running))

    @property
    def running(self) -> int:
        """Number of jobs under way."""
        return len(self._running)

    async def _claim_all(self) -> None:
        while True:
            self._changed.clear()
            job = None
            if len(self._running) < self._most:
                try:
                    job = await self._next()
                except Exception as error:  # the loop outlives any failure
                    _warn("no job can be claimed", error)
            if job is not None:
                task = asyncio.create_task(self._run(job))
                self._running[task] = job.tenant
                task.add_done_callback(self._ended)
                continue
            # `wait_for` of Python 3.11 loses a cancellation that comes with the event
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_POLL_S, self._lease_s / 4)):
                    await self._changed.wait()

    async def _next(self) -> Job | None:
        counts = Counter(self._running.values())
        full = {one for one, count in counts.items() if count >= self._most_of_tenant}
        besides = full | self._served
        job = await self._jobs.claim(self._kinds, self._owner, self._lease_s, besides=besides)
        if job is None and besides != full:
            job = await self._jobs.claim(self._kinds, self._owner, self._lease_s, besides=full)
        if job is None or job.tenant in self._served or len(self._served) == _MOST_SERVED:
            self._served.clear()  # the next round
        if job is not None:
            self._served.add(job.tenant)
        return job

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._changed.set()

    async def _run(self, job: Job) -> None:
        run = JobRun(job)
        working = asyncio.ensure_future(self._work(run))
        beating = asyncio.create_task(self._beat(run))
        try:
            await asyncio.wait((working, beating), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                outcome = working.result()
                await self._jobs.finish(job, outcome.status, error=outcome.error, result=outcome.result)
        except Exception as error:
            _warn(f"the job {job.id} cannot go on and is tried again", error)
            await asyncio.sleep(_AFTER_FAILURE_S)
        finally:
            for task in (working, beating):
                task.cancel()
            await asyncio.wait((working, beating))
            try:
                await self._jobs.release(job)  # no effect if it is finished, or somebody else's
            except Exception as error:
                _warn(f"the job {job.id} waits until its lease ends", error)

    async def _beat(self, run: JobRun) -> None:
        """Renews the lease, and sets `cancelled` when that is requested. Returns when the lease is lost."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                now = await self._jobs.heartbeat(run.job, self._lease_s, run.progress)
            except Exception as error:
                _warn(f"the lease of the job {run.job.id} cannot be renewed", error)
                continue
            if now is None:
                _log.warning("the job %s was taken over by another process", run.job.id)
                return
            if now.cancel_requested:
                run.cancelled.set()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _warn(what: str, error: Exception) -> None:
    """Logs a failure that the runner survives, with its traceback if it was not foreseen."""
    foreseen = isinstance(error, DeepwellError)
    _log.warning("%s: %s", what, error, exc_info=None if foreseen else error)
