"""`WorkRun`: one claim of a job that a process of the lowest priority does, from its configuration to its last event."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from deepwell.dialogue.model import ServedModel
from deepwell.errors import (
    DeepwellError,
    EngineRestarted,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
    StorageError,
)
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.child import USER_ERROR, TrainingChild
from deepwell.server.families.fine_tuning.configured import CONFIG_NAME, training_threads
from deepwell.server.families.fine_tuning.models import runs_folder
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.tuning.works import WORKS, WorkPayload

__all__ = ["WorkProgress", "WorkRun", "base_model", "work_folders"]

_log = logging.getLogger("deepwell.server")
_LOOK_S = 0.5  # between looks at the job's row, which also write the progress
_MOST_STARTS = 3  # of the process, in one claim
_MOST_ATTEMPTS = 10  # claims of the job
_AFTER_DEATH_S = 0.5
_MOST_EVENTS = 100

_encode = msgspec.json.encode


class WorkProgress(msgspec.Struct):
    """Progress of a job as its row keeps it.

    Attributes:
        done, total, unit: amount of the step that is under way.
        step: name of the step.
        events: messages with their times and kinds, the oldest first.
        code: code of the error of a job that has failed.
    """

    done: float = 0
    total: float = 0
    unit: str = ""
    step: str = ""
    events: list[dict[str, Any]] = msgspec.field(default_factory=list[dict[str, Any]])
    code: str = ""

    @classmethod
    def of(cls, progress: str | None) -> WorkProgress:
        """Goes on with the progress of an earlier claim."""
        return cls() if progress is None else msgspec.json.decode(progress, type=cls)

    def tell(
        self,
        message: str,
        level: Literal["info", "warn", "error"] = "info",
        *,
        kind: str = "",
        chinese: str = "",
    ) -> None:
        """Adds a message, unless it is the last one's.

        Args:
            kind: name of what happened, by which a page says it in its own language; empty: it shows the message.
            chinese: the message in Chinese; empty: there is none.
        """
        if self.events and self.events[-1]["message"] == message:
            return
        number = self.events[-1]["number"] + 1 if self.events else 1
        told = {"number": number, "created_at": int(shared_time()), "level": level, "message": message}
        told |= {"kind": kind} if kind else {}
        told |= {"message_zh": chinese} if chinese not in ("", message) else {}
        self.events = [*self.events, told][-_MOST_EVENTS:]

    def encoded(self) -> str:
        """Returns the progress as JSON."""
        return _encode(self).decode()


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a process. `told`: its last event."""

    kind: Literal["done", "refused", "died", "cancelled", "lost"]
    told: dict[str, Any] = field(default_factory=dict[str, Any])


