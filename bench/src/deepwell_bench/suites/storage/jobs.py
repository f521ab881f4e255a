"""Durable jobs on SQLite: how many of their transitions a second are on the disk when the call returns."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell.settings import Settings
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.jobs import JobStore

__all__ = ["bench_jobs"]

_KIND = "bench"
_PAYLOAD = '{"input_file_id":"file-0123456789abcdef","endpoint":"/v1/chat/completions"}'
_PROGRESS = '{"completed":17,"failed":0,"total":500}'
_LEASE_S = 30.0


def bench_jobs(report: Report, *, jobs: int = 3000, workers: int = 8, rounds: int = 5) -> dict[str, Any]:
    """Counts transitions a second of a queue that `workers` tasks empty; each job is claimed, beaten and finished once.

    Every round has a new database where servers have theirs (`data_dir`; WAL, `synchronous=FULL`). A claim, a heartbeat and
    a finish are a transition each: a change of one row, committed before the call returns. Beside it, two processes.
    """
    alone: list[float] = []
    enqueued: list[float] = []
    shared: list[float] = []
    where = Settings.load().data_dir
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-jobs-", dir=where) as folder:
        report.note(
            f"{jobs} jobs, {workers} workers, fsync of 4 kB takes {_fsync_ms(Path(folder)):.2f} ms here"
        )
        for number in range(rounds):
            filling, seconds = asyncio.run(_one_process(Path(folder) / f"{number}.db", jobs, workers))
            enqueued.append(jobs / filling)
            alone.append(3 * jobs / seconds)
            shared.append(3 * jobs / _two_processes(Path(folder) / f"{number}-two.db", jobs, workers))
    report.table(
        "Job transitions a second, SQLite, synchronous=FULL",
        ("", "median", "least", "most"),
        [
            ("claim, heartbeat, finish; one process", median(alone), min(alone), max(alone)),
            ("the same; two processes on one file", median(shared), min(shared), max(shared)),
            ("enqueue; one process", median(enqueued), min(enqueued), max(enqueued)),
        ],
    )
    return {
        "transitions_per_second": rounded(median(alone)),
        "least": rounded(min(alone)),
        "two_processes": rounded(median(shared)),
        "enqueued_per_second": rounded(median(enqueued)),
        "jobs": jobs,
        "workers": workers,
        "rounds": rounds,
        "synchronous": "FULL",
    }


async def _one_process(path: Path, jobs: int, workers: int) -> tuple[float, float]:
    """Returns the seconds to fill the queue and to empty it."""
    database = Database.open(path)
    try:
        store = JobStore(database)
        began = time.perf_counter()
        await _fill(store, jobs, workers)
        filled = time.perf_counter()
        done = sum(await asyncio.gather(*(_work(store, f"w{number}") for number in range(workers))))
        emptied = time.perf_counter()
        await _check(store, done, jobs)
    finally:
        database.close()
    return filled - began, emptied - filled


def _two_processes(path: Path, jobs: int, workers: int) -> float:
    database = Database.open(path)
    try:
        store = JobStore(database)
        asyncio.run(_fill(store, jobs, workers))
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            list(pool.map(_ready, range(2)))
            began = time.perf_counter()
            done = sum(pool.map(_process, [path] * 2, range(2), [workers // 2] * 2))
            seconds = time.perf_counter() - began
        asyncio.run(_check(store, done, jobs))
    finally:
        database.close()
    return seconds


def _ready(_number: int) -> None:
    """Does nothing: importing this module in the new process is what takes time."""


def _process(path: Path, number: int, workers: int) -> int:
    database = Database.open(path)

    async def all_of_them() -> int:
        store = JobStore(database)
        return sum(await asyncio.gather(*(_work(store, f"p{number}w{worker}") for worker in range(workers))))

    try:
        return asyncio.run(all_of_them())
    finally:
        database.close()


async def _fill(store: JobStore, jobs: int, clients: int) -> None:
    async def client(count: int) -> None:
        for _ in range(count):
            await store.enqueue(LOCAL, _KIND, _PAYLOAD)

    await asyncio.gather(*(client(jobs // clients + (number < jobs % clients)) for number in range(clients)))


async def _work(store: JobStore, name: str) -> int:
    done = 0
    while (job := await store.claim([_KIND], name, _LEASE_S)) is not None:
        kept = await store.heartbeat(job, _LEASE_S, _PROGRESS)
        assert kept is not None
        assert await store.finish(kept, "succeeded", result=_PROGRESS)
        done += 1
    return done


async def _check(store: JobStore, done: int, jobs: int) -> None:
    page = await store.list(LOCAL, _KIND, limit=jobs)
    finished = sum(job.status == "succeeded" and job.attempts == 1 for job in page.data)
    if not done == finished == jobs:
        raise AssertionError(f"of {jobs} jobs {finished} are finished, and workers say {done}")


def _fsync_ms(folder: Path) -> float:
    times: list[float] = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times) * 1e3
