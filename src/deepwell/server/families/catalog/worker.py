"""Runs jobs that fetch models or look for new revisions: follows the process that does each."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Final

import msgspec

from deepwell.models.store.catalog import CatalogEntry
from deepwell.models.store.shapes import shipped_shapes
from deepwell.server.context import ServerContext
from deepwell.server.families.catalog.child import PullOrder
from deepwell.server.families.catalog.looking import LookOrder
from deepwell.server.families.catalog.updates import UPDATES_JOB, update_chores
from deepwell.server.families.job_worker import JobWorker, Work
from deepwell.server.options import CatalogOptions
from deepwell.storage.jobs.runner import JobOutcome, JobRun

__all__ = ["PULL_JOB", "payload_of", "pull_worker"]

PULL_JOB: Final = "model.pull"
"""Kind of the jobs that fetch a model."""

_PULLS = "deepwell.server.families.catalog.child"
_LOOKS = "deepwell.server.families.catalog.looking"
_MOST = 2  # at a time; one place is left to other tenants
_TELL_S = 1.0  # between two times that progress is written to the row
_MOST_LINE_BYTES = 1 << 20
_encode = msgspec.json.Encoder().encode


def payload_of(model: str) -> str:
    """Returns the payload of the job that fetches a model."""
    return _encode({"model": model}).decode()


def pull_worker(context: ServerContext, _app: object = None) -> JobWorker:
    """Returns what fetches models and looks for new revisions. Bytes that were received at its stop are kept."""
    assert context.options.catalog is not None  # the family is off without one
    works = [Work([PULL_JOB, UPDATES_JOB], _Children(context, context.options.catalog).run, _MOST)]
    return JobWorker(context, works, update_chores(context, context.options.catalog))


class _Children:
    """The processes that do the work."""

    def __init__(self, context: ServerContext, options: CatalogOptions) -> None:
        self._context = context
        self._options = options
        self._lease_s = context.options.files.job_lease_s

    async def run(self, run: JobRun) -> JobOutcome:
        if run.cancelled.is_set():
            return JobOutcome("cancelled")
        if run.job.kind == UPDATES_JOB:
            settings = self._options.settings
            entries = dict(self._options.catalog or {})
            child = await self._start(_LOOKS, LookOrder(str(settings.models_dir), settings.offline, entries))
        else:
            name: str = msgspec.json.decode(run.job.payload)["model"]
            entry = self._options.entries.get(name)
            if entry is None:
                return JobOutcome("failed", error=f"this server's catalog has no {name!r}")
            child = await self._start(_PULLS, self._pull_order(entry))
        following = asyncio.create_task(self._follow(run, child))
        stopping = asyncio.create_task(run.cancelled.wait())
        try:
            await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
            return following.result() if following.done() else JobOutcome("cancelled")
        finally:
            for task in (following, stopping):
                task.cancel()
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.wait((following, stopping))
            await child.communicate()  # closes its pipes, and waits for its end

    def _pull_order(self, entry: CatalogEntry) -> PullOrder:
        settings = self._options.settings
        shape = shipped_shapes().get(entry.name) if self._options.catalog is None else None
        total_bytes = None if shape is None else shape.download_bytes
        return PullOrder(str(settings.models_dir), entry, settings.offline, total_bytes)

    async def _start(self, module: str, order: PullOrder | LookOrder) -> asyncio.subprocess.Process:
        path = [one or os.getcwd() for one in sys.path]  # noqa: PTH109
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MOST_LINE_BYTES,
            # With this process's own environment: proxies, mirrors and HF_TOKEN are set there
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,
        )
        assert child.stdin is not None
        child.stdin.write(_encode(order) + b"\n")
        with suppress(ConnectionError):
            await child.stdin.drain()
        return child

    async def _follow(self, run: JobRun, child: asyncio.subprocess.Process) -> JobOutcome:
        """Reads what the process tells until it ends."""
        assert child.stdout is not None
        told = float("-inf")
        while line := await child.stdout.readline():
            message: dict[str, Any] = msgspec.json.decode(line)
            if "progress" in message:
                run.progress = _encode(message["progress"]).decode()
                if time.monotonic() - told >= _TELL_S:
                    told = time.monotonic()
                    await self._beat(run)
                continue
            await self._beat(run)
            if "error" in message:
                store = f"{self._options.settings.models_dir}/"  # where it lies is nobody's business
                return JobOutcome("failed", error=str(message["error"]).replace(store, ""))
            return JobOutcome("succeeded", result=_encode(message["result"]).decode())
        return JobOutcome("failed", error="the process that did the work ended early: ask for it again")

    async def _beat(self, run: JobRun) -> None:
        """Writes the progress to the row, and learns whether somebody asked for the end."""
        now = await self._context.state.jobs.heartbeat(run.job, self._lease_s, run.progress)
        if now is not None and now.cancel_requested:
            run.cancelled.set()
