"""The mixture of experts of the numpy backend: DeepSeekMoE (arXiv:2401.06066) as V2, V3 and Qwen3-MoE route it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.reference_compressed import collapsed, expanded
from deepwell.engine.backends.reference_ops import Adapters, Float32, Matrix, own, rms_norm, swiglu
from deepwell.engine.backends.specs import MoeSpec, Scoring

__all__ = ["Moe", "moe", "route"]


def _best(scores: Float32, count: int) -> NDArray[np.intp]:
    """The `count` largest of each row, best first, the lower index on a tie: [tokens, count]."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :count]


def route(
    logits: Float32,
    correction_bias: Float32 | None,
    *,
    top_k: int,
    scoring: Scoring,
    n_group: int,
    topk_group: int,
    norm_topk_prob: bool,
    routed_scaling_factor: float,
    chosen: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.intp], Float32]:
    """Experts and weights of each token, best first, each [tokens, top_k]; `logits` are [tokens, experts].

    Experts that are `chosen` already, [tokens, top_k], keep their order.

    Group-limited choice is that of DeepSeek-V2 (arXiv:2405.04434, 2.2.2) and V3 (arXiv:2412.19437, 2.1.2).
    """
    wide = logits.astype(np.float64)
    if scoring == "sigmoid":
        scores = 1.0 / (1.0 + np.exp(-wide))
    elif scoring == "sqrtsoftplus":
        scores = np.sqrt(np.logaddexp(0.0, wide))
    else:
        scores = np.exp(wide - wide.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    scores = scores.astype(np.float32)
    corrected = scores if correction_bias is None else scores + correction_bias
    if n_group > 1:
        groups = corrected.reshape(len(logits), n_group, -1)
        if correction_bias is None:
            group_scores = groups.max(axis=2)
        else:
            group_scores = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2, dtype=np.float32)
        allowed = np.zeros(group_scores.shape, bool)
        np.put_along_axis(allowed, _best(group_scores, topk_group), True, axis=1)
        corrected = np.where(allowed[:, :, None], groups, -np.inf).reshape(corrected.shape)
    experts = _best(corrected, top_k) if chosen is None else chosen.astype(np.intp)
    weights = np.take_along_axis(scores, experts, axis=1)
    if norm_topk_prob:
        weights = weights / (weights.sum(axis=1, keepdims=True) + np.float32(1e-20))
    return experts, weights * np.float32(routed_scaling_factor)


class Moe:
    """x += sum over the chosen experts of weight * mlp(h), best expert first, + shared mlp(h), h = rms_norm(x)."""

    def __init__(self, spec: MoeSpec) -> None:
        self.spec = spec
        self.gate_up = own(spec.gate_up)
        self.down = own(spec.down)
        self.shared_gate_up = None if spec.shared_gate_up is None else own(spec.shared_gate_up)
        self.shared_down = None if spec.shared_down is None else own(spec.shared_down)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Matrices that adapters may change."""
        routed, shared = ("experts_gate_up", "experts_down"), ("shared_gate_up", "shared_down")
        return routed if self.shared_gate_up is None else routed + shared

    @cached_property
    def loads(self) -> NDArray[np.uint64]:
        """Rows that each expert has seen so far, then how often the weights of any were read: [num_experts + 1]."""
        return np.zeros(self.spec.num_experts + 1, np.uint64)

    @cached_property
    def _experts(self) -> list[tuple[Matrix, Matrix]]:
        up, down = self.gate_up.rows // self.spec.num_experts, self.down.rows // self.spec.num_experts
        return [
            (self.gate_up.part(e * up, up), self.down.part(e * down, down))
            for e in range(self.spec.num_experts)
        ]

    def routed(self, h: Float32, tokens: NDArray[np.int32] | None = None) -> tuple[NDArray[np.intp], Float32]:
        """Experts and weights of normed rows [tokens, hidden] of these tokens, each [tokens, top_k].

        Logits are summed in float64, so that they are the right ones whatever order a kernel sums in.
        """
        table = self.spec.token_experts
        logits = (h.astype(np.float64) @ self.spec.router.T.astype(np.float64)).astype(np.float32)
        return route(
            logits,
            self.spec.correction_bias,
            top_k=self.spec.top_k,
            scoring=self.spec.scoring,
            n_group=self.spec.n_group,
            topk_group=self.spec.topk_group,
            norm_topk_prob=self.spec.norm_topk_prob,
            routed_scaling_factor=self.spec.routed_scaling_factor,
            chosen=None if table is None or tokens is None else table[tokens],
        )

    def forward(self, x: Float32, adapters: Adapters, tokens: NDArray[np.int32] | None = None) -> Float32:
        """The residual stream after this layer, or the streams, [tokens, streams, hidden]."""
        if self.spec.hyper is None:
            return x + self._output(x, adapters, tokens)
        joined, post, comb = collapsed(self.spec.hyper, x)
        return expanded(x, self._output(joined, adapters, tokens), post, comb)

    def _output(self, x: Float32, adapters: Adapters, ids: NDArray[np.int32] | None) -> Float32:
        h = rms_norm(x, self.spec.norm, self.spec.eps)
        chosen, weights = self.routed(h, ids)
        rows = np.bincount(chosen.reshape(-1), minlength=self.spec.num_experts)
        self.loads[...] += np.append(rows, np.count_nonzero(rows)).astype(np.uint64)
        outputs = np.empty((*chosen.shape, x.shape[1]), np.float32)  # [tokens, top_k, hidden]
        for e in range(self.spec.num_experts):
            tokens, ranks = np.nonzero(chosen == e)
            if not len(tokens):
                continue
            gate_up, down = self._experts[e]
            both = adapters.matmul(h[tokens], gate_up, "experts_gate_up", tokens, e * gate_up.rows)
            result = adapters.matmul(
                swiglu(both, self.spec.limit), down, "experts_down", tokens, e * down.rows
            )
            outputs[tokens, ranks] = result[:, : x.shape[1]]
        total = np.zeros_like(x)
        for rank in range(self.spec.top_k):
            total += weights[:, rank, None] * outputs[:, rank]
        if self.shared_gate_up is not None and self.shared_down is not None:
            both = adapters.matmul(h, self.shared_gate_up, "shared_gate_up")
            total += adapters.matmul(swiglu(both, self.spec.limit), self.shared_down, "shared_down")
        return total


def moe(spec: MoeSpec) -> Moe:
    """Makes the layer of a spec."""
    return Moe(spec)
