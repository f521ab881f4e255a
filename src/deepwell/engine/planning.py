"""`plan_engine`: the memory plan of a model file. It imports nothing that runs a model, so that a server can plan at once.

`plan_config` is the plan of a model whose sizes alone are known.
"""

from __future__ import annotations

from deepwell.engine.encoder.plan import plan_encoder
from deepwell.engine.layouts import Precision
from deepwell.engine.options import EngineOptions
from deepwell.engine.plan import MemoryPlan, plan
from deepwell.engine.weights.load import resolve_precision
from deepwell.models.formats.checkpoint import Checkpoint
from deepwell.models.formats.config import ModelConfig

__all__ = ["plan_config", "plan_engine"]


def plan_engine(
    checkpoint: Checkpoint,
    options: EngineOptions,
    available_bytes: int | None = None,
    *,
    joins: bool = False,
) -> MemoryPlan:
    """Returns the memory plan that `open_engine` would follow, to print before loading.

    Args:
        available_bytes: memory to plan for; None: what this machine and its cgroup have left.
        joins: whether the model joins others in a server, whose own memory is then in the plan of the first.

    Raises:
        InsufficientMemory: it does not fit; the fix names the flags that would.
    """
    precision, _ = resolve_precision(options.precision, checkpoint)
    return plan_config(checkpoint.config, precision, options, available_bytes, joins=joins)


def plan_config(
    config: ModelConfig,
    precision: Precision,
    options: EngineOptions,
    available_bytes: int | None = None,
    *,
    joins: bool = False,
) -> MemoryPlan:
    """Returns the memory plan of a model whose file need not be here. The precision of the options does not count.

    Raises:
        InsufficientMemory: it does not fit; the fix names the flags that would.
    """
    if config.is_encoder:
        return plan_encoder(
            config,
            precision,
            options.context,
            options.kv_dtype,
            available_bytes,
            threads=options.threads,
            joins=joins,
        )
    return plan(
        config,
        precision,
        options.context,
        options.kv_dtype,
        options.kv_tokens,
        available_bytes,
        batch_size=options.batch_size,
        predicts=options.speculation != "off",
        joins=joins,
    )
