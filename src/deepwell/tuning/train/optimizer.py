"""AdamW and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from deepwell.tuning.train.config import StepConfig

__all__ = ["learning_rate", "make_optimizer", "set_learning_rate"]


def make_optimizer(
    named: Iterable[tuple[str, torch.nn.Parameter]], settings: StepConfig
) -> torch.optim.AdamW:
    """Returns AdamW over the trained parameters; vectors, such as norms and biases, do not decay."""
    trained = [parameter for _, parameter in named if parameter.requires_grad]
    groups = [
        {"params": [one for one in trained if one.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in trained if one.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=_number(settings),
        betas=(0.9, 0.999),
        eps=1e-8,
    )


def learning_rate(step: int, steps: int, settings: StepConfig) -> float:
    """Returns the rate of a step, from 0: it rises over the warm-up, then falls to a tenth (cosine), to 0, or stays."""
    highest = _number(settings)
    warmup = math.ceil(settings.warmup * steps)
    if step < warmup:
        return highest * (step + 1) / warmup
    if settings.schedule == "constant":
        return highest
    done = (step - warmup) / max(1, steps - warmup)
    if settings.schedule == "linear":
        return highest * (1 - done)
    return highest * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _number(settings: StepConfig) -> float:
    rate = settings.learning_rate
    assert isinstance(rate, float), "the plan of a run has replaced auto"
    return rate
