"""The MLP of a layer, dense or a mixture of experts: its tensors, and the coarse layer built from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures.tensors import HeadRows, MatrixPlan, TensorPlan, VectorPlan
from deepwell.engine.backends.backend import Backend, Matrix, Mlp, Moe
from deepwell.engine.backends.specs import MoeSpec
from deepwell.engine.layouts import PANEL
from deepwell.engine.weights.packed import Weights
from deepwell.models.formats.config import ModelConfig

__all__ = ["build_mlp", "mlp_tensors", "wrapped"]

_RUN = 16  # rows of gate and of up alternate in runs of this length


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _dense(name: str, source: str, hidden: int, intermediate: int) -> tuple[MatrixPlan, MatrixPlan]:
    inner = _padded(intermediate, _RUN)
    gate_up = tuple(f"{source}.{part}_proj.weight" for part in ("gate", "up"))
    return (
        MatrixPlan(f"{name}gate_up", 2 * inner, hidden, gate_up, "body", "interleave"),
        MatrixPlan(f"{name}down", hidden, inner, (f"{source}.down_proj.weight",), "body"),
    )


def mlp_tensors(config: ModelConfig, layer: int) -> TensorPlan:
    """Returns the tensors of the MLP of layer `layer`, including its norm."""
    hidden, source = config.hidden_size, f"model.layers.{layer}.mlp"
    norm = VectorPlan(f"{layer}.mlp_norm", hidden, (f"model.layers.{layer}.post_attention_layernorm.weight",))
    if not config.has_experts(layer):
        return TensorPlan(_dense(f"{layer}.", source, hidden, config.mlp_size(layer)), (norm,))
    count, inner = config.num_experts, _padded(config.moe_intermediate_size, _RUN)
    experts = [f"{source}.experts.{e}" for e in range(count)]
    gate_up = tuple(f"{e}.{part}_proj.weight" for e in experts for part in ("gate", "up"))
    down = tuple(f"{e}.down_proj.weight" for e in experts)
    panels = HeadRows(1, hidden, 0, hidden, pad=PANEL)
    matrices = [
        MatrixPlan(f"{layer}.experts_gate_up", count * 2 * inner, hidden, gate_up, "body", "interleave"),
        MatrixPlan(
            f"{layer}.experts_down", count * panels.padded, inner, down, "body", heads=(panels,) * count
        ),
    ]
    if config.num_shared_experts:
        shared = config.num_shared_experts * config.moe_intermediate_size
        matrices += _dense(f"{layer}.shared_", f"{source}.shared_experts", hidden, shared)
    vectors = [norm, VectorPlan(f"{layer}.router", count * hidden, (f"{source}.gate.weight",))]
    if config.has_correction_bias:
        bias = f"{source}.gate.e_score_correction_bias"
        vectors.append(VectorPlan(f"{layer}.correction_bias", count, (bias,)))
    return TensorPlan(tuple(matrices), tuple(vectors))


def wrapped(backend: Backend, weights: Weights) -> dict[str, Matrix]:
    """Returns the packed matrices in the backend's form, by name."""
    return {
        name: backend.matrix(packed.data, packed.rows, packed.cols, packed.scheme)
        for name, packed in weights.matrices.items()
    }


def build_mlp(
    backend: Backend,
    matrices: Mapping[str, Matrix],
    vectors: Mapping[str, NDArray[np.float32]],
    config: ModelConfig,
    layer: int,
) -> Mlp | Moe:
    """Builds the coarse layer from the tensors of `mlp_tensors`."""
    norm, eps = vectors[f"{layer}.mlp_norm"], config.rms_norm_eps
    if not config.has_experts(layer):
        return backend.mlp(norm, matrices[f"{layer}.gate_up"], matrices[f"{layer}.down"], eps=eps)
    return backend.moe(
        MoeSpec(
            norm,
            vectors[f"{layer}.router"].reshape(config.num_experts, config.hidden_size),
            vectors.get(f"{layer}.correction_bias"),
            matrices[f"{layer}.experts_gate_up"],
            matrices[f"{layer}.experts_down"],
            matrices.get(f"{layer}.shared_gate_up"),
            matrices.get(f"{layer}.shared_down"),
            num_experts=config.num_experts,
            top_k=config.num_experts_per_tok,
            scoring=config.scoring_func,
            n_group=config.n_group,
            topk_group=config.topk_group,
            norm_topk_prob=config.norm_topk_prob,
            routed_scaling_factor=config.routed_scaling_factor,
            eps=eps,
        )
    )
