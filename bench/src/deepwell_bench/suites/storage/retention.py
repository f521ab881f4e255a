"""A store under constant load whose retention is a minute: it stops growing, and nothing younger goes."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import NotFound
from deepwell.settings import Settings
from deepwell.storage.completions import CompletionStore, StoredCompletion
from deepwell.storage.conversations import ConversationStore, Item, StoredConversation
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.responses import ResponseStore, StoredResponse
from deepwell.storage.retention import Retention, RetentionPolicy
from deepwell.storage.tables import completions, conversations, files, jobs, responses

__all__ = ["bench_retention"]

_TABLES = (responses, completions, conversations, files, jobs)
_BODY_BYTES = 4096
_CHAIN = 8  # responses that build on each other
_LOOKED_AT = 20  # objects that are fetched at each sample
_MARGIN_S = 2.0  # times are whole seconds, and a fetch takes a moment


class _Load:
    """Objects of every kind, made at a constant rate, and the youngest of them by age."""

    def __init__(self, database: Database, store: FileStore, rate: float) -> None:
        self._responses = ResponseStore(database)
        self._completions = CompletionStore(database)
        self._conversations = ConversationStore(database)
        self._jobs = JobStore(database)
        self._files = store
        self._rate = rate
        self._random = random.Random(6)  # noqa: S311
        self._chain: tuple[str | None, int] = (None, 0)
        self.made = 0
        self.waits_s: list[float] = []
        self.young: deque[tuple[float, Callable[[], Awaitable[object]]]] = deque()

    async def run(self, until: float) -> None:
        """Makes objects up to that moment. What was late is not made up for: the rate never exceeds its bound."""
        makers = (self._response, self._completion, self._conversation, self._file, self._job)
        due = time.monotonic()
        while (now := time.monotonic()) < until:
            await asyncio.sleep(max(due - now, 0))
            due = max(due, now) + 1 / self._rate
            at, before = time.time(), time.perf_counter()
            look = await makers[self.made % len(makers)]()
            self.waits_s.append(time.perf_counter() - before)
            self.made += 1
            self.young.append((at, look))

    def _text(self) -> str:
        return '{"text":"' + self._random.randbytes(_BODY_BYTES // 2).hex() + '"}'

    async def _response(self) -> Callable[[], Awaitable[object]]:
        before, length = self._chain
        id = f"resp_{uuid.uuid4().hex}"
        made = StoredResponse(id, int(time.time()), "completed", "[]", self._text(), before)
        await self._responses.put(LOCAL, made)
        self._chain = (None, 0) if length + 1 == _CHAIN else (id, length + 1)
        return lambda: self._responses.get(LOCAL, id)

    async def _completion(self) -> Callable[[], Awaitable[object]]:
        id = f"chatcmpl-{uuid.uuid4().hex}"
        made = StoredCompletion(id, int(time.time()), "m", "[]", self._text(), {"key": "value"})
        await self._completions.create(LOCAL, made)
        return lambda: self._completions.get(LOCAL, id)

    async def _conversation(self) -> Callable[[], Awaitable[object]]:
        id = f"conv_{uuid.uuid4().hex}"
        items = [Item(f"item_{number}", self._text()) for number in range(3)]
        await self._conversations.create(LOCAL, StoredConversation(id, int(time.time()), "{}"), items)
        return lambda: self._conversations.get(LOCAL, id)

    async def _file(self) -> Callable[[], Awaitable[object]]:
        draft = await asyncio.to_thread(self._files.draft)
        draft.write(self._random.randbytes(_BODY_BYTES))
        made = await self._files.create(LOCAL, filename="f", purpose="user_data", content=draft)
        return lambda: self._files.get(LOCAL, made.id)

    async def _job(self) -> Callable[[], Awaitable[object]]:
        made = await self._jobs.enqueue(LOCAL, "bench", self._text())
        taken = await self._jobs.claim(["bench"], "bench", 60)
        if taken is not None:
            await self._jobs.finish(taken, "succeeded", result="{}")
        return lambda: self._jobs.get(LOCAL, made.id)


def bench_retention(
    report: Report, *, seconds: float = 480.0, retention_s: float = 60.0, rate: float = 25.0
) -> dict[str, Any]:
    """Writes `rate` objects a second for `seconds`, removes those older than `retention_s`, and watches what is stored.

    The database is where servers have theirs (`data_dir`; WAL, `synchronous=FULL`), and is swept as often as a server does.
    """
    where = Settings.load().data_dir
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-retention-", dir=where) as folder:
        return asyncio.run(_measure(report, Path(folder), seconds, retention_s, rate))


async def _measure(
    report: Report, folder: Path, seconds: float, retention_s: float, rate: float
) -> dict[str, Any]:
    database = Database.open(folder / "deepwell.db")
    store = FileStore(database, folder / "files")
    every_s = max(retention_s / 4, 1.0)
    policy = RetentionPolicy(*[retention_s] * 6)
    retention = Retention(database, store, policy)
    load = _Load(database, store, rate)
    began = time.monotonic()
    loading = asyncio.create_task(load.run(began + seconds))
    samples: list[tuple[float, int, int]] = []
    removed = missing = looked = overdue = 0
    try:
        while not loading.done():
            await asyncio.wait((loading,), timeout=every_s)
            removed += sum((await retention.sweep()).values())
            found, gone = await _look(load, retention_s)
            looked, missing = looked + found, missing + gone
            before = int(time.time() - retention_s - 2 * every_s)
            overdue += await database.read(lambda connection, before=before: _older(connection, before))
            samples.append((time.monotonic() - began, await database.read(_rows), _bytes(folder)))
        await loading
    finally:
        loading.cancel()
        database.close()
    return _told(report, samples, load, retention_s) | {
        "removed": removed,
        "overdue": overdue,
        "looked_at": looked,
        "younger_missing": missing,
        "seconds": seconds,
        "retention_seconds": retention_s,
    }


async def _look(load: _Load, retention_s: float) -> tuple[int, int]:
    """Fetches some of the objects that are not too old; returns how many, and how many were not there."""
    while load.young and load.young[0][0] < time.time() - retention_s + _MARGIN_S:
        load.young.popleft()
    young = list(load.young)
    missing = 0
    for _, fetch in (
        young[: _LOOKED_AT // 2] + young[-_LOOKED_AT // 2 :]
    ):  # the oldest of them, and the newest
        try:
            await fetch()
        except NotFound:
            missing += 1
    return min(len(young), _LOOKED_AT), missing


def _rows(connection: sa.Connection) -> int:
    counts = [
        connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in _TABLES
    ]
    return sum(counts)


def _older(connection: sa.Connection, before: int) -> int:
    """Returns the number of objects that should have been removed, apart from responses that younger ones build on."""
    found = 0
    for table in _TABLES[1:]:
        query = sa.select(sa.func.count()).select_from(table).where(table.c.created_at < before)
        found += connection.execute(query).scalar_one()
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _told(
    report: Report, samples: list[tuple[float, int, int]], load: _Load, retention_s: float
) -> dict[str, Any]:
    """Compares the last third of the steady time with its first third."""
    steady = [one for one in samples if one[0] > 2 * retention_s] or samples
    third = max(len(steady) // 3, 1)
    first, last = steady[:third], steady[-third:]

    def growth(place: int) -> float:
        return max(one[place] for one in last) / max(one[place] for one in first)

    waits_s = sorted(load.waits_s)
    report.table(
        "A store under constant load",
        ("at s", "rows", "MB"),
        [
            (f"{at:.0f}", rows, f"{size / 1e6:.1f}")
            for at, rows, size in samples[:: max(len(samples) // 12, 1)]
        ],
    )
    return {
        "row_growth": rounded(growth(1)),
        "byte_growth": rounded(growth(2)),
        "rows": last[-1][1],
        "bytes": last[-1][2],
        "made": load.made,
        "write_p50_ms": rounded(waits_s[len(waits_s) // 2] * 1e3),
        "write_p99_ms": rounded(waits_s[int(len(waits_s) * 0.99)] * 1e3),
    }
