"""The cost of one more row in a step of a given model, used by speculation."""

from __future__ import annotations

from collections.abc import Iterable

from deepwell.engine.architectures import tensor_plan
from deepwell.engine.architectures.tensors import MatrixPlan
from deepwell.engine.limits import RowCost
from deepwell.models.formats.config import ModelConfig

__all__ = ["expected_row_cost"]


def expected_row_cost(config: ModelConfig) -> RowCost:
    """Returns the cost of rows, in steps of one row, from the weights that each row reads.

    In a mixture of experts a second row shares all weights except those of routed experts. It reads its own experts, apart
    from the few that both rows chose. Further rows share more. A pass of the multi-token prediction layer reads that layer
    and the head.
    """
    dense = RowCost()
    if not config.num_experts and config.prediction_layer is None:
        return dense
    prediction = f"{config.prediction_layer}."
    matrices = [
        m for m in tensor_plan(config).matrices if not m.name.endswith(".k_up")
    ]  # expands prompts alone
    body = [m for m in matrices if m.name != "embed" and not m.name.startswith(("join", prediction))]
    if config.tie_word_embeddings:
        body += [m for m in matrices if m.name == "embed"]
    head = [m for m in body if m.name in ("head", "embed")]
    own = [m for m in matrices if m.name.startswith(("join", prediction))]
    fraction = config.num_experts_per_tok / config.num_experts if config.num_experts else 0.0
    shared = _weights(m for m in body if ".experts_" not in m.name)
    routed = fraction * _weights(m for m in body if ".experts_" in m.name)
    whole = shared + routed
    part = routed / whole
    layer = _weights(m for m in own if ".experts_" not in m.name) + fraction * _weights(
        m for m in own if ".experts_" in m.name
    )
    return RowCost(
        second=dense.second * (1.0 - part) + part * (1.0 - fraction),
        further=dense.further * (1.0 - part) + max(dense.further, (1.0 - fraction) ** 2) * part,
        predict=(layer + _weights(head)) / whole if own else 0.0,
    )


def _weights(matrices: Iterable[MatrixPlan]) -> float:
    return float(sum(matrix.rows * matrix.cols for matrix in matrices))
