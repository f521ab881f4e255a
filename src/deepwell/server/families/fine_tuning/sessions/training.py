"""`SessionTraining`: one run of a job that trains an adapter on a conversation."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from deepwell.errors import DeepwellError
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.child import STOPPED, TrainingChild, default_command
from deepwell.server.families.fine_tuning.configured import CONFIG_NAME, training_threads
from deepwell.server.families.fine_tuning.models import TunedModels
from deepwell.server.families.fine_tuning.sessions.adapters import SessionAdapters, session_folder
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.tuning.sessions import SessionPayload, SessionStore
from deepwell.tuning.train.config import session_config

__all__ = ["SessionTraining"]

_log = logging.getLogger("deepwell.server")
_MOST_ATTEMPTS = 3
_DATA_NAME = "turns.jsonl"


class SessionTraining:
    """One claim of a job. A server that stops leaves the folder to the next one."""

    def __init__(
        self,
        context: ServerContext,
        models: TunedModels,
        adapters: SessionAdapters,
        run: JobRun,
        command: Sequence[str] | None,
    ) -> None:
        self._context = context
        self._models = models
        self._adapters = adapters
        self._run = run
        self._command = command or default_command()
        self._folder = session_folder(context, run.job.id)

    async def go(self) -> JobOutcome:
        """Trains, loads the adapter, and takes the text out of the job and off the disk."""
        began = time.monotonic()
        job = self._run.job
        payload = msgspec.json.decode(job.payload, type=SessionPayload)
        base = self._models.base_of(payload.model)
        if base is None or payload.records is None or job.attempts > _MOST_ATTEMPTS:
            return await self._failed(f"the model {payload.model!r} is not served, or its training died")
        path = base.codec.path
        model = payload.model if path is None else str(path)
        await asyncio.to_thread(self._configure, payload.records, model)
        said = await self._train()
        if self._run.cancelled.is_set():
            return await self._failed("it was cancelled", cancelled=True)
        if said.get("event") != "done":
            return await self._failed(str(said.get("message") or "the training ended early"))
        try:
            await self._adapters.publish(base, job.tenant, job.id)
        except DeepwellError as error:
            return await self._failed(error.message)
        await asyncio.to_thread(_thin, self._folder)
        await SessionStore(self._context.state.database).forget_text(job.tenant, job.id)
        seconds = time.monotonic() - began
        self._context.metrics.contexts.adapter_seconds.observe(seconds)
        size = await asyncio.to_thread(_bytes, self._folder / "adapter")
        result = {"seconds": round(seconds, 1), "bytes": size, "tokens": payload.tokens}
        return JobOutcome("succeeded", result=msgspec.json.encode(result).decode())

    def _configure(self, records: Sequence[dict[str, Any]], model: str) -> None:
        """Writes data and configuration into the folder. Blocks."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = self._folder / _DATA_NAME
        data.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in records))
        config = session_config(model, data, self._folder, threads=training_threads())
        (self._folder / CONFIG_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(config)))

    async def _train(self) -> dict[str, Any]:
        """Runs the training process, and returns the last that it said."""
        child = await TrainingChild.start(self._command, self._folder, training_threads())
        following = asyncio.create_task(_last_event(child))
        cancelled = asyncio.create_task(self._run.cancelled.wait())
        gently = True
        try:
            await asyncio.wait((following, cancelled), return_when=asyncio.FIRST_COMPLETED)
            gently = False
            if not following.done():
                return {}
            said = following.result()
            if said.get("event") != "done":
                status = await child.wait()
                _log.warning(
                    "the session adapter %s ended with status %s: %s", self._run.job.id, status, child.tail
                )
                if status == STOPPED:
                    raise RuntimeError("the training was stopped from outside")  # it is tried again
            return said
        finally:
            for task in (following, cancelled):
                task.cancel()
            try:
                await asyncio.wait((following, cancelled))
            finally:  # a lease that was lost may cancel a second time
                await child.end(gently=gently)

    async def _failed(self, message: str, *, cancelled: bool = False) -> JobOutcome:
        job = self._run.job
        await SessionStore(self._context.state.database).forget_text(job.tenant, job.id)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        message = message.replace(f"{self._folder}/", "")
        return JobOutcome("cancelled") if cancelled else JobOutcome("failed", error=message)


async def _last_event(child: TrainingChild) -> dict[str, Any]:
    last: dict[str, Any] = {}
    while (event := await child.event()) is not None:
        last = event
        if event["event"] == "done":
            break
    return last


def _thin(folder: Path) -> None:
    """Deletes everything of a run but its adapter: the text above all."""
    for path in folder.iterdir():
        if path.name != "adapter":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _bytes(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.iterdir() if one.is_file())
