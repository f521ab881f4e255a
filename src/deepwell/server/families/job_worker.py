"""`JobWorker`: claims the jobs of an API family beside requests, and does its chores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deepwell.errors import DeepwellError
from deepwell.server.context import ServerContext
from deepwell.server.observe.jobs import traced
from deepwell.storage.jobs.runner import JobOutcome, JobRun, JobRunner

__all__ = ["Chore", "JobWorker", "Work"]

_log = logging.getLogger("deepwell.server")


@dataclass(frozen=True, slots=True)
class Work:
    """Jobs that are run in the same way.

    Attributes:
        kinds: kinds of the jobs.
        run: runs one. It raises what may pass, such as a database that does not answer: the job is then tried again.
        most: number of jobs at a time; 0: this server claims none.
        most_of_tenant: number of those that one tenant may have; None: all but one.
        traced: whether a claim is a trace; False for work that makes its own.
    """

    kinds: Sequence[str]
    run: Callable[[JobRun], Awaitable[JobOutcome]]
    most: int = 1
    most_of_tenant: int | None = None
    traced: bool = True


@dataclass(frozen=True, slots=True)
class Chore:
    """Something that is done beside the jobs. Its failures go to the log.

    Attributes:
        failing: what the log says of a failure.
        do: does it once.
        every_s: seconds between two times; None: once, before jobs are claimed.
    """

    failing: str
    do: Callable[[], Awaitable[None]]
    every_s: float | None = None

    async def attempt(self) -> None:
        """Does it once. A failure goes to the log, with its traceback if it was not foreseen."""
        try:
            await self.do()
        except Exception as error:
            foreseen = isinstance(error, DeepwellError | OSError)
            _log.warning("%s: %s", self.failing, error, exc_info=None if foreseen else error)


class JobWorker:
    """The jobs of one process. It begins when there is a database, and goes on with jobs that a stopped server left."""

    def __init__(
        self,
        context: ServerContext,
        works: Sequence[Work],
        chores: Sequence[Chore] = (),
        *,
        first_process_only: bool = False,
    ) -> None:
        """Runs jobs of all tenants.

        Args:
            chores: of these, repeated ones are done in the first process of a server alone.
            first_process_only: whether jobs are claimed there alone, too.
        """
        self._context = context
        self._works = works
        self._chores = chores
        self._is_first = context.options.worker == 0
        self._here = self._is_first or not first_process_only
        self._runners: list[JobRunner] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts to claim jobs."""
        if self._here:
            self._tasks = [asyncio.create_task(self._begin())]

    async def stop(self) -> None:
        """Returns every job under way to the queue, where the next server goes on with it."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for runner in self._runners:
            await runner.stop()

    async def _begin(self) -> None:
        context = self._context
        await context.kept.wait()
        for chore in self._chores:
            if chore.every_s is None:
                await chore.attempt()
        for work in self._works:
            if work.most:
                self._claim(work)
        if self._is_first:
            repeated = [(one, one.every_s) for one in self._chores if one.every_s is not None]
            self._tasks += [asyncio.create_task(_repeat(chore, every_s)) for chore, every_s in repeated]

    def _claim(self, work: Work) -> None:
        context, state = self._context, self._context.state
        runner = JobRunner(
            state.jobs,
            work.kinds,
            state.owner,
            traced(context.observer, work.run) if work.traced else work.run,
            lease_s=context.options.files.job_lease_s,
            most=work.most,
            most_of_tenant=work.most_of_tenant,
        )
        self._runners.append(runner)
        for kind in work.kinds:
            state.wakes[kind] = runner.wake
        runner.start()


async def _repeat(chore: Chore, every_s: float) -> None:
    while True:
        await chore.attempt()
        await asyncio.sleep(every_s)
