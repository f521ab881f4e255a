"""`run_sft`: a run from its configuration to its artefact. It continues from the newest whole checkpoint in its folder."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepwell.dialogue.text import Codec
from deepwell.engine.machine import usable_cpus
from deepwell.errors import InvalidRequest
from deepwell.tuning.train.artefact import base_hashes, library_versions, read_record, write_record
from deepwell.tuning.train.bases import Base, empty_model, load_model, open_base, released_weights
from deepwell.tuning.train.checkpoints import (
    Progress,
    commit_folder,
    newest_checkpoint,
    restore,
    save_checkpoint,
)
from deepwell.tuning.train.config import TuneConfig, automatic_rate
from deepwell.tuning.train.dataset import Dataset, file_hashes, load_dataset, total_steps
from deepwell.tuning.train.distributed.group import local_world
from deepwell.tuning.train.distributed.strategies import agreed, divided, open_strategy, own_folder
from deepwell.tuning.train.forward.memory import keep_freed_memory
from deepwell.tuning.train.journal import Journal
from deepwell.tuning.train.loop import Course, Loop, Precision, named_parameters, processor_is_fast_at_bf16
from deepwell.tuning.train.lora import add_lora, map_targets, save_adapter, trainable_parameters
from deepwell.tuning.train.memory import TrainingMemory, choose_micro_tokens, parameter_count
from deepwell.tuning.train.merge import write_model
from deepwell.tuning.train.optimizer import make_optimizer
from deepwell.tuning.train.strategy import Strategy

__all__ = ["Plan", "Stopped", "plan_run", "run_planned", "run_sft"]

DEFAULT_MAX_TOKENS: Final = 1024
LEAST_BATCH_TOKENS, MOST_BATCH_TOKENS, STEPS_OF_AN_EPOCH = 16, 4096, 20
_BEST: Final = "best.safetensors"
# What may differ between a run and its continuation: nothing of it changes what is computed.
_FREE: Final = ("threads", "save_every")


class Stopped(Exception):
    """Raised when a run has stopped on request, behind a checkpoint that it will continue from."""


@dataclass(frozen=True)
class Plan:
    """A run that was checked and fits the memory; nothing of the model is loaded yet."""

    config: TuneConfig
    base: Base
    data: Dataset
    data_hashes: Mapping[str, str]
    course: Course
    memory: TrainingMemory
    trainable: int
    precision: Precision
    device: torch.device

    def event(self) -> dict[str, Any]:
        """Returns the plan as an event."""
        return {
            "event": "plan",
            "model": self.base.name,
            "method": self.config.method,
            "trainable": self.trainable,
            "parameters": parameter_count(self.base.config),
            "peak_bytes": self.memory.peak_bytes,
            "steps": self.course.steps,
            "micro_tokens": self.course.micro_tokens,
            "examples": len(self.data.train),
            "held_out": len(self.data.held_out),
            "tokens": sum(len(one.token_ids) for one in self.data.train),
            "labelled": sum(one.labelled for one in self.data.train),
            "precision": str(self.precision.autocast or self.precision.weights).removeprefix("torch."),
            "device": str(self.device),
            "data": self.data.report.to_json(),
        }


_C = TypeVar("_C", bound=TuneConfig)


def plan_run(config: _C, load: Callable[[_C, Codec, int], Dataset] = load_dataset) -> Plan:
    """Reads the data and the model's headers and plans the run.

    Args:
        load: reads the data; its examples may be others than those of supervised fine-tuning.

    Raises:
        InvalidRequest, ModelNotFound, UnsupportedModel, InvalidModelFile: a setting or a file cannot be used.
        InsufficientMemory: it does not fit; the fix names the setting that would.
    """
    base = open_base(config.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = _precision(config, device)
    settings = config.train
    longest_allowed = _max_tokens(settings.max_tokens, base)
    trainable = _trainable(config, base)
    data = load(config, base.codec, longest_allowed)
    config = _resolved(config, data, base, longest_allowed)
    settings = config.train
    everything = [*data.train, *data.held_out]
    longest = max(len(one.token_ids) for one in everything)
    share = max(one.labelled / len(one.token_ids) for one in everything)
    weight_bytes = precision.weights.itemsize
    available = torch.cuda.mem_get_info()[0] if device.type == "cuda" else None
    micro, memory = choose_micro_tokens(
        base.config, config, trainable, weight_bytes, longest, share, available_bytes=available
    )
    steps = total_steps(data.train, settings)
    every = max(1, steps // 10) if settings.evaluate_every == "auto" else settings.evaluate_every
    save = every if settings.save_every == "auto" else settings.save_every
    held = config.validation if isinstance(config.validation, list) else []
    files = [*config.data, *held, *config.more_files()]
    return Plan(
        config,
        base,
        data,
        file_hashes(files),
        Course(steps, micro, every, save),
        memory,
        trainable,
        precision,
        device,
    )


def _resolved(config: _C, data: Dataset, base: Base, max_tokens: int) -> _C:
    """Returns the configuration with numbers for auto. A step has so few tokens that a small file makes some steps, too."""
    found: dict[str, Any] = {"max_tokens": max_tokens}
    if config.train.batch_tokens == "auto":
        tokens = sum(len(one.token_ids) for one in data.train)
        found["batch_tokens"] = min(MOST_BATCH_TOKENS, max(LEAST_BATCH_TOKENS, tokens // STEPS_OF_AN_EPOCH))
    if config.train.learning_rate == "auto":
        rate = automatic_rate(base.config.hidden_size, config.method) * config.rate_factor
        found["learning_rate"] = rate
    return config.model_copy(update={"train": config.train.model_copy(update=found)})


def _max_tokens(wanted: int | str, base: Base) -> int:
    most = base.config.max_position_embeddings
    if isinstance(wanted, str):
        return min(DEFAULT_MAX_TOKENS, most)
    if wanted > most:
        raise InvalidRequest(
            f"train.max_tokens is {wanted}, and {base.name} has positions for {most}",
            fix=f"set train.max_tokens to {most} or less",
            param="train.max_tokens",
        )
    return wanted


def _trainable(config: TuneConfig, base: Base) -> int:
    if config.method == "full":
        return parameter_count(base.config)
    with torch.device("meta"):
        wrapped = add_lora(empty_model(base), base.config, config.lora, config.train.seed)
    return trainable_parameters(wrapped)


def _precision(config: TuneConfig, device: torch.device) -> Precision:
    wanted = config.train.precision
    if wanted == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else processor_is_fast_at_bf16()
        wanted = "bf16" if fast else "fp16" if device.type == "cuda" else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise InvalidRequest(
            "fp16 needs a GPU: on a processor its products are slow and overflow",
            fix="set train.precision to bf16 or fp32",
        )
    if wanted == "fp32":
        return Precision(torch.float32)
    half = torch.bfloat16 if wanted == "bf16" else torch.float16
    frozen = config.method == "lora"
    return Precision(half if frozen else torch.float32, half)


def run_sft(
    config: TuneConfig,
    folder: Path,
    *,
    on_event: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Runs supervised fine-tuning in `folder`; see `run_planned`."""
    return run_planned(config, folder, plan_run, Loop, on_event=on_event, stop=stop)


