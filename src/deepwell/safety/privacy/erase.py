"""`Eraser`: erases a person from every place, as a durable job.

Every step commits its deletions with the progress of the job. A process that is killed loses nothing: the next eraser on the
same database, in the command line or in a server, takes the job over when it has been silent for `LEASE_S` seconds. At the
end, the job names nobody any more, the audit trail and the table `erasures` hold the counts, and freed pages are overwritten.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest
from deepwell.safety.audit.trail import now_ms
from deepwell.safety.privacy import rows
from deepwell.safety.privacy.attribution import Subject, attributed, parts
from deepwell.safety.privacy.file_lines import write_without
from deepwell.safety.privacy.ledger import LEASE_S, Change, EraseOvertaken, Ledger
from deepwell.safety.privacy.log_lines import drop_lines
from deepwell.safety.privacy.rounds import forget_votes
from deepwell.safety.privacy.trained import drop_results, drop_runs, erase_runs, erase_tunings
from deepwell.storage.clock import shared_time
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import Job, JobStore
from deepwell.storage.safety.audit import append_records, forget_tenant
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.tables import erasures, eval_runs, fine_tuning_jobs, jobs, vector_stores
from deepwell.storage.tuning.sessions import SESSION_JOB
from deepwell.storage.tuning.works import WORKS, database_id, owner_of

__all__ = ["Erased", "Eraser", "Hooks", "HostPlaces"]

_MOST_PASSES: Final = 10  # a server that still writes may add rows behind a pass
_POLL_S: Final = 0.2
SETTLE_S = 6.0
_SCRUB: Final = "scrub"


@dataclass(frozen=True, slots=True)
class HostPlaces:
    """Files of this host that are not in the database.

    Attributes:
        indexes: directory of the side indexes; None: there are none.
        access_log: file of the access log.
        chat_history: lines typed into `deepwell chat`, which are the tenant `local`'s.
        runs: directory of the folders of fine-tuning jobs.
        rounds: directory of the rounds of improvement, with a folder for each alias.
        models: directory of the model store, with the results of compressions.
    """

    indexes: Path | None = None
    access_log: Path | None = None
    chat_history: Path | None = None
    runs: Path | None = None
    rounds: Path | None = None
    models: Path | None = None


async def _nothing(*_given: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Hooks:
    """Work of other parts of the house.

    Attributes:
        refresh_index: brings the indexes of a vector store on this host up to the database.
        clear_caches: empties caches that are shared between servers.
    """

    refresh_index: Callable[[Tenant, str], Awaitable[Any]] = _nothing
    clear_caches: Callable[[], Awaitable[Any]] = _nothing


@dataclass(frozen=True, slots=True)
class Erased:
    """The proof of an erasure. It names nobody.

    Attributes:
        counts: rows and files removed, by place.
    """

    id: str
    scope: str
    requested_at: int
    finished_at: int
    counts: Mapping[str, int]


class Eraser:
    """Erases persons. Any number of processes may do so on one database.

    Attributes:
        overwritten: whether the last erasure overwrote the freed pages of the database.
    """

    def __init__(
        self,
        database: Database,
        files: FileStore,
        host: HostPlaces | None = None,
        hooks: Hooks | None = None,
        *,
        vacuum: bool = True,
        settle_s: float | None = None,
    ) -> None:
        """Opens the stores.

        Args:
            vacuum: whether SQLite's file is rewritten at the end. Other writers wait meanwhile.
            settle_s: time after which no server takes a revoked key, and no worker goes on with a deleted job. None: 6 s.
        """
        self.overwritten = False
        self._database = database
        self._files = files
        self._host = host or HostPlaces()
        self._hooks = hooks or Hooks()
        self._vacuum = vacuum
        self._settle_s = SETTLE_S if settle_s is None else settle_s
        self._jobs = JobStore(database)
        self._owner = f"{os.uname().nodename[:40]}/{os.getpid()}/{uuid.uuid4().hex[:8]}"

    async def request(self, subject: Subject) -> str:
        """Queues an erasure and returns its id; that of the same person which has not ended, if there is one.

        Raises:
            InvalidRequest: the tenant has no name.
        """
        if not subject.tenant:
            raise InvalidRequest("a person is a tenant, or an end user of one", fix="name the tenant")
        payload = json.dumps({"end_user": subject.end_user, "requested_at": int(shared_time())})
        mine = (jobs.c.tenant == subject.tenant) & (jobs.c.kind == rows.ERASE_JOB)

        def find(connection: Connection) -> str | None:
            open_ones = connection.execute(sa.select(jobs.c.id, jobs.c.payload).where(mine))
            return next(
                (row.id for row in open_ones if json.loads(row.payload).get("end_user") == subject.end_user),
                None,
            )

        found = await self._database.read(find)
        if found is not None:
            return found
        id = f"erase_{uuid.uuid4().hex}"
        return (await self._jobs.enqueue(subject.tenant, rows.ERASE_JOB, payload, id=id)).id

    async def erase(self, subject: Subject) -> Erased:
        """Erases a person, and finishes what other processes left. Returns when nothing is left."""
        id = await self.request(subject)
        while (found := await self.result(id)) is None or await self.is_open(id):
            if not await self.run_next():
                await asyncio.sleep(_POLL_S)
        # Another host may have run it. What this host has besides the database is found here alone.
        await forget_votes(self._database, self._host.rounds)
        await self._host_files(subject)
        if self._vacuum and not self.overwritten:
            self.overwritten = await asyncio.to_thread(self._database.scrub_now)
        return found

    async def result(self, id: str) -> Erased | None:
        """Returns the proof of an erasure that has ended, or None."""
        query = sa.select(erasures).where(erasures.c.id == id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return None
        counts: dict[str, int] = json.loads(row.counts)
        return Erased(row.id, row.scope, row.requested_at, row.finished_at, counts)

    async def run_next(self) -> bool:
        """Runs one erasure that is queued, or that another process left. Returns whether there was one."""
        job = await self._jobs.claim([rows.ERASE_JOB], self._owner, LEASE_S)
        if job is None:
            return False
        ledger = Ledger(self._database, job)
        beating = asyncio.create_task(_beat(ledger))
        try:
            await self._run(job, ledger)
        except EraseOvertaken:
            pass
        finally:
            beating.cancel()
            await asyncio.wait([beating])
        return True

    async def is_open(self, id: str) -> bool:
        """Returns whether an erasure is queued or under way. One that has a proof may still overwrite freed pages."""
        query = sa.select(jobs.c.id).where(jobs.c.id == id)
        return await self._database.read(lambda connection: connection.execute(query).first() is not None)

    async def _run(self, job: Job, ledger: Ledger) -> None:
        payload: dict[str, Any] = json.loads(job.payload)
        if payload.get("stage") != _SCRUB:
            subject = Subject(job.tenant, payload["end_user"])
            for _ in range(_MOST_PASSES):
                erase = self._erase_person if subject.end_user else self._erase_tenant
                if not await erase(subject, job, ledger):
                    break
            await self._hooks.clear_caches()
            await self._finish(subject, job, payload["requested_at"], ledger)
        if self._vacuum:
            self.overwritten = await asyncio.to_thread(self._database.scrub_now)
        await ledger.end()

    async def _erase_tenant(self, subject: Subject, job: Job, ledger: Ledger) -> int:
        """Makes one pass over every place of a tenant, and returns how many rows it removed."""
        busy = await self._database.read(lambda connection: rows.is_busy(connection, subject, self._settle_s))
        await ledger.write(lambda connection: rows.revoke_keys(connection, subject))
        await self._settle(subject, ledger)
        total = 0
        for table in rows.TENANT_TABLES:
            while (
                change := await ledger.write(
                    lambda connection, table=table: rows.erase_page(connection, table, subject, job.id)
                )
            ).rows:
                total += change.rows
                await self._settle(subject, ledger)
        total += (await ledger.write(lambda connection: rows.erase_extensions(connection, subject))).rows
        while (
            change := await ledger.write(lambda connection: rows.overwrite_keys(connection, subject))
        ).rows:
            total += change.rows
        await ledger.settle(await self._host_files(subject))
        await self._forget_votes(ledger)
        if busy:  # what was under way may have written behind this pass: the next one finds it
            await asyncio.sleep(self._settle_s)
            return total or 1
        return total

    async def _erase_person(self, subject: Subject, _job: Job, ledger: Ledger) -> int:
        """Makes one pass over every row that names an end user, and returns how many rows it removed."""
        await self._settle(subject, ledger)
        found = await attributed(self._database, self._files, subject)
        total = 0

        async def step(work: Callable[[Connection], Change]) -> None:
            nonlocal total
            total += (await ledger.write(work)).rows
            await self._settle(subject, ledger)

        # What names other objects goes last: a killed pass finds the rest by it.
        for part in parts(found.feedback):
            await step(lambda connection, part=part: rows.erase_feedback(connection, part))
        for id in found.conversations:
            await step(lambda connection, id=id: rows.erase_conversation(connection, subject, id))
        for part in parts(found.completions):
            await step(lambda connection, part=part: rows.erase_completions(connection, part))
        for part in parts(found.votes):
            await step(lambda connection, part=part: rows.erase_votes(connection, part))
        for part in parts(found.agents):
            await step(lambda connection, part=part: rows.erase_agents(connection, subject, part))
        for part in parts(found.eval_runs):
            await step(lambda connection, part=part: _made(erase_runs, connection, subject, eval_runs, part))
        for id in found.evals:
            await step(lambda connection, id=id: rows.erase_eval(connection, subject, id))
        for part in parts(found.tunings):
            await step(
                lambda connection, part=part: _made(
                    erase_tunings, connection, subject, fine_tuning_jobs, part
                )
            )
        for sha256, lines in found.lines.items():
            total += await self._cut(subject, ledger, sha256, lines.numbers)
        for id in found.answered_in:
            await step(lambda connection, id=id: rows.erase_lines(connection, subject, id))
        for id in found.files:
            await step(lambda connection, id=id: rows.erase_file(connection, subject, id))
        for id in found.batches:
            await step(lambda connection, id=id: rows.erase_batch(connection, subject, id))
        for id in found.stores:
            await step(lambda connection, id=id: rows.erase_store(connection, subject, id))
        for part in parts(found.responses):
            await step(lambda connection, part=part: rows.erase_responses(connection, subject, part))
        works = [*found.sessions, *found.works]
        for part in parts(works):
            await step(lambda connection, part=part: rows.erase_works(connection, subject, part))
        await self._forget_votes(ledger)
        if found.stores:
            await ledger.settle(await asyncio.to_thread(self._drop_indexes, await self._stores()))
        if found.files or found.tunings or found.lines or works:
            await asyncio.to_thread(drop_runs, self._host.runs, await self._runs())
            read, made_in = {*found.files, *found.cut_files}, set(works)
            dropped = await asyncio.to_thread(
                drop_results,
                self._host.models,
                lambda made: made.job in made_in or not read.isdisjoint(made.files),
            )
            await ledger.settle({"compressed_models": dropped})
        await ledger.settle(await self._host_files(subject))
        if found.answered_in and total:  # a worker that was answering lines may write behind this pass
            await asyncio.sleep(self._settle_s)
        return total

    async def _cut(self, subject: Subject, ledger: Ledger, sha256: str, numbers: frozenset[int]) -> int:
        """Takes an end user's lines out of bytes, which get another hash. Returns how many rows changed or went."""
        draft = await asyncio.to_thread(self._files.draft)
        try:
            await asyncio.to_thread(write_without, await self._files.local(sha256), draft, numbers)
            async with self._files.placing(draft):
                change = await ledger.write(
                    lambda connection: rows.cut_blob(
                        connection,
                        subject,
                        sha256,
                        self._files.place(connection, draft),
                        draft.bytes,
                        len(numbers),
                    )
                )
        finally:
            draft.discard()
        await self._settle(subject, ledger)
        return change.rows

    async def _settle(self, subject: Subject, ledger: Ledger) -> None:
        """Does what follows a commit: releases bytes, and brings indexes up to date. What was done twice is harmless."""
        if not ledger.blobs and not ledger.stores:
            return
        released = await self._files.erase(ledger.blobs)
        known = await self._stores()
        for store_id in ledger.stores:
            if store_id in known:
                await self._hooks.refresh_index(subject.tenant, store_id)
        await ledger.settle({"blobs": released})

    async def _forget_votes(self, ledger: Ledger) -> None:
        """Deletes copies of votes that are gone, also those that a killed pass left."""
        await ledger.settle({"improve_rounds": await forget_votes(self._database, self._host.rounds)})

    async def _stores(self) -> set[str]:
        query = sa.select(vector_stores.c.id)
        return set(await self._database.read(lambda connection: connection.scalars(query).all()))

    async def _runs(self) -> set[str]:
        sessions = sa.select(jobs.c.id).where(jobs.c.kind.in_([SESSION_JOB, *WORKS]))
        query = sa.select(fine_tuning_jobs.c.id).union_all(sessions)
        return set(await self._database.read(lambda connection: connection.scalars(query).all()))

    async def _host_files(self, subject: Subject) -> dict[str, int]:
        known = await self._stores(), await self._runs()
        database = await self._database.read(database_id)
        counts = await asyncio.to_thread(self._drop_files, subject, *known)
        if subject.end_user:
            return counts
        results = await asyncio.to_thread(
            drop_results,
            self._host.models,
            lambda made: made.owner == owner_of(database, subject.tenant, made.job),
        )
        return counts | ({"compressed_models": results} if results else {})

    def _drop_files(self, subject: Subject, stores: set[str], runs: set[str]) -> dict[str, int]:
        counts = self._drop_indexes(stores)
        counts["fine_tuning_runs"] = drop_runs(self._host.runs, runs)
        if self._host.access_log is not None:
            counts["access_log"] = drop_lines(self._host.access_log, subject, self._database.id)
        history = self._host.chat_history
        if history is not None and subject == Subject(LOCAL) and history.exists():
            history.unlink(missing_ok=True)
            counts["chat_history"] = 1
        return counts

    def _drop_indexes(self, stores: set[str]) -> dict[str, int]:
        """Deletes the side indexes of stores that are not there any more."""
        folder, count = self._host.indexes, 0
        if folder is not None and folder.is_dir():
            for path in folder.glob("vs_*"):
                if path.name not in stores:
                    shutil.rmtree(path, ignore_errors=True)
                    count += 1
        return {"side_indexes": count}

    async def _finish(self, subject: Subject, job: Job, requested_at: int, ledger: Ledger) -> None:
        """Unties the audit trail, writes the proof, and leaves a job that names nobody, in one commit."""
        counts = ledger.counts
        finished_at = int(shared_time())

        def work(connection: Connection) -> Change:
            mine = sa.select(erasures.c.seq).where(erasures.c.id == job.id)
            if connection.execute(mine).first() is not None:
                return Change()
            told = {"erasure": job.id, "scope": subject.scope, "counts": counts}
            append_records(connection, subject.tenant, [AuditRecord("erase", now_ms(), told)])
            if subject.end_user:
                ties = rows.erase_person_ties(connection, subject).counts
            else:
                ties = forget_tenant(connection, subject.tenant)
            proven = counts | {name: count for name, count in ties.items() if count}
            connection.execute(
                sa.insert(erasures).values(
                    id=job.id,
                    scope=subject.scope,
                    requested_at=requested_at,
                    finished_at=finished_at,
                    counts=json.dumps(proven),
                )
            )
            return Change()

        await ledger.write(work, tenant="", payload=json.dumps({"stage": _SCRUB}))


def _made(
    erase: Callable[[Connection, Tenant, sa.ColumnElement[bool]], tuple[dict[str, int], list[str]]],
    connection: Connection,
    subject: Subject,
    table: sa.Table,
    ids: Sequence[str],
) -> Change:
    """Deletes some rows of a table by their ids, with what belongs to them."""
    mine = (table.c.tenant == subject.tenant) & table.c.id.in_(ids)
    counts, hashes = erase(connection, subject.tenant, mine)
    return Change(counts, hashes)


async def _beat(ledger: Ledger) -> None:
    """Keeps the job while a long step runs."""
    while True:
        await asyncio.sleep(LEASE_S / 3)
        with suppress(Exception):  # the step itself meets what is wrong
            await ledger.beat()
