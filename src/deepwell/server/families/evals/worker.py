"""Runs evaluations, a few rows at a time and behind everybody who waits for an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from pydantic import TypeAdapter

from deepwell.errors import DeepwellError, ModelNotFound, NotFound, StorageUnavailable
from deepwell.server.context import ServerContext
from deepwell.server.families.batches.owner import principal_of_job
from deepwell.server.families.evals.bodies import EvalError, EvalResult
from deepwell.server.families.evals.rows import read_rows
from deepwell.server.families.evals.sampling import Sampler, given_sample
from deepwell.server.families.evals.schema import FileContent, JsonlSource, SampledSource
from deepwell.server.families.evals.summary import ItemBody, summed
from deepwell.server.families.graders.models import ServedGrading
from deepwell.server.families.job_worker import JobWorker, Work
from deepwell.storage.clock import shared_time
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.tuning.evals import EVAL_JOB, OutputItem, StoredRun
from deepwell.tuning.evaluate.graders import Grade, Grader, parse_grader, run_grader

__all__ = ["eval_worker"]

_log = logging.getLogger("deepwell.server")
_MOST_RUNS = 2  # at a time
_encode = msgspec.json.encode
_sources: TypeAdapter[JsonlSource | SampledSource] = TypeAdapter(JsonlSource | SampledSource)


def eval_worker(context: ServerContext, _app: object = None) -> JobWorker:
    """Returns what runs evaluations, in every process of a server. Rows under way at its stop are judged again."""

    async def evaluate(run: JobRun) -> JobOutcome:
        try:
            outcome = await _Evaluation(context, run).go()
        except NotFound:  # the evaluation was deleted
            return JobOutcome("cancelled")
        if outcome.status != "cancelled":
            context.metrics.tuning.runs.labels(outcome.status).inc()
        return outcome

    return JobWorker(context, [Work([EVAL_JOB], evaluate, _MOST_RUNS)])


class _Evaluation:
    """One run, from where it is to its end."""

    def __init__(self, context: ServerContext, run: JobRun) -> None:
        self._context = context
        self._run = run
        self._tenant = run.job.tenant
        self._evals = context.state.evals
        self._principal = principal_of_job(run.job)
        self._serving = ServedGrading(context, self._principal)
        self._done = 0

    async def go(self) -> JobOutcome:
        row = await self._evals.run(self._tenant, self._run.job.id)
        if row.ended:
            return JobOutcome("cancelled" if row.status == "canceled" else "succeeded")
        stored = await self._evals.get(self._tenant, row.eval_id)
        given: list[dict[str, Any]] = msgspec.json.decode(stored.testing_criteria)
        graders = [parse_grader(one) for one in given]
        source = _sources.validate_json(row.data_source)
        try:
            sampler = await self._sampler(source)
            total = await asyncio.to_thread(lambda: sum(1 for _ in self._rows(row, source)))
        except StorageUnavailable:  # the run is tried again
            raise
        except (ModelNotFound, DeepwellError, FileNotFoundError) as error:
            code = getattr(error, "code", None) or "input_lost"
            return await self._fail(row, code, str(error))
        row = await self._evals.begin(self._tenant, row.id, total)
        if not await self._judge_all(row, source, graders, sampler):
            return JobOutcome("cancelled")
        summary = await summed(self._evals.bodies(self._tenant, row.id))
        await self._evals.end(self._tenant, row.id, "completed", summary=_encode(summary).decode())
        counts = (await self._evals.counts(self._tenant, [row.id]))[row.id]
        told = {"passed": counts.passed, "failed": counts.failed, "errored": counts.errored}
        return JobOutcome("succeeded", result=_encode(told).decode())

    async def _sampler(self, source: JsonlSource | SampledSource) -> Sampler | None:
        if not isinstance(source, SampledSource):
            return None
        answering, _ = await self._context.generator(source.model, self._tenant)
        return Sampler(self._context, self._principal, source, answering.model)

    async def _fail(self, row: StoredRun, code: str, message: str) -> JobOutcome:
        error = _encode(EvalError(code, message)).decode()
        await self._evals.end(self._tenant, row.id, "failed", error=error)
        return JobOutcome("failed", error=message)

    def _rows(self, row: StoredRun, source: JsonlSource | SampledSource) -> Iterator[dict[str, Any]]:
        rows = source.source
        if isinstance(rows, FileContent):
            return iter([{"item": one.item, "sample": one.sample} for one in rows.content])
        return read_rows(self._context.state.files.blobs.path(row.source_sha256 or ""))

    async def _judge_all(
        self,
        row: StoredRun,
        source: JsonlSource | SampledSource,
        graders: Sequence[Grader],
        sampler: Sampler | None,
    ) -> bool:
        """Judges every row that has no result. Returns False if the run was cancelled."""
        done = await self._evals.done(self._tenant, row.id)
        self._done = len(done)
        slots = asyncio.Semaphore(self._context.options.files.batch_concurrency)
        going = asyncio.Event()

        async def judge(number: int, given: dict[str, Any]) -> None:
            try:
                item = await self._judge(number, given, graders, sampler)
                status = await self._evals.record(self._tenant, row.id, item)
                self._context.metrics.tuning.items.labels(item.status).inc()
                self._done += 1
                progress = {"done": self._done, "total": row.total, "unit": "rows", "step": "judging"}
                self._run.progress = _encode(progress).decode()
                if status != "in_progress":
                    going.set()
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            async for number, given in _numbered(self._rows(row, source)):
                if number in done:
                    continue
                await slots.acquire()
                if going.is_set() or self._run.cancelled.is_set():
                    slots.release()
                    break
                group.create_task(judge(number, given))
        if self._run.cancelled.is_set():
            with suppress(DeepwellError):
                await self._evals.cancel_run(self._tenant, row.id)
        return not (await self._evals.run(self._tenant, row.id)).ended

    async def _judge(
        self, number: int, given: dict[str, Any], graders: Sequence[Grader], sampler: Sampler | None
    ) -> OutputItem:
        item: dict[str, Any] = given["item"]
        if sampler is None:
            sample, variables = given_sample(given.get("sample"))
        else:
            sample, variables = await sampler.sample(item)
        results: list[EvalResult] = []
        failed = variables is None
        if variables is not None:
            for grader in graders:
                grade = await run_grader(
                    grader, item=item, sample=variables, model=self._serving, embedder=self._serving
                )
                failed = failed or grade.error is not None
                results.append(_result(grade))
        status = "error" if failed else "pass" if all(one.passed for one in results) else "fail"
        body = _encode(ItemBody(item, results, sample)).decode()
        return OutputItem(number, status, body, int(shared_time()))


def _result(grade: Grade) -> EvalResult:
    told = {"label": grade.label, "error": grade.error, "detail": grade.detail or None}
    sample = {name: value for name, value in told.items() if value is not None}
    return EvalResult(grade.name, grade.type, grade.passed, grade.score, sample or None, dict(grade.tokens))


async def _numbered(rows: Iterator[dict[str, Any]]) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """Yields rows with their numbers from 0; they are read in a thread, some at a time."""

    def some() -> list[dict[str, Any]]:
        return [row for _, row in zip(range(64), rows, strict=False)]

    number = 0
    while chunk := await asyncio.to_thread(some):
        for row in chunk:
            yield number, row
            number += 1
