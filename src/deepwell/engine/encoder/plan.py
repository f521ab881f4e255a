"""The memory plan of an encoder: weights and workspace, without a cache."""

from __future__ import annotations

from deepwell.engine.encoder.loop import EncoderLimits
from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.machine import available_memory_bytes, usable_cpus
from deepwell.engine.plan import MemoryPlan, engine_process_bytes, server_bytes
from deepwell.engine.weights.load import weights_nbytes
from deepwell.errors import InsufficientMemory, InvalidRequest
from deepwell.models.formats.config import ModelConfig

__all__ = ["plan_encoder"]

_GROUP_ROWS = 192  # kGroupRows of csrc/kernels/encoder.h


def plan_encoder(
    config: ModelConfig,
    precision: Precision,
    context: int | None = None,
    kv_dtype: KVDtype = "bf16",
    available_bytes: int | None = None,
    *,
    threads: int | None = None,
    joins: bool = False,
) -> MemoryPlan:
    """Makes the memory plan and checks that it fits.

    Args:
        context: tokens a sequence may hold; None: all positions of the model.
        available_bytes: memory to plan for; None: what this machine and its cgroup have left.
        threads: threads that compute; None: the processors that affinity and cgroup allow.
        joins: whether the model joins others in a server; see `server_bytes`.

    Raises:
        InsufficientMemory: the plan does not fit; the message has the numbers.
        InvalidRequest: `context` is larger than the number of positions.
    """
    limit = config.max_position_embeddings
    if context is not None and not 1 <= context <= limit:
        raise InvalidRequest.of("context_too_long_for_model", tokens=context, limit=limit, param="context")
    # With two groups of sequences a thread, each thread keeps the rows of one; with fewer, all rows are kept at once. Floats,
    # and two bytes per quantised column.
    groups = 2 * (usable_cpus() if threads is None else threads) - 1
    rows = max(min(EncoderLimits().tokens, groups * max(_GROUP_ROWS, context or limit)), context or limit)
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
        workspace_bytes=rows * row_bytes * 5 // 4 + engine_process_bytes(config),
        server_bytes=server_bytes(config, joins=joins),
        available_bytes=available_memory_bytes() if available_bytes is None else available_bytes,
    )
    if made.total_bytes > made.available_bytes:
        smaller = "use --precision int8, or " if precision == "fp32" else ""
        raise InsufficientMemory(
            f"need {made.total_bytes / 1e6:.0f} MB, have {made.available_bytes / 1e6:.0f} MB",
            fix=f"{smaller}free memory",
        )
    return made
