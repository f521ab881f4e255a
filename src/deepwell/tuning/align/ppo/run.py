"""`run_ppo`: a reinforcement run from its configuration to its adapter. It continues from the newest whole checkpoint."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from deepwell.engine.machine import available_memory_bytes, usable_cpus
from deepwell.errors import InsufficientMemory, InvalidRequest
from deepwell.tuning.align.ppo.config import PPOConfig
from deepwell.tuning.align.ppo.judging import Judged, Rewards, open_rewards
from deepwell.tuning.align.ppo.loop import Loop
from deepwell.tuning.align.ppo.measure import Figures, measure, shown
from deepwell.tuning.align.ppo.policy import Policy
from deepwell.tuning.align.ppo.prompts import Prompt, encode, read_prompts, split_prompts
from deepwell.tuning.align.ppo.rewards.protocol import RewardMakers
from deepwell.tuning.align.ppo.rollouts import Rollout, Sampler, open_sampler
from deepwell.tuning.data.report import DataReport
from deepwell.tuning.train.artefact import base_hashes, library_versions, read_record, write_record
from deepwell.tuning.train.bases import Base, empty_model, open_base
from deepwell.tuning.train.checkpoints import (
    Progress,
    commit_folder,
    newest_checkpoint,
    restore,
    save_checkpoint,
)
from deepwell.tuning.train.config import TuneConfig
from deepwell.tuning.train.dataset import file_hashes
from deepwell.tuning.train.forward.memory import keep_freed_memory
from deepwell.tuning.train.journal import Journal
from deepwell.tuning.train.lora import add_lora, map_targets, trainable_parameters
from deepwell.tuning.train.memory import parameter_count, plan_memory
from deepwell.tuning.train.run import Stopped

__all__ = ["Plan", "plan_run", "run_ppo"]

ADAPTER: Final = "adapter"
HELD_OUT: Final = "held_out.json"
MOST_HELD_OUT: Final = 512  # prompts that figures are measured on
_KEPT: Final = "kept.safetensors"
_SHOWN: Final = 4
# What may differ between a run and its continuation: nothing of it changes what is computed.
_FREE: Final = ("threads", "save_every")

Encoded = tuple[Prompt, tuple[int, ...]]


@dataclass(frozen=True)
class Plan:
    """A run that was checked and fits the memory; nothing of the model is loaded yet."""

    config: PPOConfig
    base: Base
    train: Sequence[Encoded]
    held_out: Sequence[Encoded]
    report: DataReport
    data_hashes: Mapping[str, str]
    trainable: int
    dtype: torch.dtype
    peak_bytes: int

    @property
    def context(self) -> int:
        """Tokens of the longest prompt with its answer."""
        longest = max(len(tokens) for _, tokens in (*self.train, *self.held_out))
        return longest + self.config.train.new_tokens

    def event(self) -> dict[str, Any]:
        """Returns the plan as an event."""
        settings = self.config.train
        return {
            "event": "plan",
            "model": self.base.name,
            "method": self.config.algorithm,
            "trainable": self.trainable,
            "parameters": parameter_count(self.base.config),
            "peak_bytes": self.peak_bytes,
            "steps": settings.iterations,
            "prompts": len(self.train),
            "held_out": len(self.held_out),
            "answers": settings.prompts * settings.samples,
            "new_tokens": settings.new_tokens,
            "precision": str(self.dtype).removeprefix("torch."),
            "data": self.report.to_json(),
        }


def plan_run(config: PPOConfig) -> Plan:
    """Reads the prompts and the model's headers and plans the run.

    Raises:
        InvalidRequest, ModelNotFound, UnsupportedModel, InvalidModelFile: a setting or a file cannot be used.
        InsufficientMemory: it does not fit.
    """
    base = open_base(config.model)
    settings = config.train
    room = base.config.max_position_embeddings - settings.new_tokens
    if room < 1:
        raise InvalidRequest(
            f"train.new_tokens is {settings.new_tokens}, and {base.name} has positions for "
            f"{base.config.max_position_embeddings}",
            fix="set train.new_tokens lower",
            param="train.new_tokens",
        )
    prompts, report = read_prompts(config.data)
    held: list[Prompt] = []
    files = [*config.data]
    if isinstance(config.validation, list):
        held, held_report = read_prompts(config.validation)
        files += config.validation
        known = {one.key for one in held}
        prompts = [one for one in prompts if one.key not in known]
        report.kept -= (left := report.kept - len(prompts))
        report.dropped["held_out"] += left
        held_encoded = encode(held, base.codec, min(room, settings.max_prompt_tokens), held_report)
        train = encode(prompts, base.codec, min(room, settings.max_prompt_tokens), report)
    else:
        every = encode(prompts, base.codec, min(room, settings.max_prompt_tokens), report)
        tokens = {one.key: pair for pair in every for one in (pair[0],)}
        left_in, held = split_prompts([one for one, _ in every], config.validation)
        train, held_encoded = [tokens[one.key] for one in left_in], [tokens[one.key] for one in held]
    if not train:
        raise InvalidRequest("no prompt is left to train on", fix="give more prompts", param="data")
    for reward in (config.reward, config.cost, config.judge):
        files += reward.data if reward else []
    if missing := next((one for one in files if not one.is_file()), None):
        raise InvalidRequest(f"{missing} is no file", fix="name an existing file")
    dtype = _dtype(config)
    with torch.device("meta"):
        wrapped = add_lora(empty_model(base), base.config, config.lora, settings.seed)
    trainable = trainable_parameters(wrapped)
    peak = _peak_bytes(config, base, trainable, dtype)
    return Plan(
        config,
        base,
        train,
        held_encoded[:MOST_HELD_OUT],
        report,
        file_hashes(list(dict.fromkeys(files))),
        trainable,
        dtype,
        peak,
    )


def _dtype(config: PPOConfig) -> torch.dtype:
    wanted = config.train.precision
    if wanted == "auto":
        wanted = "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def _peak_bytes(config: PPOConfig, base: Base, trainable: int, dtype: torch.dtype) -> int:
    """Returns the planned memory of training; the engine's own plan comes on top of it, and is checked when it opens."""
    like = TuneConfig.model_validate(
        {"data": ["unused"], "train": {"precision": "bf16" if dtype == torch.bfloat16 else "fp32"}}
    )
    tokens = config.train.micro_tokens
    peak = plan_memory(base.config, like, trainable, tokens, dtype.itemsize, tokens // 2).peak_bytes
    available = available_memory_bytes()
    if peak > available:
        need, have = f"{peak / 1e9:.1f} GB", f"{available / 1e9:.1f} GB"
        raise InsufficientMemory.of(
            "tune_no_memory",
            need=need,
            have=have,
            fix="lower train.micro_tokens, or choose a smaller model",
            fix_zh="请调低 train.micro_tokens，或换用更小的模型",
        )
    return peak


def run_ppo(
    config: PPOConfig,
    folder: Path,
    *,
    on_event: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool] = lambda: False,
    rewards: RewardMakers | None = None,
) -> Path:
    """Runs PPO or GRPO in `folder` and returns the adapter's folder.

    A folder that holds a checkpoint of the same run continues from it and gives the same adapter as if it had never stopped.

    Args:
        rewards: kinds of rewards beside tuning's own.

    Raises:
        Stopped: `stop` returned true; a checkpoint is written.
        InvalidRequest, InsufficientMemory, ...: as for `plan_run`, or the folder holds another run.
    """
    threads = config.train.threads
    torch.set_num_threads(usable_cpus() if threads == "auto" else threads)
    keep_freed_memory()
    plan = plan_run(config)
    on_event(plan.event())
    folder.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(),
        open_sampler(
            str(plan.base.path),
            context=plan.context,
            sequences=config.train.prompts * config.train.samples,
            precision=config.train.rollout_precision,
            reserved_bytes=plan.peak_bytes,
        ) as sampler,
    ):
        warnings.simplefilter("ignore", FutureWarning)  # of the libraries about each other
        return _Run(plan, folder, sampler, open_rewards(config, sampler.embed, rewards), on_event).finish(
            stop
        )


