"""DeepSpeed ZeRO: its configuration from ours, for runs where DeepSpeed is installed."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from deepwell.errors import InvalidRequest, MissingDependency
from deepwell.tuning.train.config import StepConfig

__all__ = ["ZeroStage", "deepspeed_config", "zero_strategy"]

ZeroStage = Literal[1, 2, 3]
_INSTALL = "pip install deepspeed"


def deepspeed_config(
    settings: StepConfig, *, world: int, micro_tokens: int, stage: ZeroStage = 2, offload: bool = False
) -> dict[str, Any]:
    """Returns a configuration for `deepspeed.initialize` that computes what ours does.

    Args:
        settings: the optimisation. Its rate, warmup and schedule stay with the loop, which sets the rate of every step.
        world: number of processes.
        micro_tokens: tokens that a process computes at a time.
        stage: what is divided: 1 the optimiser's state, 2 also gradients, 3 also weights.
        offload: whether the optimiser's state lies in the memory of the host.
    """
    assert isinstance(settings.batch_tokens, int), "the plan of a run has replaced auto"
    steps = max(1, round(settings.batch_tokens / (micro_tokens * world)))
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": stage > 1}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": False}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": steps,
        "train_batch_size": steps * world,
        "gradient_clipping": settings.clip,
        # Losses are sums over tokens that the loop divides; a second division by the processes would scale them again.
        "prescale_gradients": False,
        "zero_optimization": zero,
        "bf16": {"enabled": settings.precision in ("auto", "bf16")},
        "fp16": {"enabled": settings.precision == "fp16"},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.learning_rate,
                "betas": [0.9, 0.999],
                "eps": 1e-8,
                "weight_decay": settings.weight_decay,
                "torch_adam": True,
            },
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }


def zero_strategy() -> Any:
    """Refuses the strategy `zero`, with what to do instead.

    Raises:
        MissingDependency: DeepSpeed is not installed.
        InvalidRequest: it is; its engine owns the optimiser, which the loop of `deepwell tune` does not hand over.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingDependency(
            "train.strategy is zero, which needs DeepSpeed, and it is not installed",
            fix=f"{_INSTALL}; or set train.strategy to fsdp2, which divides weights without it",
        )
    raise InvalidRequest(
        "train.strategy is zero, and DeepSpeed runs its own loop",
        fix="pass deepspeed_config() to deepspeed.initialize, or set train.strategy to fsdp2",
        param="train.strategy",
    )
