"""Runs batches: claims their jobs, and answers their lines through the routes, concurrently and at low priority."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec
from msgspec import structs
from starlette.types import ASGIApp

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.batches.bodies import BatchError
from deepwell.server.families.batches.lines import InputLine, check_input
from deepwell.server.families.batches.results import EXPIRED, ended
from deepwell.server.families.batches.source import Source, conclude_cancelled, open_source, record_rest
from deepwell.server.http.in_process import InProcessClient, Reply
from deepwell.storage.batches import BATCH_JOB, StoredBatch
from deepwell.storage.database import LOCAL, Tenant
from deepwell.storage.jobs import Job

__all__ = ["BatchWorker"]

_log = logging.getLogger("deepwell.server")
_PRIORITY = -1  # of the engine requests: clients that wait for an answer go first
_MOST_BATCHES = 8  # at a time, so that a small batch does not wait for another tenant's large one
_POLL_S = 1.0  # between polls for jobs that another server queued or left
_AFTER_FAILURE_S = 5.0
_SWEEP_S = 600.0
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before each retry of a line that failed for no fault of its own
# Codes that say nothing about the line: there was no engine, no database or no room. It is retried while the batch lasts.
_WAITING = ("engine_unavailable", "rate_limit_exceeded", "shutting_down", "storage_unavailable")


class BatchWorker:
    """The batches that this process has claimed, of all tenants. Every process of a server may have such a worker."""

    def __init__(self, context: ServerContext, app: ASGIApp) -> None:
        """Answers lines through the routes of `app`."""
        self._context = context
        self._client = InProcessClient(app)
        self._lease_s = context.options.files.job_lease_s
        self._concurrency = context.options.files.batch_concurrency
        self._slots = asyncio.Semaphore(self._concurrency)
        self._running: set[asyncio.Task[None]] = set()
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
                    job = await state.jobs.claim([BATCH_JOB], state.owner, self._lease_s)
                except Exception as error:  # the loop outlives any failure
                    _warn("no batch can be claimed", error)
            if job is not None:
                task = asyncio.create_task(self._run(job))
                self._running.add(task)
                task.add_done_callback(self._ended)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(state.jobs_changed.wait(), min(_POLL_S, self._lease_s / 4))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
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
                batch = working.result()
                ended = batch.status
                await jobs.finish(job, ended if ended in ("failed", "cancelled") else "succeeded")
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

    async def _advance(self, job: Job, cancelled: asyncio.Event) -> StoredBatch:
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
                batch = await self._answer_all(tenant, batch, cancelled)
        except* FileNotFoundError:
            lost = BatchError("input_lost", "the file's bytes are not on the disk any more: send it again")
            batch = await batches.fail(tenant, batch.id, [structs.asdict(lost)])
        return await self._end(tenant, batch)

    async def _validate(self, tenant: Tenant, batch: StoredBatch) -> StoredBatch:
        context, batches = self._context, self._context.state.batches
        path = context.state.files.blobs.path(batch.input_sha256 or "")
        checked = await asyncio.to_thread(
            check_input,
            path,
            batch.endpoint,
            context.options.max_body_bytes,
            partial(context.find, tenant=tenant),
        )
        if checked.errors:
            return await batches.fail(tenant, batch.id, [structs.asdict(one) for one in checked.errors])
        return await batches.begin(tenant, batch.id, total=checked.total, model=checked.model)

    async def _answer_all(self, tenant: Tenant, batch: StoredBatch, cancelled: asyncio.Event) -> StoredBatch:
        """Answers lines until every one has ended, the batch is cancelled, or its time is over."""
        batches = self._context.state.batches
        source = await open_source(self._context.state, tenant, batch)

        async def consume() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._answer_some(tenant, batch, source, cancelled))

        consumers = asyncio.create_task(consume())
        stop = asyncio.create_task(cancelled.wait())
        left_s = max(batch.expires_at - time.time(), 0)
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
        self, tenant: Tenant, batch: StoredBatch, source: Source, cancelled: asyncio.Event
    ) -> None:
        """Answers one line after another, beside as many others as there are slots."""
        principal = Principal(tenant, "" if tenant == LOCAL else "batch", priority=_PRIORITY)
        while True:
            async with self._slots:
                lines = await source.some(1)
                if not lines:
                    return
                reply = await self._answer(batch.endpoint, lines[0], principal)
            result = ended(batch, lines[0], reply)
            status = await self._context.state.batches.record(tenant, batch.id, [result])
            if status == "cancelling":
                cancelled.set()
            if status != "in_progress":
                return

    async def _answer(self, endpoint: str, line: InputLine, principal: Principal) -> Reply:
        """Returns the route's reply. A failure that is not the line's own fault has been retried several times."""
        pauses_s = list(_PAUSES_S)
        while True:
            reply = await self._client.post(endpoint, line.body, principal)
            if reply.status < 500 and reply.status != 429:
                return reply
            if not pauses_s and reply.code not in _WAITING:
                return reply
            await asyncio.sleep(pauses_s.pop(0) if pauses_s else _PAUSES_S[-1])

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


def _warn(what: str, error: Exception) -> None:
    """Logs a failure that the worker survives, with its traceback if it was not foreseen."""
    foreseen = isinstance(error, DeepwellError)
    _log.warning("%s: %s", what, error, exc_info=None if foreseen else error)
