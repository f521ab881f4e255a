"""`plan_run`: a reinforcement run that was checked and fits the memory, before anything of the model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from deepwell.engine.machine import available_memory_bytes
from deepwell.errors import InsufficientMemory, InvalidRequest
from deepwell.tuning.align.ppo.config import PPOConfig
from deepwell.tuning.align.ppo.prompts import Prompt, encode, read_prompts, split_prompts
from deepwell.tuning.data.report import DataReport
from deepwell.tuning.train.bases import Base, empty_model, open_base
from deepwell.tuning.train.config import TuneConfig
from deepwell.tuning.train.dataset import file_hashes
from deepwell.tuning.train.loop import processor_is_fast_at_bf16
from deepwell.tuning.train.lora import add_lora, trainable_parameters
from deepwell.tuning.train.memory import parameter_count, plan_memory

__all__ = ["MOST_HELD_OUT", "Encoded", "Plan", "plan_run", "run_hash"]

MOST_HELD_OUT: Final = 512  # prompts that figures are measured on
# What may differ between a run and its continuation: nothing of it changes the adapter.
_FREE: Final = ("threads", "save_every", "evaluate_every", "evaluation_samples")

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
        if not prompts:
            raise InvalidRequest(
                "every prompt to train on is held out, too",
                fix="give other prompts for validation",
                param="validation",
            )
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
        wanted = "bf16" if processor_is_fast_at_bf16() else "fp32"
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


def run_hash(plan: Plan) -> str:
    """Returns a digest of what decides the result: weights, data, and the settings but those that change nothing."""
    config = plan.config.to_json()
    for name in ("output", "model", "data", "validation"):
        config.pop(name)
    for name in _FREE:
        config["train"].pop(name)
    for name in ("reward", "cost", "judge"):
        if config[name]:
            for place in ("data", "models", "embedding_model"):  # places; the graders name the models
                config[name].pop(place)
    validation = plan.config.validation if isinstance(plan.config.validation, float) else None
    parts = [config, validation, plan.base.checkpoint.fingerprint, list(plan.data_hashes.values())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
