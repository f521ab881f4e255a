"""`EvalStore`: evaluations, their runs, and the items of runs.

The result of a row of the data is an item whose key is the row's number, and which is written once: a run that goes on after a
crash finds those that it has.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import insert_job
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import eval_output_items, eval_runs, evals, jobs

__all__ = [
    "EVAL_JOB",
    "EvalStore",
    "ItemStatus",
    "OutputItem",
    "RunCounts",
    "RunStatus",
    "StoredEval",
    "StoredRun",
    "TooManyRuns",
    "metadata_of",
    "new_id",
]

EVAL_JOB: Final = "eval.run"
"""Kind of the durable jobs that evaluate. The job and the run have the same id."""

RunStatus = Literal["queued", "in_progress", "completed", "canceled", "failed"]
ItemStatus = Literal["pass", "fail", "error"]

_ROWS: Final = 64  # bodies in memory at a time: each may have megabytes
MOST_OPEN: Final = 20  # runs of a tenant at a time
_OPEN: Final = ("queued", "in_progress")


class TooManyRuns(DeepwellError):
    """Raised when a tenant has as many unfinished runs as it may."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class StoredEval:
    """One evaluation. `data_source_config`, `testing_criteria` and `metadata` are JSON."""

    id: str
    name: str
    data_source_config: str
    testing_criteria: str
    metadata: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run. `data_source`, `metadata`, `error` and `summary` are JSON; `model` is empty where samples came with the data."""

    id: str
    eval_id: str
    name: str
    status: RunStatus
    model: str
    data_source: str
    source_sha256: str | None
    metadata: str | None
    created_at: int
    error: str | None = None
    summary: str | None = None
    total: int = 0

    @property
    def ended(self) -> bool:
        """True if the run no longer changes."""
        return self.status not in _OPEN


@dataclass(frozen=True, slots=True)
class OutputItem:
    """The result of one row of the data. `body` is JSON."""

    number: int
    status: ItemStatus
    body: str
    created_at: int

    @property
    def id(self) -> str:
        """Name of the item within its run."""
        return f"outputitem_{self.number}"


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Number of a run's items by their status."""

    passed: int
    failed: int
    errored: int

    @property
    def total(self) -> int:
        """Number of all items."""
        return self.passed + self.failed + self.errored


_EVALS = [evals.c[name] for name in StoredEval.__dataclass_fields__]
_RUNS = [eval_runs.c[name] for name in StoredRun.__dataclass_fields__]
_ITEMS = [eval_output_items.c[name] for name in OutputItem.__dataclass_fields__]