class _Run:
    """A planned run: the loaded policy, and what reads and writes its folder."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        sampler: Sampler,
        rewards: Rewards,
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._sampler = sampler
        self._rewards = rewards
        self._hash = _run_hash(plan)
        _claim(folder, self._hash)
        self._hashes = base_hashes(plan.base.checkpoint, plan.base.codec)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(plan.config.train.seed)
        self._policy = Policy(plan.base, plan.config, plan.dtype, device)
        self._optimizer = self._policy.optimizer(plan.config)
        self._names = {parameter: name for name, parameter in self._policy.parameters.items()}
        self._progress = Progress()
        found = newest_checkpoint(folder, self._hash)
        if found is not None:
            path, self._progress = found
            restore(path, self._policy.parameters, self._optimizer, self._names)
        self._journal = Journal(folder, self._progress.step, on_event)
        self._loop = Loop(
            self._policy,
            sampler,
            rewards,
            plan.config,
            plan.train,
            self._optimizer,
            self._journal,
            self._progress,
        )

    def finish(self, stop: Callable[[], bool]) -> Path:
        try:
            if not self._loop.run(save=self._save, keep=self._keep, stop=stop):
                raise Stopped
            return self._end()
        finally:
            self._journal.close()

    def _save(self) -> None:
        path = save_checkpoint(
            self._folder,
            self._progress,
            self._hash,
            self._policy.parameters,
            self._optimizer,
            self._names,
            lambda folder: self._write(folder / ADAPTER, {"step": self._progress.step}),
        )
        name = path.relative_to(self._folder).as_posix()
        self._journal.event("checkpoint", step=self._progress.step, folder=name)

    def _keep(self) -> None:
        partial = self._folder / f".{_KEPT}.partial"
        weights = {name: one.detach().cpu().contiguous() for name, one in self._policy.adapter.items()}
        save_file(weights, partial, metadata={"step": str(self._progress.step)})
        partial.replace(self._folder / _KEPT)

    def _end(self) -> Path:
        """Measures the policy, takes back the last one within the budget where it went beyond it, and writes the adapter."""
        settings = self._plan.config.train
        target = self._folder / ADAPTER
        if not (self._folder / _KEPT).is_file() and (record := read_record(target)) is not None:
            # It ended before, and what it took back is gone
            self._journal.event("done", adapter=target.name, metrics=record["metrics"])
            return target
        base = self._measured(base=True)
        found = self._measured()
        used = settings.iterations
        if found[0].kl > settings.kl_budget:
            kept = load_file(self._folder / _KEPT)
            with torch.no_grad():
                for name, parameter in self._policy.adapter.items():
                    parameter.copy_(kept[name])
            found, used = self._measured(), -1
        metrics = {
            "steps": self._progress.step,
            "tokens": self._progress.tokens,
            "within_budget": found[0].kl <= settings.kl_budget,
            "taken_back": used < 0,
            "measured_on": "held_out" if self._plan.held_out else "train",
            "prompts": len(found[1]),
            "base": base[0].to_json(),
            "tuned": found[0].to_json(),
        }
        self._write_samples(base, found)
        commit_folder(target, lambda partial: self._write(partial, metrics))
        (self._folder / _KEPT).unlink(missing_ok=True)
        self._journal.event("done", adapter=target.name, metrics=metrics)
        return target

    def _measured(self, *, base: bool = False) -> tuple[Figures, list[Rollout], Judged]:
        settings = self._plan.config.train
        if not base:
            self._sampler.swap(self._policy.write_adapter)
        return measure(
            self._policy,
            self._sampler,
            self._rewards,
            self._prompts,
            seed=settings.seed,
            new_tokens=settings.new_tokens,
            temperature=settings.temperature,
            micro_tokens=settings.micro_tokens,
            base=base,
        )

    @property
    def _prompts(self) -> Sequence[Encoded]:
        return self._plan.held_out or self._plan.train[:MOST_HELD_OUT]

    def _write_samples(self, *measured: tuple[Figures, list[Rollout], Judged]) -> None:
        prompts = [one for one, _ in self._prompts]
        sides: dict[str, Any] = {}
        for name, (_, rollouts, judged) in zip(("base", "tuned"), measured, strict=True):
            sides[name] = {
                "reward": judged.reward,
                "cost": judged.cost,
                "judge": judged.judge,
                "samples": shown(rollouts, prompts, judged, _SHOWN),
            }
        (self._folder / HELD_OUT).write_text(json.dumps(sides, ensure_ascii=False) + "\n", encoding="utf-8")

    def _write(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        self._policy.write_adapter(folder)
        plan = self._plan
        unserved = map_targets(plan.base.config, plan.config.lora.targets).unserved
        write_record(
            folder,
            {
                "method": plan.config.algorithm,
                "served": "merged" if unserved else "unmerged",
                "base": plan.base.name,
                "architecture": plan.base.config.architecture,
                **self._hashes,
                "config": plan.config.to_json(),
                "metrics": dict(metrics),
                "data": {"sha256": dict(plan.data_hashes), "report": plan.report.to_json()},
                "versions": library_versions(),
            },
        )


def _run_hash(plan: Plan) -> str:
    """Returns a digest of what decides the result: weights, data, and the settings but those that change nothing."""
    config = plan.config.to_json()
    for name in ("output", "model", "data", "validation"):
        config.pop(name)
    for name in _FREE:
        config["train"].pop(name)
    for name in ("reward", "cost", "judge"):
        if config[name]:
            config[name].pop("data")
    validation = plan.config.validation if isinstance(plan.config.validation, float) else None
    parts = [config, validation, plan.base.checkpoint.fingerprint, list(plan.data_hashes.values())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _claim(folder: Path, run_hash: str) -> None:
    """Marks a folder as this run's.

    Raises:
        InvalidRequest: it holds another run.
    """
    mark = folder / "run.sha256"
    found = mark.read_text().strip() if mark.is_file() else ""
    if found and found != run_hash:
        raise InvalidRequest.of("tune_other_run", param="output", folder=folder)
    partial = folder / ".run.sha256.partial"
    partial.write_text(run_hash + "\n")
    partial.replace(mark)
