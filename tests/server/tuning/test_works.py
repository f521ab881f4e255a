"""`WorkRun`: a claim outlives a database that is busy for a moment, and a full disk ends it with its reason."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from deepwell.errors import StorageError
from deepwell.server.families.fine_tuning.works.following import WorkRun
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
    what = "work"
    full = False

    def module(self) -> tuple[str, ...]:
        return (sys.executable, "-S", "-c", """print('{"event": "done", "made": 1}')""")

    async def config(self) -> Any:
        if self.full:
            raise FULL
        return {}

    def take(self, event: dict[str, Any]) -> None:
        pass

    async def publish(self, told: dict[str, Any]) -> Any:
        return told["made"]

    def clear(self) -> None:
        pass


async def ended(folder: Path, *, full: bool = False) -> JobOutcome:
    payload = msgspec.json.encode(WorkPayload({})).decode()
    none: Any = None
    job = Job(
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
    options = SimpleNamespace(
        tuning=SimpleNamespace(folder=folder / "runs"), files=SimpleNamespace(job_lease_s=9.0), catalog=None
    )
    context: Any = SimpleNamespace(options=options, state=SimpleNamespace(folder=folder, jobs=Busy()))
    work = Plain(context, JobRun(job), None)
    work.full = full
    return await work.go()


async def test_a_busy_database_does_not_end_the_work(tmp_path: Path) -> None:
    assert await ended(tmp_path) == JobOutcome("succeeded", result="1")


async def test_a_full_disk_ends_the_work_with_its_reason(tmp_path: Path) -> None:
    outcome = await ended(tmp_path, full=True)
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