class EvalStore:
    """Evaluations by tenant and id. Calls with an id raise `NotFound` if the tenant has no such evaluation, run or item."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database = database
        self._files = files

    async def create(self, tenant: Tenant, made: StoredEval) -> StoredEval:
        """Stores an evaluation."""
        values = {name: getattr(made, name) for name in StoredEval.__dataclass_fields__}

        def work(connection: Connection) -> StoredEval:
            connection.execute(sa.insert(evals).values(tenant=tenant, updated=_next(connection), **values))
            return made

        return await self._database.write(work)

    async def get(self, tenant: Tenant, id: str) -> StoredEval:
        """Returns an evaluation."""
        return await self._database.read(lambda connection: _find_eval(connection, tenant, id))

    async def list(
        self,
        tenant: Tenant,
        *,
        after: str | None,
        limit: int,
        order: Order,
        by: Literal["created_at", "updated_at"] = "created_at",
    ) -> Page[StoredEval]:
        """Returns one page of the tenant's evaluations."""
        query = sa.select(*_EVALS).where(evals.c.tenant == tenant)
        position = evals.c.seq if by == "created_at" else evals.c.updated

        def work(connection: Connection) -> Page[StoredEval]:
            page = page_of(connection, query, position, evals.c.id, after=after, limit=limit, order=order)
            return Page([StoredEval(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def update(self, tenant: Tenant, id: str, values: Mapping[str, Any]) -> StoredEval:
        """Changes name or metadata (JSON) of an evaluation."""

        def work(connection: Connection) -> StoredEval:
            _find_eval(connection, tenant, id)
            mine = (evals.c.tenant == tenant) & (evals.c.id == id)
            connection.execute(sa.update(evals).where(mine).values(updated=_next(connection), **values))
            return _find_eval(connection, tenant, id)

        return await self._database.write(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes an evaluation with its runs, which end."""

        def work(connection: Connection) -> list[str]:
            _find_eval(connection, tenant, id)
            mine = (eval_runs.c.tenant == tenant) & (eval_runs.c.eval_id == id)
            hashes = [
                sha256
                for run in connection.scalars(sa.select(eval_runs.c.id).where(mine)).all()
                if (sha256 := _delete_run(connection, tenant, run)) is not None
            ]
            connection.execute(sa.delete(evals).where(evals.c.tenant == tenant, evals.c.id == id))
            return hashes

        await self._files.release(await self._database.free(work))

    async def create_run(
        self, tenant: Tenant, run: StoredRun, *, file_id: str | None = None, payload: str = "{}"
    ) -> StoredRun:
        """Stores a run, and the durable job that does it. `file_id`: the file whose bytes it needs.

        Raises:
            TooManyRuns: the tenant has too many that have not ended.
        """

        def work(connection: Connection) -> StoredRun:
            _find_eval(connection, tenant, run.eval_id)
            own = sa.select(sa.func.count()).where(
                eval_runs.c.tenant == tenant, eval_runs.c.status.in_(_OPEN)
            )
            if (count := connection.execute(own).scalar_one()) >= MOST_OPEN:
                error = TooManyRuns(
                    f"{count} runs have not ended, and a tenant may have {MOST_OPEN}",
                    fix="wait until one has ended, or cancel it",
                )
                error.retry_after = 30
                raise error
            values = {name: getattr(run, name) for name in StoredRun.__dataclass_fields__}
            if file_id is not None:
                values["source_sha256"] = self._files.find(connection, tenant, file_id).sha256
            connection.execute(sa.insert(eval_runs).values(tenant=tenant, **values))
            insert_job(connection, tenant, EVAL_JOB, payload, id=run.id)
            return _find_run(connection, tenant, run.id)

        return await self._database.write(work)

    async def run(self, tenant: Tenant, id: str, eval_id: str | None = None) -> StoredRun:
        """Returns a run, which must be one of `eval_id` if that is given."""

        def work(connection: Connection) -> StoredRun:
            return _find_run(connection, tenant, id, eval_id)

        return await self._database.read(work)

    async def runs(
        self,
        tenant: Tenant,
        eval_id: str,
        *,
        after: str | None,
        limit: int,
        order: Order,
        status: RunStatus | None = None,
    ) -> Page[StoredRun]:
        """Returns one page of an evaluation's runs."""
        query = sa.select(*_RUNS).where(eval_runs.c.tenant == tenant, eval_runs.c.eval_id == eval_id)
        if status is not None:
            query = query.where(eval_runs.c.status == status)

        def work(connection: Connection) -> Page[StoredRun]:
            _find_eval(connection, tenant, eval_id)
            page = page_of(
                connection, query, eval_runs.c.seq, eval_runs.c.id, after=after, limit=limit, order=order
            )
            return Page([StoredRun(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def begin(self, tenant: Tenant, id: str, total: int) -> StoredRun:
        """Starts a queued run of `total` rows."""
        return await self._move(tenant, id, ("queued",), {"status": "in_progress", "total": total})

    async def record(self, tenant: Tenant, id: str, item: OutputItem) -> RunStatus:
        """Stores the result of a row that has none yet. Returns the run's status, which tells whether to go on."""

        def work(connection: Connection) -> RunStatus:
            run = _find_run(connection, tenant, id, lock=True)
            known = sa.select(eval_output_items.c.number).where(
                eval_output_items.c.tenant == tenant,
                eval_output_items.c.run_id == id,
                eval_output_items.c.number == item.number,
            )
            if run.status == "in_progress" and connection.execute(known).first() is None:
                values = {name: getattr(item, name) for name in OutputItem.__dataclass_fields__}
                connection.execute(sa.insert(eval_output_items).values(tenant=tenant, run_id=id, **values))
            return run.status

        return await self._database.write(work)

    async def end(
        self,
        tenant: Tenant,
        id: str,
        status: Literal["completed", "failed"],
        *,
        error: str | None = None,
        summary: str | None = None,
    ) -> StoredRun:
        """Ends a run. `error` and `summary` are JSON."""
        run = await self._move(tenant, id, _OPEN, {"status": status, "error": error, "summary": summary})
        await self._release(tenant, run)
        return run

    async def cancel_run(self, tenant: Tenant, id: str, eval_id: str | None = None) -> StoredRun:
        """Ends a run; its worker, if it has one, stops with the rows under way.

        Raises:
            InvalidRequest: the run has ended.
        """

        def work(connection: Connection) -> StoredRun:
            run = _find_run(connection, tenant, id, eval_id, lock=True)
            if run.status == "canceled":
                return run
            if run.ended:
                raise InvalidRequest(
                    f"the run {id!r} is {run.status} and cannot be cancelled",
                    fix="only a run that is queued or in progress can be",
                )
            mine = (jobs.c.tenant == tenant) & (jobs.c.id == id)
            connection.execute(
                sa.update(jobs).where(mine, jobs.c.status == "running").values(cancel_requested=True)
            )
            connection.execute(
                sa.update(jobs)
                .where(mine, jobs.c.status == "queued")
                .values(status="cancelled", cancel_requested=True, finished_at=int(shared_time()))
            )
            return _change_run(connection, tenant, id, {"status": "canceled"})

        run = await self._database.write(work)
        await self._release(tenant, run)
        return run

    async def delete_run(self, tenant: Tenant, id: str, eval_id: str) -> None:
        """Deletes a run with its items; one under way ends."""

        def work(connection: Connection) -> str | None:
            _find_run(connection, tenant, id, eval_id)
            return _delete_run(connection, tenant, id)

        sha256 = await self._database.free(work)
        if sha256 is not None:
            await self._files.release([sha256])

    async def done(self, tenant: Tenant, id: str) -> set[int]:
        """Returns the numbers of the rows that have a result."""
        query = sa.select(eval_output_items.c.number).where(_of_run(tenant, id))
        return await self._database.read(lambda connection: set(connection.scalars(query)))

    async def counts(self, tenant: Tenant, ids: Iterable[str]) -> dict[str, RunCounts]:
        """Returns the counts of some runs' items."""
        wanted = list(ids)
        query = (
            sa.select(eval_output_items.c.run_id, eval_output_items.c.status, sa.func.count())
            .where(eval_output_items.c.tenant == tenant, eval_output_items.c.run_id.in_(wanted))
            .group_by(eval_output_items.c.run_id, eval_output_items.c.status)
        )

        def work(connection: Connection) -> dict[str, RunCounts]:
            found: Counter[tuple[str, str]] = Counter()
            for run, status, count in connection.execute(query):
                found[run, status] = count
            return {id: RunCounts(found[id, "pass"], found[id, "fail"], found[id, "error"]) for id in wanted}

        return await self._database.read(work)

    async def item(self, tenant: Tenant, run_id: str, item_id: str) -> OutputItem:
        """Returns an item of a run."""
        digits = item_id.removeprefix("outputitem_")
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else -1
        query = sa.select(*_ITEMS).where(_of_run(tenant, run_id), eval_output_items.c.number == number)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None or item_id != f"outputitem_{number}":
            raise NotFound(f"there is no output item {item_id!r}", fix="list those of the run")
        return OutputItem(**row._mapping)

    async def items(
        self,
        tenant: Tenant,
        run_id: str,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Order = "asc",
        passed: bool | None = None,
    ) -> Page[OutputItem]:
        """Returns one page of a run's items. `passed`: only those that did, or did not; None: all."""
        columns = eval_output_items.c
        query = sa.select(*_ITEMS).where(_of_run(tenant, run_id))
        if passed is not None:
            query = query.where(columns.status == "pass" if passed else columns.status != "pass")
        if after is not None:
            cursor = (await self.item(tenant, run_id, after)).number
            query = query.where(columns.number > cursor if order == "asc" else columns.number < cursor)
        query = query.order_by(columns.number if order == "asc" else columns.number.desc()).limit(limit + 1)

        def work(connection: Connection) -> Page[OutputItem]:
            rows = [OutputItem(**row._mapping) for row in connection.execute(query)]
            return Page(rows[:limit], len(rows) > limit)

        return await self._database.read(work)

    async def bodies(self, tenant: Tenant, run_id: str) -> AsyncGenerator[Sequence[str]]:
        """Yields the bodies of all items of a run, some at a time, for sums over them."""
        number = eval_output_items.c.number
        query = sa.select(number, eval_output_items.c.body).where(_of_run(tenant, run_id)).order_by(number)
        last = -1
        while True:
            some = query.where(number > last).limit(_ROWS)
            rows = await self._database.read(lambda connection, some=some: connection.execute(some).all())
            if not rows:
                return
            last = rows[-1].number
            yield [row.body for row in rows]

    async def _move(
        self, tenant: Tenant, id: str, before: Sequence[str], values: Mapping[str, Any]
    ) -> StoredRun:
        def work(connection: Connection) -> StoredRun:
            run = _find_run(connection, tenant, id, lock=True)
            return _change_run(connection, tenant, id, values) if run.status in before else run

        return await self._database.write(work)

    async def _release(self, tenant: Tenant, run: StoredRun) -> None:
        """Lets go of the bytes of a run that has ended."""
        if run.source_sha256 is None:
            return
        await self._database.write(
            lambda connection: _change_run(connection, tenant, run.id, {"source_sha256": None})
        )
        await self._files.release([run.source_sha256])


def new_id(kind: str) -> str:
    """Returns an id of its own for an evaluation ("eval") or a run ("evalrun")."""
    return f"{kind}_{uuid.uuid4().hex[:32]}"


def metadata_of(text: str | None) -> dict[str, str] | None:
    """Returns stored metadata."""
    return None if text is None else json.loads(text)


def _next(connection: Connection) -> int:
    return connection.execute(sa.select(sa.func.coalesce(sa.func.max(evals.c.updated), 0) + 1)).scalar_one()


def _of_run(tenant: Tenant, id: str) -> sa.ColumnElement[bool]:
    return (eval_output_items.c.tenant == tenant) & (eval_output_items.c.run_id == id)


def _find_eval(connection: Connection, tenant: Tenant, id: str) -> StoredEval:
    query = sa.select(*_EVALS).where(evals.c.tenant == tenant, evals.c.id == id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"there is no eval {id!r}", fix="it was never made, or deleted: list the evals")
    return StoredEval(**row._mapping)


def _find_run(
    connection: Connection, tenant: Tenant, id: str, eval_id: str | None = None, *, lock: bool = False
) -> StoredRun:
    query = sa.select(*_RUNS).where(eval_runs.c.tenant == tenant, eval_runs.c.id == id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None or (eval_id is not None and row.eval_id != eval_id):
        raise NotFound(f"there is no run {id!r}", fix="it was never made, or deleted: list the eval's runs")
    return StoredRun(**row._mapping)


def _change_run(connection: Connection, tenant: Tenant, id: str, values: Mapping[str, Any]) -> StoredRun:
    mine = (eval_runs.c.tenant == tenant) & (eval_runs.c.id == id)
    connection.execute(sa.update(eval_runs).where(mine).values(dict(values)))
    return _find_run(connection, tenant, id)


def _delete_run(connection: Connection, tenant: Tenant, id: str) -> str | None:
    """Deletes a run with its items and its durable job. Returns the hash of the bytes that it kept."""
    mine = (eval_runs.c.tenant == tenant) & (eval_runs.c.id == id)
    connection.execute(sa.delete(eval_output_items).where(_of_run(tenant, id)))
    connection.execute(
        sa.delete(jobs).where(jobs.c.tenant == tenant, jobs.c.id == id, jobs.c.kind == EVAL_JOB)
    )
    return connection.scalars(sa.delete(eval_runs).where(mine).returning(eval_runs.c.source_sha256)).one()