def run_planned(
    config: _C,
    folder: Path,
    make_plan: Callable[[_C], Plan],
    make_loop: type[Loop],
    *,
    on_event: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Runs a training in `folder` and returns the artefact: `adapter`, or `model` for full fine-tuning.

    A folder that holds a checkpoint of the same run continues from it and gives the same artefact as if it had never stopped.

    Raises:
        Stopped: `stop` returned true; a checkpoint is written.
        InvalidRequest, InsufficientMemory, ...: as for `plan_run`, or the folder holds another run.
    """
    threads = config.train.threads
    torch.set_num_threads(max(1, usable_cpus() // local_world()) if threads == "auto" else threads)
    keep_freed_memory()
    plan = make_plan(config)
    with open_strategy(config, plan.device) as strategy, own_folder(strategy, folder) as own:
        plan = replace(plan, course=divided(plan.course, plan.config.train, strategy))
        say = on_event if strategy.rank == 0 else _say_nothing
        say(plan.event())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the libraries about each other
            found = _Run(plan, own, folder, say, strategy, make_loop).finish(agreed(strategy, stop))
        return folder / found.name


def _say_nothing(event: Mapping[str, Any]) -> None:
    """Takes the events of all processes but the first."""


class _Run:
    """A planned run: the loaded model, and what reads and writes its folder."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        source: Path,
        on_event: Callable[[dict[str, Any]], None],
        strategy: Strategy,
        make_loop: type[Loop],
    ) -> None:
        """Loads the model, and the newest checkpoint of the folder `source`; everything is written to `folder`."""
        self._plan = plan
        self._folder = folder
        self._strategy = strategy
        self._hash = _run_hash(plan)
        config, settings = plan.config, plan.config.train
        self._hashes = base_hashes(plan.base.checkpoint, plan.base.codec)
        _claim(folder, self._hash)
        model = load_model(plan.base, plan.precision.weights)
        if settings.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if config.method == "lora":
            model = add_lora(model, plan.base.config, config.lora, settings.seed)
        else:
            model.requires_grad_(True)
            for name, parameter in model.named_parameters():
                if name.endswith(".o_proj.bias"):  # zeros that only transformers has
                    parameter.requires_grad_(False)
        self._model = strategy.prepare(model)
        self._parameters = named_parameters(self._model)
        self._names = {parameter: name for name, parameter in self._parameters.items()}
        self._optimizer = make_optimizer(self._model.named_parameters(), settings)
        torch.manual_seed(settings.seed)
        found = newest_checkpoint(source, self._hash)
        self._progress = Progress()
        if found is not None:
            path, self._progress = found
            restore(path, self._parameters, self._optimizer, self._names)
        self._journal = Journal(folder, self._progress.step, on_event)
        self._loop = make_loop(
            self._model,
            self._optimizer,
            config,
            plan.course,
            strategy,
            plan.precision,
            self._journal,
            self._progress,
        )

    def finish(self, stop: Callable[[], bool]) -> Path:
        data = self._plan.data
        try:
            whole = self._loop.run(
                data.train, data.held_out, save=self._save, keep_best=self._keep_best, stop=stop
            )
            if not whole:
                raise Stopped
            return self._end()
        finally:
            self._journal.close()

    def _save(self) -> None:
        path = save_checkpoint(
            self._folder,
            self._progress,
            self._hash,
            self._strategy.gathered(self._parameters),
            self._optimizer,
            self._names,
            self._write_checkpoint_adapter,
        )
        name = path.relative_to(self._folder).as_posix()
        self._journal.event("checkpoint", step=self._progress.step, folder=name)

    def _write_checkpoint_adapter(self, folder: Path) -> None:
        if self._plan.config.method == "lora":
            self._write_adapter(folder / "adapter", {"step": self._progress.step})

    def _keep_best(self) -> None:
        partial = self._folder / f".{_BEST}.partial"
        weights = self._strategy.gathered(self._parameters)
        save_file({name: one.detach().cpu().contiguous() for name, one in weights.items()}, partial)
        partial.replace(self._folder / _BEST)

    def _end(self) -> Path:
        progress = self._progress
        used = progress.step
        target = self._folder / ("adapter" if self._plan.config.method == "lora" else "model")
        if self._plan.data.held_out and progress.best_step not in (0, progress.step):
            if not (self._folder / _BEST).is_file() and (record := read_record(target)) is not None:
                # It ended before, and was killed before anybody was told
                self._journal.event("done", adapter=target.name, metrics=record["metrics"])
                return target
            _copy_into(self._parameters, load_file(self._folder / _BEST))
            used = progress.best_step
        metrics = {
            "steps": progress.step,
            "tokens": progress.tokens,
            "step": used,
            "held_out_loss_before": progress.first_loss,
            "held_out_loss": progress.best_loss if used == progress.best_step else progress.last_loss,
        }
        if self._plan.config.method == "lora":
            commit_folder(target, lambda partial: self._write_adapter(partial, metrics))
        else:
            commit_folder(target, lambda partial: self._write_model(partial, metrics))
        (self._folder / _BEST).unlink(missing_ok=True)
        self._journal.event("done", adapter=target.name, metrics=metrics)
        return target

    def _write_adapter(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        save_adapter(self._model, folder, self._plan.base.name)
        write_record(folder, self._record(metrics))

    def _write_model(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        base = self._plan.base
        write_model(base.path, base.checkpoint, released_weights(self._parameters, base.config), folder)
        write_record(folder, self._record(metrics))

    def _record(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        plan = self._plan
        unserved = map_targets(plan.base.config, plan.config.lora.targets).unserved
        return {
            "algorithm": plan.config.algorithm,
            "method": plan.config.method,
            "served": "merged" if unserved and plan.config.method == "lora" else "unmerged",
            "base": plan.base.name,
            "architecture": plan.base.config.architecture,
            **self._hashes,
            "config": plan.config.to_json(),
            "metrics": dict(metrics),
            "data": {"sha256": dict(plan.data_hashes), "report": plan.data.report.to_json()},
            "versions": library_versions(),
        }


def _copy_into(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _run_hash(plan: Plan) -> str:
    """Returns a digest of what decides the result: weights, data, and the settings but those that change nothing."""
    config = plan.config.to_json()
    for name in ("output", "model", "data", "validation"):
        config.pop(name)
    for name in _FREE:
        config["train"].pop(name)
    validation = plan.config.validation if isinstance(plan.config.validation, float) else None
    parts = [
        plan.config.algorithm,
        config,
        validation,
        plan.base.checkpoint.fingerprint,
        list(plan.data_hashes.values()),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _claim(folder: Path, run_hash: str) -> None:
    """Marks a folder as this run's.

    Raises:
        InvalidRequest: it holds another run.
    """
    mark = folder / "run.sha256"
    found = mark.read_text().strip() if mark.is_file() else ""
    if found == run_hash:
        return
    if found:  # empty: the machine went down while it was written
        raise InvalidRequest.of("tune_other_run", param="output", folder=folder)
    partial = folder / ".run.sha256.partial"
    partial.write_text(run_hash + "\n")
    partial.replace(mark)
