"""`plan_engine`: the memory plan of a model file. It imports nothing that runs a model, so that a server can plan at once."""

from __future__ import annotations

from deepwell.engine.encoder.plan import plan_encoder
from deepwell.engine.options import EngineOptions
from deepwell.engine.plan import MemoryPlan, plan
from deepwell.engine.weights.load import resolve_precision
from deepwell.models.formats.checkpoint import Checkpoint

__all__ = ["plan_engine"]


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
    config = checkpoint.config
    precision, _ = resolve_precision(options.precision, checkpoint)
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
        predicts=options.speculation != "off",
        joins=joins,
    )
