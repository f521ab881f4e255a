"""Runs agents, behind everybody who waits for an answer, and goes on with those that a crash left."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import msgspec

from deepwell.agents.loop.agent import RunOf, RunResult, run_agent
from deepwell.agents.loop.steps import CallEnded, CallStarted, Entry, Noted, Turned
from deepwell.errors import DeepwellError, NotFound
from deepwell.server.context import ServerContext
from deepwell.server.families.agents.desk import desk_of
from deepwell.server.families.agents.request import KeptRequest
from deepwell.server.families.agents.stored import StoredLog
from deepwell.server.families.agents.wiring import agent_of
from deepwell.server.families.batches.owner import principal_of_job
from deepwell.server.families.job_worker import JobWorker, Work
from deepwell.server.observe.agents import RunTrace
from deepwell.storage.agents import AGENT_JOB, StepTaken, StoredAgentRun
from deepwell.storage.clock import shared_time
from deepwell.storage.jobs.runner import JobOutcome, JobRun

__all__ = ["agent_worker", "settled"]

_encode = msgspec.json.encode


def agent_worker(context: ServerContext, _app: object = None) -> JobWorker:
    """Returns what runs agents, in every process of a server.

    A reading call that is under way at its stop is made again, a writing one is not.
    """

    async def work(run: JobRun) -> JobOutcome:
        job = run.job
        try:
            with desk_of(context).working(job.tenant, job.id, run.cancelled):
                return await _Running(context, run).go()
        except (NotFound, StepTaken):  # it was deleted, or has ended
            return JobOutcome("cancelled")
        finally:
            desk_of(context).tell(job.tenant, job.id)

    return JobWorker(context, [Work([AGENT_JOB], work, context.options.agents.runs, traced=False)])


class _Running:
    """One run, from where it is to its end, or to where it waits."""

    def __init__(self, context: ServerContext, run: JobRun) -> None:
        self._context = context
        self._run = run
        self._tenant = run.job.tenant
        self._store = context.state.agents
        self._names: dict[str, str] = {}  # of tools, by call
        self._own: set[str] = set()
        self._trace: RunTrace | None = None

    async def go(self) -> JobOutcome:
        row = await self._store.get(self._tenant, self._run.job.id)
        if row.ended:
            return _outcome(row)
        row = await self._store.settle(self._tenant, replace(row, status="in_progress"))
        request = KeptRequest.read(row.request)
        async with AsyncExitStack() as stack:
            try:
                agent = await agent_of(self._context, principal_of_job(self._run.job), request, stack)
            except DeepwellError as error:
                return await self._fail(row, str(error))
            if request.tools:
                functions = {one["name"] for one in request.functions}
                self._own = {
                    one.name for one in agent.tools if one.name not in functions and "__" not in one.name
                }
            log = StoredLog(self._store, self._tenant, row.id, self._run.cancelled, self._kept)
            of = RunOf(self._tenant, row.id)
            self._trace = RunTrace(self._context.observer, self._tenant, row.id, agent.model.name)
            status = "failed"  # where it is not known
            try:
                result = await run_agent(agent, log=log, of=of, cancelled=self._run.cancelled)
                status = result.status
            except (NotFound, StepTaken, asyncio.CancelledError):  # it ends, or goes on, elsewhere
                status = "cancelled"
                raise
            finally:
                self._trace.ended(status)
        row = await self._store.settle(self._tenant, settled(row, result))
        if row.ended:
            self._context.metrics.agents.ended(row.status, row.seconds)
        return _outcome(row)

    async def _fail(self, row: StoredAgentRun, reason: str) -> JobOutcome:
        failed = replace(row, status="failed", reason=reason, finished_at=int(shared_time()))
        row = await self._store.settle(self._tenant, failed)
        self._context.metrics.agents.ended(row.status, row.seconds)
        return JobOutcome("failed", error=reason)

    def _kept(self, entry: Entry) -> None:
        """Counts a step, and tells those who watch."""
        step, metrics = entry.step, self._context.metrics.agents
        if isinstance(step, CallStarted):
            self._names[step.call_id] = step.name
        elif isinstance(step, CallEnded) and (name := self._names.pop(step.call_id, None)) is not None:
            metrics.called(name, step.outcome, step.seconds, is_own=name in self._own)
            if self._trace is not None:
                self._trace.called(name, step.outcome, step.seconds)
        elif isinstance(step, Turned) and self._trace is not None:
            self._trace.turned(step.prompt_tokens, step.completion_tokens)
        elif isinstance(step, Noted):
            metrics.noted(step.check)
        if self._trace is not None:
            self._trace.stepped()
        self._run.progress = _encode({"done": entry.number + 1, "unit": "steps", "step": "running"}).decode()
        desk_of(self._context).tell(self._tenant, self._run.job.id)


def settled(row: StoredAgentRun, result: RunResult) -> StoredAgentRun:
    """Returns a row with what the run has come to."""
    waiting = [
        {"id": one.id, "name": one.name, "arguments": one.arguments, "needs": needs}
        for needs, calls in (("approval", result.approvals), ("output", result.outputs))
        for one in calls
    ]
    spent = result.spent
    return replace(
        row,
        status=result.status,
        text=result.text if result.status != "requires_action" else "",
        reason=result.reason,
        reached=result.limit,
        pending=_encode(waiting).decode(),
        turns=spent.turns,
        calls=spent.calls,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        seconds=spent.seconds,
        finished_at=None if result.status == "requires_action" else int(shared_time()),
    )


def _outcome(row: StoredAgentRun) -> JobOutcome:
    """Returns the end of the job of a run."""
    if row.status == "cancelled":
        return JobOutcome("cancelled")
    told = _encode({"status": row.status, "turns": row.turns, "calls": row.calls}).decode()
    if row.status == "failed":
        return JobOutcome("failed", error=row.reason, result=told)
    return JobOutcome("succeeded", result=told)
