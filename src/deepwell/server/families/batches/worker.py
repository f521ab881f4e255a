"""Runs batches: claims their jobs, and answers their lines through the routes, concurrently and at low priority."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import structs
from starlette.types import ASGIApp

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.batches.bodies import BatchError
from deepwell.server.families.batches.images import IMAGES
from deepwell.server.families.batches.lines import InputLine, check_input
from deepwell.server.families.batches.owner import principal_of_job
from deepwell.server.families.batches.results import EXPIRED, ended
from deepwell.server.families.batches.source import Source, conclude_cancelled, open_source, record_rest
from deepwell.server.http.in_process import InProcessClient, Reply
from deepwell.storage.batches import BATCH_JOB, StoredBatch
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant
from deepwell.storage.jobs import Job

__all__ = ["BatchWorker"]

_log = logging.getLogger("deepwell.server")
_MOST_BATCHES = 16  # at a time
_MOST_OF_TENANT = (
    4  # of those. A tenant over its limits has batches that wait for a day, and others' do not wait for them
)
_POLL_S = 1.0  # between polls for jobs that another server queued or left
_AFTER_FAILURE_S = 5.0
_SWEEP_S = 600.0
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before each retry of a line that failed for no fault of its own
# Codes that say nothing about the line: there was no engine, no database or no room. It is retried while the batch lasts.
_WAITING = ("engine_unavailable", "overloaded", "rate_limit_exceeded", "shutting_down", "storage_unavailable")
_LONGEST_PAUSE_S = 60.0  # of those that a line is told to wait: a limit's whole minute


class BatchWorker:
    """The batches that this process has claimed, of all tenants. Every process of a server may have such a worker."""

    def __init__(self, context: ServerContext, app: ASGIApp) -> None:
        """Answers lines through the routes of `app`."""
        self._context = context
        self._client = InProcessClient(app, context.limiter.quota)
        self._lease_s = context.options.files.job_lease_s
        self._concurrency = context.options.files.batch_concurrency
        self._slots = asyncio.Semaphore(self._concurrency)
        # A model that draws takes requests in turns and knows no priority: clients that wait find one line before them.
        self._image_slots = asyncio.Semaphore(1)
        self._running: dict[asyncio.Task[None], Tenant] = {}
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts to claim batches."""
        self._loops = [asyncio.create_task(self._claim_all()), asyncio.create_task(self._sweep_all())]

    async def stop(self) -> None:
        """Returns every batch to the queue, where the next server finds it. Lines under way are run again there."""
        await _end(self._loops)  # nothing is claimed from here on
        await _end(list(self._running))

    async def _claim_all(self) -> None:
        await self._context.kept.wait()
        state = self._context.state
        while True:
            state.jobs_changed.clear()
            job = None
            if len(self._running) < _MOST_BATCHES:
                try:
                    counts = Counter(self._running.values())
                    full = [tenant for tenant, count in counts.items() if count >= _MOST_OF_TENANT]
                    job = await state.jobs.claim([BATCH_JOB], state.owner, self._lease_s, besides=full)
                except Exception as error:  # the loop outlives any failure
                    _warn("no batch can be claimed", error)
            if job is not None:
                task = asyncio.create_task(self._run(job))
                self._running[task] = job.tenant
                task.add_done_callback(self._ended)
                continue
            # `wait_for` of Python 3.11 loses a cancellation that comes with the event
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_POLL_S, self._lease_s / 4)):
                    await state.jobs_changed.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._context.state.jobs_changed.set()

    async def _sweep_all(self) -> None:
        await self._context.kept.wait()
        state = self._context.state
        while True:
            try:
                for tenant, batch in await state.batches.orphans():
                    await self._end(tenant, batch)
                await state.uploads.sweep()
                await state.files.sweep()
            except Exception as error:
                _warn("old files cannot be swept", error)
            await asyncio.sleep(_SWEEP_S)

    async def _run(self, job: Job) -> None:
        """Runs one batch from where it is to its end, or until it has to be given back."""
        jobs = self._context.state.jobs
        cancelled = asyncio.Event()
        working = asyncio.create_task(self._advance(job, cancelled))
        beating = asyncio.create_task(self._beat(job, cancelled))
        try:
            await asyncio.wait((working, beating), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                status, error = working.result()
                await jobs.finish(job, status, error=error)
        except Exception as error:
            _warn(f"the batch {job.id} cannot go on and is tried again", error)
            await asyncio.sleep(_AFTER_FAILURE_S)
        finally:
            for task in (working, beating):
                task.cancel()
            await asyncio.wait((working, beating))
            try:
                await jobs.release(job)  # no effect if it is finished, or somebody else's
            except Exception as error:
                _warn(f"the batch {job.id} waits until its lease ends", error)

    async def _beat(self, job: Job, cancelled: asyncio.Event) -> None:
        """Renews the lease, and sets `cancelled` when that is requested. Returns when the lease is lost."""
        state = self._context.state
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                batch = await state.batches.get(job.tenant, job.id)
                counts = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
                progress = msgspec.json.encode(counts).decode()
                now = await state.jobs.heartbeat(job, self._lease_s, progress)
            except Exception as error:
                _warn(f"the lease of the batch {job.id} cannot be renewed", error)
                continue
            if now is None:
                _log.warning("the batch %s was taken over by another server", job.id)
                return
            if now.cancel_requested:
                cancelled.set()

    async def _advance(
        self, job: Job, cancelled: asyncio.Event
    ) -> tuple[Literal["succeeded", "failed", "cancelled"], str | None]:
        """Brings the batch to its end. Returns the end of its job, with the reason if something that it needs is gone."""
        status: str = "failed"
        reason: str | None = None
        try:
            status = (await self._take_steps(job, cancelled)).status
        except* NotFound as lost:  # trying again would not bring it back
            reason = str(_first_of(lost))
        if reason is not None:
            _log.warning("the batch %s has failed: %s", job.id, reason)
            with suppress(NotFound):
                gone = BatchError("not_found", reason)
                await self._context.state.batches.fail(job.tenant, job.id, [structs.asdict(gone)])
        match status:
            case "failed" | "cancelled":
                return status, reason
            case _:
                return "succeeded", None

    async def _take_steps(self, job: Job, cancelled: asyncio.Event) -> StoredBatch:
        """Takes every step that is left. Each can be repeated after a crash in its middle."""
        batches, tenant = self._context.state.batches, job.tenant
        batch = await batches.get(tenant, job.id)
        if job.cancel_requested and not batch.ended:
            with suppress(InvalidRequest):  # too late
                batch = await batches.cancel(tenant, job.id)
        try:
            if batch.status == "validating":
                batch = await self._validate(tenant, batch)
            if batch.status == "in_progress":
                batch = await self._answer_all(principal_of_job(job), batch, cancelled)
        except* FileNotFoundError:
            lost = BatchError("input_lost", "the file's bytes are not on the disk any more: send it again")
            batch = await batches.fail(tenant, batch.id, [structs.asdict(lost)])
        return await self._end(tenant, batch)

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

    async def _answer_all(
        self, principal: Principal, batch: StoredBatch, cancelled: asyncio.Event
    ) -> StoredBatch:
        """Answers lines until every one has ended, the batch is cancelled, or its time is over."""
        batches, tenant = self._context.state.batches, principal.tenant
        source = await open_source(self._context.state, tenant, batch)

        async def consume() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._answer_some(principal, batch, source, cancelled))

        consumers = asyncio.create_task(consume())
        stop = asyncio.create_task(cancelled.wait())
        left_s = max(batch.expires_at - shared_time(), 0)
        try:
            await asyncio.wait((consumers, stop), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if consumers.done():
                consumers.result()
        finally:
            consumers.cancel()
            stop.cancel()
            await asyncio.gather(consumers, stop, return_exceptions=True)
        if cancelled.is_set():
            with suppress(InvalidRequest):  # it is cancelling already
                return await batches.cancel(tenant, batch.id)
            return await batches.get(tenant, batch.id)
        # There are none, unless its time is over.
        await record_rest(self._context.state, tenant, batch, EXPIRED)
        return await batches.finalize(tenant, batch.id)

    async def _answer_some(
        self, principal: Principal, batch: StoredBatch, source: Source, cancelled: asyncio.Event
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
            if status == "cancelling":
                cancelled.set()
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

    async def _end(self, tenant: Tenant, batch: StoredBatch) -> StoredBatch:
        batches = self._context.state.batches
        if batch.status == "finalizing":
            late = (batch.finalizing_at or 0) >= batch.expires_at
            return await batches.conclude(tenant, batch.id, "expired" if late else "completed")
        if batch.status == "cancelling":
            return await conclude_cancelled(self._context.state, tenant, batch)
        return batch


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _first_of(group: BaseExceptionGroup[NotFound]) -> BaseException:
    """Returns the first exception of a group, which may lie in a group of its own."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _warn(what: str, error: Exception) -> None:
    """Logs a failure that the worker survives, with its traceback if it was not foreseen."""
    foreseen = isinstance(error, DeepwellError)
    _log.warning("%s: %s", what, error, exc_info=None if foreseen else error)