class WorkRun(ABC):
    """One claim of a job. The folder of the run is kept between claims, and goes with the end of the job.

    Attributes:
        lost: whether the job is another worker's by now, or gone.
    """

    what: str
    """Noun of the work in messages."""

    copies: ClassVar[Mapping[str, str]] = {}
    """Names of copies in the run's folder, with the fields of the request that have the ids of their files."""

    def __init__(self, context: ServerContext, run: JobRun, command: Sequence[str] | None) -> None:
        self._context = context
        self._run = run
        self._command = command
        self._payload = msgspec.json.decode(run.job.payload, type=WorkPayload)
        self._folder = runs_folder(context) / run.job.id
        self._progress = WorkProgress.of(run.progress)
        self._last_end = "with its server"
        self.lost = False

    @property
    def tenant(self) -> Tenant:
        """Tenant of the job."""
        return self._run.job.tenant

    @abstractmethod
    def module(self) -> tuple[str, ...]:
        """Returns the program that does the work, which gets the run's folder."""

    @abstractmethod
    async def config(self) -> Any:
        """Returns the configuration of the run, after it has copied what the work reads into its folder.

        Raises:
            DeepwellError: it cannot be made any more.
        """

    @abstractmethod
    def take(self, event: dict[str, Any]) -> None:
        """Takes an event of the process into the progress."""

    @abstractmethod
    async def publish(self, told: dict[str, Any]) -> Any:
        """Takes the last event of finished work, and returns the result of the job.

        Raises:
            DeepwellError: the result cannot be kept.
        """

    @abstractmethod
    def clear(self) -> None:
        """Deletes what work that did not succeed may have left outside of the run's folder. Blocks."""

    async def go(self) -> JobOutcome:
        """Works until the job has ended or is taken away."""
        starts = 0
        while True:
            if self._run.cancelled.is_set():
                return await self._ended(JobOutcome("cancelled"))
            if starts >= _MOST_STARTS or self._run.job.attempts > _MOST_ATTEMPTS:
                count = starts or self._run.job.attempts - 1
                died = DeepwellError.of("work_died", count=count, end=self._last_end)
                return await self._failed("work_died", str(died), died.in_chinese())
            try:
                await self._configure()
                end = await self._work()
                # Asked for once more: whoever has cancelled or erased the job gets no result of it
                if end.kind == "done" and (stopped := await self._look()) is not None:
                    end = stopped
                if end.kind == "done":
                    result = await self.publish(end.told)
                    self._progress.tell(f"The {self.what} has succeeded", kind="succeeded")
                    return await self._ended(JobOutcome("succeeded", result=_encode(result).decode()))
            except (StorageError, EngineUnavailable, EngineRestarted):
                raise  # passes: the runner returns the job to the queue
            except (DeepwellError, OSError) as error:
                told = _told(error, self._run.job.id)
                if told is None:
                    raise
                return await self._failed(told.code or "invalid_request", str(told), told.in_chinese())
            match end.kind:
                case "refused":
                    fix = str(end.told.get("fix") or "")
                    text = str(end.told.get("message") or f"the {self.what} was refused")
                    code = str(end.told.get("code") or "")
                    code = (
                        code if code.islower() else "invalid_request"
                    )  # an error without a code tells its class
                    chinese = str(end.told.get("message_zh") or "")
                    return await self._failed(code, f"{text}: {fix}" if fix else text, chinese)
                case "lost":
                    self.lost = True
                    await self.leave()
                    return JobOutcome("cancelled")  # without effect
                case "died":
                    starts += 1
                    self._progress.tell(
                        f"The {self.what} ended early and is started again", "warn", kind="restarted"
                    )
                    _log.warning("the %s %s ended early %s", self.what, self._run.job.id, self._last_end)
                    await asyncio.sleep(_AFTER_DEATH_S)
                case _:
                    self._run.cancelled.set()

    async def _configure(self) -> None:
        """Writes the configuration of the run, whole or not at all, unless an earlier claim has."""
        if (self._folder / CONFIG_NAME).exists():
            return
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        config = msgspec.json.format(_encode(await self.config()))
        await asyncio.to_thread(_write_whole, self._folder / CONFIG_NAME, config)

    async def _work(self) -> _End:
        """Runs the process until it ends, or the row says that it must."""
        command = self._command or self.module()
        child = await TrainingChild.start(command, self._folder, training_threads())
        following = asyncio.create_task(self._follow(child))
        try:
            while True:
                await asyncio.wait((following,), timeout=_LOOK_S)
                if following.done():
                    ended = following.result()
                    if ended.kind == "died":
                        _log.warning("the %s of %s said: %s", self.what, self._run.job.id, child.tail)
                    return ended
                if (stopped := await self._look()) is not None:
                    return stopped
        finally:
            following.cancel()
            try:
                await asyncio.wait((following,))
            finally:  # a lease that was lost may cancel a second time
                await child.end(gently=False)  # what it has written is whole: it may end at any time

    async def _look(self) -> _End | None:
        """Writes the progress to the row, and learns whether the job is to go on."""
        self._run.progress = self._progress.encoded()
        lease_s = self._context.options.files.job_lease_s
        try:
            now = await self._context.state.jobs.heartbeat(self._run.job, lease_s, self._run.progress)
        except StorageError as error:  # hours of work do not end with a database that is busy for a moment
            _log.warning("the progress of the job %s cannot be written: %s", self._run.job.id, error)
            return None
        if now is None:
            return _End("lost")
        return _End("cancelled") if now.cancel_requested else None

    async def _follow(self, child: TrainingChild) -> _End:
        last: dict[str, Any] = {}
        while (event := await child.event()) is not None:
            last = event
            if event["event"] == "done":
                return _End("done", event)
            self.take(event)
            self._run.step(self._progress.step)
        status = await child.wait()
        self._last_end = f"by signal {-status}" if status < 0 else f"with status {status}"
        refused = status == USER_ERROR and last.get("event") == "error"
        return _End("refused" if refused else "died", last)

    async def _failed(self, code: str, message: str, chinese: str) -> JobOutcome:
        self._progress.code = code
        message = self._without_paths(message)
        self._progress.tell(message, "error", chinese=self._without_paths(chinese))
        return await self._ended(JobOutcome("failed", error=message))

    def _without_paths(self, message: str) -> str:
        """Returns a message with the tenant's own names in the places of paths of this machine."""
        places = [
            (self._folder, "", "the folder of the run"),
            (self._context.state.folder, "files/", "files"),
        ]
        if (catalog := self._context.options.catalog) is not None:
            places.append((catalog.settings.models_dir, "", "the model store"))
        for path, inside, itself in places:
            message = message.replace(f"{path}/", inside).replace(str(path), itself)
        for name, param in self.copies.items():  # the process knows a file by the name of its copy
            if (id := self._payload.asked.get(param)) is not None:
                # A Chinese character before or after the name is no part of it
                message = re.sub(rf"(?<![\w./-]){re.escape(name)}\b", id, message, flags=re.ASCII)
        return message

    async def _ended(self, outcome: JobOutcome) -> JobOutcome:
        """Deletes the folder of the run, which has copies of the tenant's text, and writes the last progress."""
        if outcome.status != "succeeded":
            await asyncio.to_thread(self.clear)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        if outcome.status == "cancelled":
            self._progress.tell("The job was cancelled", kind="cancelled")
        await self._look()
        return outcome

    async def leave(self) -> None:
        """Deletes what a job has left that is gone. One that another worker has taken over goes on there."""
        try:
            await self._context.state.jobs.get(self.tenant, self._run.job.id)
        except StorageError as error:
            _log.warning("what the job %s has left is not looked for: %s", self._run.job.id, error)
        except NotFound:
            await asyncio.to_thread(self.clear)
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def copied(self, id: str, name: str) -> str:
        """Copies a file of the tenant into the folder of the run, and returns its path there.

        Raises:
            InvalidRequest: it was deleted meanwhile.
        """
        lost = InvalidRequest.of("work_input_lost", file=id)
        lost.code = "input_lost"
        try:
            file = await self._context.state.files.get(self.tenant, id)
            path = await self._context.state.files.local(file.sha256)
            target = self._folder / name
            await asyncio.to_thread(shutil.copyfile, path, target)
        except (NotFound, FileNotFoundError):
            raise lost from None
        return str(target)


async def base_model(context: ServerContext, tenant: Tenant, name: str) -> ServedModel:
    """Returns the served model of a name, which must be no adapter.

    Raises:
        ModelNotFound, InvalidRequest: it is not served, generates no text, or is an adapter.
    """
    answering, adapter = await context.generator(name, tenant)
    model = answering.model
    if adapter:
        raise InvalidRequest(f"{name!r} is an adapter", fix=f"name its base: {model.name!r}", param="model")
    return model


def work_folders(folder: Path) -> list[Path]:
    """Returns the folders of runs. Blocks."""
    return [path for prefix in WORKS.values() for path in folder.glob(f"{prefix}*")]


def _told(error: DeepwellError | OSError, job_id: str) -> DeepwellError | None:
    """Returns the error that a failed job tells of; None: the system may do it the next time."""
    if isinstance(error, DeepwellError):
        return error
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    full = DeepwellError.of("disk_full", path=job_id)
    full.code = "disk_full"
    return full


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data + b"\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileNotFoundError):
        part.replace(path)
