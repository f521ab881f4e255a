"""`Training`: one run of a fine-tuning job, from its claim to its end."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepwell.dialogue.model import ServedModel
from deepwell.errors import DeepwellError, EngineRestarted, EngineUnavailable
from deepwell.safety.audit.trail import now_ms
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.artefact import fingerprint_of
from deepwell.server.families.fine_tuning.child import STOPPED, USER_ERROR, TrainingChild, default_command
from deepwell.server.families.fine_tuning.configured import CONFIG_NAME, training_threads, write_config
from deepwell.server.families.fine_tuning.curves import Curves
from deepwell.server.families.fine_tuning.described import algorithm_of, model_name
from deepwell.server.families.fine_tuning.events import measured, plan_text, whole
from deepwell.server.families.fine_tuning.models import TunedModels, runs_folder
from deepwell.server.families.fine_tuning.reinforced import judges_of
from deepwell.server.families.fine_tuning.results import METRICS_NAME, recorded, results_csv
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.tuning.records import StoredFineTuning
from deepwell.storage.tuning.training import NewModel, Told
from deepwell.tuning.evaluate.graders import parse_grader

__all__ = ["Training"]

_log = logging.getLogger("deepwell.server")
_LOOK_S = 0.5  # between looks at the job's row, which also write the progress
_MOST_STARTS = 10  # of a training that makes no checkpoint
_AFTER_DEATH_S = 0.5
_MOST_EVENTS = 500  # of the steps of a job; the result file has all of them
_DONE_NAME = "done.json"  # in the run's folder: what the training said at its end

_NOT_OURS = JobOutcome("cancelled")  # without effect: another worker has the job, or nobody
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a training process. `told`: its last event."""

    kind: Literal["done", "stopped", "refused", "died", "cancelled", "paused", "lost"]
    told: dict[str, Any]


