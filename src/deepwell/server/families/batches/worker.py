"""Runs batches: answers their lines through the routes, concurrently and at low priority."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import msgspec
from msgspec import structs
from starlette.types import ASGIApp

from deepwell.errors import InvalidRequest, NotFound
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.batches.bodies import BatchError
from deepwell.server.families.batches.images import IMAGES
from deepwell.server.families.batches.lines import InputLine, check_input
from deepwell.server.families.batches.owner import principal_of_job
from deepwell.server.families.batches.results import EXPIRED, ended
from deepwell.server.families.batches.source import Source, conclude_cancelled, open_source, record_rest
from deepwell.server.families.job_worker import Chore, JobWorker, Work
from deepwell.server.http.in_process import InProcessClient, Reply
from deepwell.server.state import State
from deepwell.storage.batches import BATCH_JOB, StoredBatch
from deepwell.storage.batches.lines import LineResult
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant
from deepwell.storage.jobs.runner import JobOutcome, JobRun

__all__ = ["batch_worker"]

_log = logging.getLogger("deepwell.server")
_MOST_BATCHES = 16  # at a time
_MOST_OF_TENANT = (
    4  # of those. A tenant over its limits has batches that wait for a day, and others' do not wait for them
)
_SWEEP_S = 600.0
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before each retry of a line that failed for no fault of its own
# Codes that say nothing about the line: there was no engine, no database or no room. It is retried while the batch lasts.
_WAITING = ("engine_unavailable", "overloaded", "rate_limit_exceeded", "shutting_down", "storage_unavailable")
_LONGEST_PAUSE_S = 60.0  # of those that a line is told to wait: a limit's whole minute


def batch_worker(context: ServerContext, app: ASGIApp) -> JobWorker:
    """Returns what answers lines of batches through the routes of `app`, in every process of a server.

    Lines under way at its stop are run again.
    """

    async def sweep() -> None:
        state = context.state
        for tenant, batch in await state.batches.orphans():
            await _conclude(state, tenant, batch)
        await state.uploads.sweep()
        await state.files.sweep()

    run = _Batches(context, app).run
    works = [Work([BATCH_JOB], run, _MOST_BATCHES, _MOST_OF_TENANT, traced=False)]
    return JobWorker(context, works, [Chore("old files cannot be swept", sweep, _SWEEP_S)])


class _Batches:
    """The batches that this process has claimed, of all tenants."""

    def __init__(self, context: ServerContext, app: ASGIApp) -> None:
        self._context = context
        self._client = InProcessClient(app, context.limiter.quota)
        self._concurrency = context.options.files.batch_concurrency
        self._slots = asyncio.Semaphore(self._concurrency)
        # A model that draws takes requests in turns and knows no priority: clients that wait find one line before them.
        self._image_slots = asyncio.Semaphore(1)

    async def run(self, run: JobRun) -> JobOutcome:
        """Brings the batch from where it is to its end. It fails if something that it needs is gone."""
        job = run.job
        status: str = "failed"
        reason: str | None = None
        try:
            status = (await self._take_steps(run)).status
        except* NotFound as lost:  # trying again would not bring it back
            reason = str(_first_of(lost))
        if reason is not None:
            _log.warning("the batch %s has failed: %s", job.id, reason)
            with suppress(NotFound):
                gone = BatchError("not_found", reason)
                await self._context.state.batches.fail(job.tenant, job.id, [structs.asdict(gone)])
        match status:
            case "failed" | "cancelled":
                return JobOutcome(status, reason)
            case _:
                return JobOutcome("succeeded")

    async def _take_steps(self, run: JobRun) -> StoredBatch:
        """Takes every step that is left. Each can be repeated after a crash in its middle."""
        job = run.job
        batches, tenant = self._context.state.batches, job.tenant
        batch = await batches.get(tenant, job.id)
        if job.cancel_requested and not batch.ended:
            with suppress(InvalidRequest):  # too late
                batch = await batches.cancel(tenant, job.id)
        try:
            if batch.status == "validating":
                batch = await self._validate(tenant, batch)
            if batch.status == "in_progress":
                batch = await self._answer_all(principal_of_job(job), batch, run)
        except* FileNotFoundError:
            lost = BatchError("input_lost", "the file's bytes are not on the disk any more: send it again")
            batch = await batches.fail(tenant, batch.id, [structs.asdict(lost)])
        return await _conclude(self._context.state, tenant, batch)

    async def _validate(self, tenant: Tenant, batch: StoredBatch) -> StoredBatch:
        context, batches = self._context, self._context.state.batches
        path = await context.state.files.local(batch.input_sha256 or "")
        loop = asyncio.get_running_loop()

        def require_model(name: str) -> None:
            if not batch.endpoint.startswith(IMAGES):  # whose route finds its models itself
                asyncio.run_coroutine_threadsafe(context.find(name, tenant), loop).result()

        checked = await asyncio.to_thread(
            check_input,
            path,
            batch.endpoint,
            context.options.max_body_bytes,
            require_model,
            context.options.files.max_file_bytes,
        )
        if checked.errors:
            return await batches.fail(tenant, batch.id, [structs.asdict(one) for one in checked.errors])
        return await batches.begin(tenant, batch.id, total=checked.total, model=checked.model)

    async def _answer_all(self, principal: Principal, batch: StoredBatch, run: JobRun) -> StoredBatch:
        """Answers lines until every one has ended, the batch is cancelled, or its time is over."""
        batches, tenant = self._context.state.batches, principal.tenant
        source = await open_source(self._context.state, tenant, batch)
        counts = _Counts(run, batch)

        async def consume() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._answer_some(principal, batch, source, counts))

        consumers = asyncio.create_task(consume())
        stop = asyncio.create_task(run.cancelled.wait())
        left_s = max(batch.expires_at - shared_time(), 0)
        try:
            await asyncio.wait((consumers, stop), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if consumers.done():
                consumers.result()
        finally:
            consumers.cancel()
            stop.cancel()
            await asyncio.gather(consumers, stop, return_exceptions=True)
        if run.cancelled.is_set():
            with suppress(InvalidRequest):  # it is cancelling already
                return await batches.cancel(tenant, batch.id)
            return await batches.get(tenant, batch.id)
        # There are none, unless its time is over.
        await record_rest(self._context.state, tenant, batch, EXPIRED)
        return await batches.finalize(tenant, batch.id)

    async def _answer_some(
        self, principal: Principal, batch: StoredBatch, source: Source, counts: _Counts
    ) -> None:
        """Answers one line after another, beside as many others as there are slots."""
        slots = self._slots_of(batch.endpoint)
        while True:
            async with slots:
                lines = await source.some(1)
                if not lines:
                    return
                reply = await self._client.post(batch.endpoint, lines[0].body, principal)
            reply = await self._settled(reply, batch.endpoint, lines[0], principal)
            result = ended(batch, lines[0], reply)
            status = await self._context.state.batches.record(principal.tenant, batch.id, [result])
            counts.add(result)
            if status == "cancelling":
                counts.run.cancelled.set()
            if status != "in_progress":
                return

    async def _settled(self, reply: Reply, endpoint: str, line: InputLine, principal: Principal) -> Reply:
        """Returns a line's reply. A failure that is not the line's own fault has been retried several times.

        A line that pauses has no slot, so that a tenant which is over its limits delays its own batches alone.
        """
        pauses_s = list(_PAUSES_S)
        while reply.status >= 500 or reply.status == 429:
            if not pauses_s and reply.code not in _WAITING:
                return reply
            pause_s = pauses_s.pop(0) if pauses_s else _PAUSES_S[-1]
            if reply.status == 429:
                told_s = float(reply.headers.get(b"retry-after", b"0"))
                pause_s = max(pause_s, min(told_s, _LONGEST_PAUSE_S))
            await asyncio.sleep(pause_s)
            async with self._slots_of(endpoint):
                reply = await self._client.post(endpoint, line.body, principal)
        return reply

    def _slots_of(self, endpoint: str) -> asyncio.Semaphore:
        return self._image_slots if endpoint.startswith(IMAGES) else self._slots


class _Counts:
    """The counts of a batch, as its job tells them."""

    def __init__(self, run: JobRun, batch: StoredBatch) -> None:
        self.run = run
        self._counts = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}

    def add(self, result: LineResult) -> None:
        """Counts a line that has ended."""
        self._counts["failed" if result.failed else "completed"] += 1
        self.run.progress = msgspec.json.encode(self._counts).decode()


async def _conclude(state: State, tenant: Tenant, batch: StoredBatch) -> StoredBatch:
    """Ends a batch whose lines have ended."""
    if batch.status == "finalizing":
        late = (batch.finalizing_at or 0) >= batch.expires_at
        return await state.batches.conclude(tenant, batch.id, "expired" if late else "completed")
    if batch.status == "cancelling":
        return await conclude_cancelled(state, tenant, batch)
    return batch


def _first_of(group: BaseExceptionGroup[NotFound]) -> BaseException:
    """Returns the first exception of a group, which may lie in a group of its own."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
