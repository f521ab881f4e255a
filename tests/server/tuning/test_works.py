"""`WorkRun`: a claim outlives a database that is busy for a moment, and a full disk ends it with its reason."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest

from deepwell.errors import StorageError
from deepwell.server.families.fine_tuning.works.following import WorkRun
from deepwell.server.observe.jobs import traced
from deepwell.server.observe.observer import Observer
from deepwell.server.observe.tracing import Tracer
from deepwell.storage.database import LOCAL
from deepwell.storage.jobs import Job
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.tuning.works import COMPRESS_JOB, WorkPayload
from deepwell.tuning.train.worker import MISTAKE

FULL = OSError(errno.ENOSPC, "No space left on device")


class Busy:
    """Jobs of a database that cannot be written."""

    async def heartbeat(self, *_: Any) -> None:
        raise StorageError("the database is busy")


class Plain(WorkRun):
    taken: asyncio.Queue[dict[str, Any]]
    what = "work"
    full = False
    program = """print('{"event": "done", "made": 1}')"""
    copies: ClassVar = {"text.txt": "text_file"}

    def module(self) -> tuple[str, ...]:
        return (sys.executable, "-S", "-c", self.program)

    async def config(self) -> Any:
        if self.full:
            raise FULL
        return {}

    def take(self, event: dict[str, Any]) -> None:
        self.taken.put_nowait(event)

    async def publish(self, told: dict[str, Any]) -> Any:
        return told["made"]

    def clear(self) -> None:
        pass

    @property
    def progress(self) -> str:
        return self._run.progress or ""


def compression() -> Job:
    payload = msgspec.json.encode(WorkPayload({"text_file": "file-1"})).decode()
    none: Any = None
    return Job(
        id="cmpjob-1",
        tenant=LOCAL,
        kind=COMPRESS_JOB,
        status="running",
        payload=payload,
        progress=none,
        result=none,
        error=none,
        attempts=1,
        priority=0,
        created_at=1,
        started_at=1,
        finished_at=none,
        owner="me",
        lease_until=none,
        cancel_requested=False,
    )


def work_in(folder: Path) -> Plain:
    options = SimpleNamespace(
        tuning=SimpleNamespace(folder=folder / "runs"), files=SimpleNamespace(job_lease_s=9.0), catalog=None
    )
    context: Any = SimpleNamespace(options=options, state=SimpleNamespace(folder=folder, jobs=Busy()))
    work = Plain(context, JobRun(compression()), None)
    work.taken = asyncio.Queue()
    return work


async def test_a_busy_database_does_not_end_the_work(tmp_path: Path) -> None:
    assert await work_in(tmp_path).go() == JobOutcome("succeeded", result="1")


async def test_a_process_ends_with_its_claim_however_often_that_is_cancelled(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    work.program = (
        'import os, time; print(\'{"event": "pid", "pid": %d}\' % os.getpid(), flush=True); time.sleep(60)'
    )
    claim = asyncio.create_task(work.go())
    pid = (await work.taken.get())["pid"]
    for _ in range(2):  # the lease is lost while the row is looked at
        claim.cancel()
        await asyncio.sleep(0)
    await asyncio.wait((claim,))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_error_names_files_by_their_ids_and_no_place_of_the_host(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    path = tmp_path / "runs" / "cmpjob-1" / "text.txt"
    event = {"event": "error", "code": "InvalidRequest", "message": f"{path} is odd, text.txt"}
    told = json.dumps(event | {"message_zh": f"{path}不对，文件text.txt有误"})
    work.program = f"print({told!r}); raise SystemExit(2)"
    outcome = await work.go()
    assert outcome == JobOutcome("failed", error="file-1 is odd, file-1")
    [shown] = json.loads(work.progress)["events"]
    assert (shown["message"], shown["message_zh"]) == ("file-1 is odd, file-1", "file-1不对，文件file-1有误")


async def test_a_full_disk_ends_the_work_with_its_reason(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    work.full = True
    outcome = await work.go()
    assert outcome.status == "failed" and "cmpjob-1 is full" in (outcome.error or "")
    assert str(tmp_path) not in (outcome.error or "")


def test_a_full_disk_is_told_by_the_process(tmp_path: Path) -> None:
    code = (
        "import sys; from deepwell.tuning.train.worker import main\n"
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        f"sys.exit(main([{str(tmp_path / 'cmpjob-1')!r}], full))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, told["code"], told["event"]) == (MISTAKE, "disk_full", "error")


async def test_a_claim_is_a_trace_of_its_steps() -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter)
    observer = Observer([tracer], traces=True, on_close=[tracer.close])

    async def work(run: JobRun) -> JobOutcome:
        for step in ("measure", "prune", "prune", "measure"):
            run.step(step)
        return JobOutcome("succeeded")

    async def stop(_run: JobRun) -> JobOutcome:
        raise asyncio.CancelledError

    assert await traced(observer, work)(JobRun(compression())) == JobOutcome("succeeded")
    with pytest.raises(asyncio.CancelledError):
        await traced(observer, stop)(JobRun(compression()))
    observer.close()
    spans = exporter.get_finished_spans()
    whole, returned = (one for one in spans if one.parent is None)
    assert [one.name for one in spans if one.parent is not None] == ["measure", "prune", "measure"]
    assert whole.name == returned.name == "run_job compression"
    assert dict(whole.attributes or {}) == {
        "gen_ai.operation.name": "run_job",
        "deepwell.job.id": "cmpjob-1",
        "deepwell.job.kind": "compression",
        "deepwell.job.status": "succeeded",
        "deepwell.tenant": LOCAL,
    }
    assert dict(returned.attributes or {})["deepwell.job.status"] == "returned"
