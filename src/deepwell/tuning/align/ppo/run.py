"""`run_ppo`: a reinforcement run from its configuration to its adapter. It continues from the newest whole checkpoint."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from deepwell.engine.machine import usable_cpus
from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.config import PPOConfig
from deepwell.tuning.align.ppo.judging import Judged, Rewards, open_rewards
from deepwell.tuning.align.ppo.loop import Loop
from deepwell.tuning.align.ppo.measure import Figures, measure, shown
from deepwell.tuning.align.ppo.plan import MOST_HELD_OUT, Encoded, Plan, plan_run, run_hash
from deepwell.tuning.align.ppo.policy import Policy
from deepwell.tuning.align.ppo.rewards.protocol import RewardMakers
from deepwell.tuning.align.ppo.rollouts import Rollout, Sampler, open_sampler
from deepwell.tuning.train.artefact import base_hashes, library_versions, read_record, write_record
from deepwell.tuning.train.checkpoints import (
    Progress,
    commit_folder,
    newest_checkpoint,
    restore,
    save_checkpoint,
)
from deepwell.tuning.train.forward.memory import keep_freed_memory
from deepwell.tuning.train.journal import Journal
from deepwell.tuning.train.lora import map_targets
from deepwell.tuning.train.run import Stopped

__all__ = ["run_ppo"]

ADAPTER: Final = "adapter"
HELD_OUT: Final = "held_out.json"
_KEPT: Final = "kept.safetensors"
_SHOWN: Final = 4


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
        self._hash = run_hash(plan)
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
            if not self._loop.run(save=self._save, keep=self._keep, evaluate=self._evaluate, stop=stop):
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

    def _evaluate(self) -> None:
        if self._plan.held_out:
            figures, _, _ = self._measured(samples=self._plan.config.train.evaluation_samples)
            values = {name: one for name, one in figures.to_json().items() if one is not None}
            self._journal.event("validation", step=self._progress.step, **values)

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

    def _measured(self, *, base: bool = False, samples: int = 1) -> tuple[Figures, list[Rollout], Judged]:
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
            samples=samples,
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


def _claim(folder: Path, wanted: str) -> None:
    """Marks a folder as this run's.

    Raises:
        InvalidRequest: it holds another run.
    """
    mark = folder / "run.sha256"
    found = mark.read_text().strip() if mark.is_file() else ""
    if found and found != wanted:
        raise InvalidRequest.of("tune_other_run", param="output", folder=folder)
    partial = folder / ".run.sha256.partial"
    partial.write_text(wanted + "\n")
    partial.replace(mark)
