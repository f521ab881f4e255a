"""The memory plan of an encoder: weights and workspace, without a cache."""

from __future__ import annotations

from deepwell.engine.encoder.loop import EncoderLimits
from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.machine import available_memory_bytes
from deepwell.engine.plan import PROCESS_BYTES, MemoryPlan
from deepwell.engine.weights.load import weights_nbytes
from deepwell.errors import InsufficientMemory, InvalidRequest
from deepwell.models.formats.config import ModelConfig

__all__ = ["plan_encoder"]


def plan_encoder(
    config: ModelConfig,
    precision: Precision,
    context: int | None = None,
    kv_dtype: KVDtype = "bf16",
    available_bytes: int | None = None,
) -> MemoryPlan:
    """Makes the memory plan and checks that it fits.

    Args:
        context: tokens a sequence may hold; None: all positions of the model.
        available_bytes: memory to plan for; None: what this machine and its cgroup have left.

    Raises:
        InsufficientMemory: the plan does not fit; the message has the numbers.
        InvalidRequest: `context` is larger than the number of positions.
    """
    limit = config.max_position_embeddings
    if context is not None and not 1 <= context <= limit:
        raise InvalidRequest.of("context_too_long_for_model", tokens=context, limit=limit, param="context")
    # A step of few sequences keeps all its rows at once: floats, and two bytes per quantised column.
    rows = max(EncoderLimits().tokens, context or limit)
    row_bytes = 4 * (2 * config.hidden_size + 3 * config.hidden_size) + 2 * config.intermediate_size
    if precision == "fp32":
        row_bytes += 4 * (config.hidden_size + config.intermediate_size)
    made = MemoryPlan(
        precision=precision,
        kv_dtype=kv_dtype,
        context=context or limit,
        kv_cache_tokens=0,
        weights_bytes=weights_nbytes(config, precision),
        kv_cache_bytes=0,
        workspace_bytes=rows * row_bytes * 5 // 4 + PROCESS_BYTES,
        available_bytes=available_memory_bytes() if available_bytes is None else available_bytes,
    )
    if made.total_bytes > made.available_bytes:
        smaller = "use --precision int8, or " if precision == "fp32" else ""
        raise InsufficientMemory(
            f"need {made.total_bytes / 1e6:.0f} MB, have {made.available_bytes / 1e6:.0f} MB",
            fix=f"{smaller}free memory",
        )
    return made