class Training:
    """One claim of a job. The folder of the run is kept between claims, with its checkpoints."""

    def __init__(
        self, context: ServerContext, models: TunedModels, run: JobRun, command: Sequence[str] | None
    ) -> None:
        self._context = context
        self._models = models
        self._run = run
        self._command = command
        self._store = context.state.training
        self._folder = runs_folder(context) / run.job.id
        self._curves = Curves.of(run.progress)
        self._waiting: list[Told] = []
        self._latest: dict[str, Any] = {}  # metrics of the last step and validation
        self._planned_tokens = 0
        self._last_end = "with its server"  # of the training process

    async def go(self) -> JobOutcome:
        """Trains until the job has ended, is paused or is taken away."""
        while True:
            job = self._run.job
            row = await self._store.begin(job)
            if row is None:
                return _NOT_OURS
            if row.status == "paused":
                await self._store.park(job)
                return _NOT_OURS
            if self._run.cancelled.is_set() and not row.ended:
                row = await self._context.state.tunings.cancel(job.tenant, job.id)
            if row.ended:
                return await self._ended(row)
            if row.starts > _MOST_STARTS:
                return await self._failed(
                    "training_died",
                    f"the training ended {_MOST_STARTS} times before a checkpoint, at last {self._last_end}, as it does when "
                    "memory is short: train with a smaller batch_size or max_tokens, or look into the server's log",
                )
            base = self._models.base_of(row.model)
            if base is None:
                return await self._failed(
                    "model_not_found",
                    f"the model {row.model!r} is not served any more: start the server with it",
                    "model",
                )
            end = await self._train(row, base)
            match end.kind:
                case "done":
                    with self._models.held(job.tenant, model_name(row)):
                        outcome = await self._publish(row, base, end.told)
                    if outcome is not None:
                        return outcome
                case "refused":
                    fix = str(end.told.get("fix") or "")
                    text = str(end.told.get("message") or "the training was refused")
                    code = str(end.told.get("code") or "invalid_request")
                    return await self._failed(code, f"{text}: {fix}" if fix else text)
                case "died":
                    _log.warning("the training %s ended early and is started again", row.id)
                    await asyncio.sleep(_AFTER_DEATH_S)
                case "lost":
                    return _NOT_OURS
                case _:
                    pass  # the row says why it was stopped

    async def _train(self, row: StoredFineTuning, base: ServedModel) -> _End:
        """Runs the training process until it ends, or the row says that it must."""
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        done = self._folder / _DONE_NAME
        if done.exists():  # a server was killed between the end of the training and that of the job
            return _End("done", msgspec.json.decode(done.read_bytes()))
        if not (self._folder / CONFIG_NAME).exists() and (refused := await self._configure(row, base)):
            return refused
        await asyncio.to_thread(fingerprint_of, base)  # now, so that the end does not wait for it
        await self._catch_up(row)
        command = self._command or default_command(algorithm_of(row))
        child = await TrainingChild.start(command, self._folder, training_threads())
        following = asyncio.create_task(self._follow(child))
        ended: _End | None = None
        try:
            while ended is None:
                await asyncio.wait((following,), timeout=_LOOK_S)
                if following.done():
                    ended = following.result()
                else:
                    ended = await self._look(child)
            await self._tell()
            if ended.kind == "died":
                _log.warning("the training of %s ended %s: %s", row.id, self._last_end, child.tail)
            return ended
        finally:
            following.cancel()
            try:
                await asyncio.wait((following,))
            finally:  # a lease that was lost may cancel a second time
                await child.end(gently=ended is None or ended.kind == "paused")

    async def _configure(self, row: StoredFineTuning, base: ServedModel) -> _End | None:
        """Writes the configuration of the run. Returns its end if that cannot be."""
        lost = {
            "code": "input_lost",
            "message": "the training file's bytes are not on the disk any more",
            "fix": "upload it again",
        }
        kept = self._context.state.files
        try:
            training = await kept.local(row.training_sha256 or "")
            validation = None if row.validation_sha256 is None else await kept.local(row.validation_sha256)
        except FileNotFoundError:
            return _End("refused", lost)
        files = training, validation
        if not await asyncio.to_thread(lambda: all(one is None or one.is_file() for one in files)):
            return _End("refused", lost)
        try:
            judges = None
            if algorithm_of(row) == "reinforcement":
                grader = parse_grader(msgspec.json.decode(row.hyperparameters)["grader"])
                judges = await judges_of(self._context, self._run.job.tenant, grader)
            await asyncio.to_thread(write_config, self._folder, row, base, files, judges)
        except FileNotFoundError:
            return _End("refused", lost)
        except (EngineUnavailable, EngineRestarted):  # of a model of the grader, which is asked for again
            self._last_end = "while a model of its grader was restarting"
            return _End("died", {})
        except DeepwellError as error:  # a model of the grader is not served any more
            told = {"code": error.code or "invalid_request", "message": error.message, "fix": error.fix}
            return _End("refused", told)
        return None

    async def _look(self, child: TrainingChild) -> _End | None:
        """Writes what is new, and learns whether the job is to go on."""
        row = await self._tell()
        now = await self._context.state.jobs.heartbeat(
            self._run.job, self._context.options.files.job_lease_s, self._run.progress
        )
        if now is None:
            return _End("lost", {})
        if now.cancel_requested or row.status == "cancelled":
            self._run.cancelled.set()
            return _End("cancelled", {})
        if row.status == "paused":
            return _End("paused", {})
        return None

    async def _follow(self, child: TrainingChild) -> _End:
        """Reads events until the process closes its output."""
        last: dict[str, Any] = {}
        while (event := await child.event()) is not None:
            last = event
            match event["event"]:
                case "plan":
                    self._plan(event)
                case "step" | "validation":
                    self._step(event)
                case "checkpoint":
                    await self._checkpoint(event)
                case "done":
                    await asyncio.to_thread(self._keep, event)
                    return _End("done", event)
                case _:
                    pass
        status = await child.wait()
        self._last_end = f"by signal {-status}" if status < 0 else f"with status {status}"
        if status == USER_ERROR and last.get("event") == "error":
            return _End("refused", last)
        return _End("stopped" if status == STOPPED else "died", last)

    async def _catch_up(self, row: StoredFineTuning) -> None:
        """Writes what a server that was killed has not told: the training goes on behind its last checkpoint."""
        found = await asyncio.to_thread(lambda: list(recorded(self._folder / METRICS_NAME)))
        places = sorted(self._folder.glob("checkpoints/step-*/adapter"), key=lambda one: _step_of(one.parent))
        for event in found:
            while places and _step_of(places[0].parent) < whole(event["step"]):
                await self._checkpoint({"step": _step_of(places.pop(0).parent)})
            if 2 * whole(event["step"]) >= row.step:
                self._step(event)
        for place in places:
            await self._checkpoint({"step": _step_of(place.parent)})
        await self._tell()

    def _plan(self, event: dict[str, Any]) -> None:
        self._planned_tokens = whole(event.get("tokens"))
        self._curves.total = whole(event.get("steps"))
        if not self._curves.begun:
            self._waiting.append(Told(plan_text(event)))
        self._run.progress = self._curves.progress()

    def _step(self, event: dict[str, Any]) -> None:
        step, trained = whole(event.get("step")), event["event"] == "step"
        found = measured(event, self._curves.total)
        self._latest |= found.data
        if trained:
            self._curves.step(step, event)
        if found.value is not None:
            self._curves.point(found.series, step, found.value)
        self._run.progress = self._curves.progress()
        every = max(1, math.ceil(self._curves.total / _MOST_EVENTS))
        if trained and step % every and step != self._curves.total:
            return
        # A validation follows the step that it is of
        self._waiting.append(Told(found.text, found.data, 2 * step + (0 if trained else 1)))

    async def _checkpoint(self, event: dict[str, Any]) -> None:
        await self._tell()
        step = whole(event.get("step"))
        folder = self._inside(str(event.get("folder") or f"checkpoints/step-{step}"))
        if folder is not None:
            await self._store.checkpoint(self._run.job, step, f"{folder}/adapter", self._latest)

    async def _tell(self) -> StoredFineTuning:
        told, self._waiting = self._waiting, []
        return await self._store.tell(self._run.job, told, finish_at=self._curves.finish_at)

    def _keep(self, event: dict[str, Any]) -> None:
        part = self._folder / f".{_DONE_NAME}.part"
        part.write_bytes(_encode(event))
        part.replace(self._folder / _DONE_NAME)

    async def _publish(
        self, row: StoredFineTuning, base: ServedModel, told: dict[str, Any]
    ) -> JobOutcome | None:
        """Loads the adapter, and ends the job with the model. None: there was no engine, and the job is no longer running."""
        job, name = self._run.job, model_name(row)
        folder = self._inside(str(told.get("adapter") or "adapter"))
        while True:
            try:
                await self._models.publish(job.tenant, name, base, self._folder / (folder or "adapter"))
                break
            except (EngineUnavailable, EngineRestarted):  # an end of the engine must not cost the training
                if (await self._tell()).status != "running":
                    return None
                await asyncio.sleep(_AFTER_DEATH_S)
            except DeepwellError as error:
                return await self._failed(error.code or "invalid_adapter", str(error))
        made = [NewModel(name, folder or "adapter")]
        for step, place in await self._store.checkpoints(job.tenant, job.id):
            if await asyncio.to_thread((self._folder / place).is_dir):
                made.append(NewModel(model_name(row, step), place, step))
        metrics: dict[str, Any] = told.get("metrics") or {}
        tokens = whole(metrics.get("trained_tokens") or metrics.get("tokens")) or self._planned_tokens
        files = self._context.state.files
        draft = await asyncio.to_thread(files.draft)
        try:
            rewards = algorithm_of(row) == "reinforcement"
            data = await asyncio.to_thread(results_csv, self._folder / METRICS_NAME, rewards=rewards)
            await asyncio.to_thread(draft.write, data)
            ended = await self._store.succeed(job, made, trained_tokens=tokens, results=draft)
        finally:
            draft.discard()
        if ended.status != "succeeded":  # it was cancelled in the meantime
            await self._models.forget(job.tenant, name, base)
            return await self._ended(ended)
        self._context.metrics.tuning.tokens.inc(tokens)
        self._run.progress = self._curves.progress(ended=True)
        fields = {"action": "publish", "job": job.id, "base": row.model}
        await self._context.audit.record(
            job.tenant, AuditRecord("fine_tuning", now_ms(), fields, named={"model": name}), durable=True
        )
        return await self._ended(ended)

    async def _failed(self, code: str, message: str, param: str | None = None) -> JobOutcome:
        message = message.replace(f"{self._folder}/", "").replace(str(self._context.state.folder), "files")
        return await self._ended(await self._store.fail(self._run.job, code, message, param))

    async def _ended(self, row: StoredFineTuning) -> JobOutcome:
        """Lets go of what an ended job does not need."""
        await self._context.state.tunings.release(row)
        if row.status == "succeeded":
            await asyncio.to_thread(_thin, self._folder)
            result = {"fine_tuned_model": row.fine_tuned_model, "trained_tokens": row.trained_tokens}
            await self._beat()
            return JobOutcome("succeeded", result=_encode(result).decode())
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        if row.status == "failed":
            error = msgspec.json.decode(row.error or "{}").get("message")
            return JobOutcome("failed", error=error)
        return JobOutcome("cancelled")

    async def _beat(self) -> None:
        lease_s = self._context.options.files.job_lease_s
        await self._context.state.jobs.heartbeat(self._run.job, lease_s, self._run.progress)

    def _inside(self, path: str) -> str | None:
        """Returns a relative path within the run's folder; None: it leads out."""
        root = self._folder.resolve()
        place = (root / path).resolve()
        return str(place.relative_to(root)) if place.is_relative_to(root) and place != root else None


def _thin(folder: Path) -> None:
    """Deletes everything of a run but adapters and metrics: optimiser states and the data's traces are not needed."""
    for path in folder.iterdir():
        if path.name not in ("adapter", "checkpoints", METRICS_NAME):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    for checkpoint in folder.glob("checkpoints/*"):
        for path in checkpoint.iterdir() if checkpoint.is_dir() else ():
            if path.name != "adapter":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(
                    missing_ok=True
                )


def _step_of(folder: Path) -> int:
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0
