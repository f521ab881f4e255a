"""Frozen specs of a model's layers, which every backend takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.layouts import Scheme

__all__ = [
    "AttentionSpec",
    "Indexer",
    "Join",
    "LatentAttentionSpec",
    "Matrix",
    "MemorySpec",
    "MoeSpec",
    "Scoring",
]

Scoring = Literal["softmax", "sigmoid"]


class Matrix(Protocol):
    """A packed weight matrix y = W x, W: [rows, cols]; the layouts are specified in `quantize`."""

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    @property
    def scheme(self) -> Scheme: ...


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSpec:
    """Grouped-query attention. `q_norm` and `k_norm` come together: RMSNorm of each query and key head before rotation."""

    norm: NDArray[np.float32]  # [hidden]
    qkv: Matrix  # rows [q heads; k heads; v heads]
    bias: NDArray[np.float32] | None  # [qkv.rows]
    o: Matrix
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    q_norm: NDArray[np.float32] | None = None  # [head_dim]
    k_norm: NDArray[np.float32] | None = None  # [head_dim]


@dataclass(frozen=True, slots=True)
class MemorySpec:
    """Factors of the keys and values that leave a window: keys ~ A B + mean and values ~ C D + mean, of each layer and KV head.

    A and C are codes of 4 bits with one scale a column, which is part of B and D (bf16); the means are float32. Keys are
    without their rotation, and all tokens of a piece of 256 are seen at one place, that of its middle.
    """

    tokens: int  # of a segment, which has one basis: those that leave at once
    first: int  # place in the window of the first of them
    key_rank: int  # columns of A, a multiple of 16
    value_rank: int  # columns of C, a multiple of 16
    floor: int  # place below which no token is seen: older ones are seen there
    most: int  # segments that are kept; the oldest are dropped


@dataclass(frozen=True, slots=True, eq=False)
class Indexer:
    """The lightning indexer of DeepSeek-V3.2: a query attends to the `top_k` tokens of largest score alone.

    score(t) = sum over heads of (w_h / sqrt(num_heads)) relu(q_h k_t / sqrt(head_dim)), with h = rms_norm(x),
    w = weights h, q = rope(q_b q_norm(q_a h)), k = rope(layer_norm(k h)). The first qk_rope_head_dim dimensions of
    queries and keys are rotated (i with i + rope / 2; they were never interleaved). On equal scores the earlier token
    is taken; a query of at most `top_k` visible tokens attends to all of them.
    """

    q_b: Matrix  # [num_heads x head_dim, q_lora_rank]
    k: Matrix  # [head_dim, hidden]
    k_norm: NDArray[np.float32]  # [head_dim], LayerNorm of epsilon 1e-6
    k_shift: NDArray[np.float32]  # [head_dim]
    weights: NDArray[np.float32]  # [num_heads, hidden], float32 like a router
    num_heads: int
    head_dim: int
    top_k: int


@dataclass(frozen=True, slots=True, eq=False)
class Join:
    """Input rows of a multi-token prediction layer (arXiv:2412.19437, section 2.2), in place of embeddings.

    x = proj [rms_norm(embed(token)); rms_norm(state)]: the state is the main model's, after its final norm, at the place
    before the token's.
    """

    embed_norm: NDArray[np.float32]  # [hidden]
    state_norm: NDArray[np.float32]  # [hidden]
    proj: Matrix  # [hidden, 2 hidden]


@dataclass(frozen=True, slots=True, eq=False)
class LatentAttentionSpec:
    """Multi-head latent attention. A head of `k_up`, `k_absorb` and `v_up` begins at a panel; the rows that pad it are zero.

    Attributes:
        a: rows [q_a (q_lora_rank); latent (kv_lora_rank); k_pe (rope)] of the normed hidden state; with `q_b` None
            the first rows are the queries themselves, as those of `q_b`.
        q_norm: [q_lora_rank]; None together with `q_b`.
        q_b: rows heads x (nope + rope), a head after the other.
        kv_norm: [kv_lora_rank], of the latent before it is cached.
        k_up: rows heads x pad32(nope), cols kv_lora_rank: expands a latent to keys.
        k_absorb: rows heads x pad32(kv_lora_rank), cols nope: takes a query to the latents' space.
        v_up: rows heads x pad32(v_head_dim), cols kv_lora_rank: expands a latent, or the attended latent of the
            absorbed path, to values.
        o: cols heads x v_head_dim.
        scale: of the scores, yarn's mscale squared included.
    """

    norm: NDArray[np.float32]
    a: Matrix
    q_norm: NDArray[np.float32] | None
    q_b: Matrix | None
    kv_norm: NDArray[np.float32]
    k_up: Matrix
    k_absorb: Matrix
    v_up: Matrix
    o: Matrix
    num_heads: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    kv_lora_rank: int
    scale: float
    eps: float
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MoeSpec:
    """A mixture of experts. The routed sum is taken from the best expert down, whatever else is in the batch.

    Attributes:
        router: [num_experts, hidden], multiplied in float32.
        correction_bias: [num_experts], added to the scores that choose and not to the weights; a group's score is
            then the sum of its two best corrected scores (V3), else its best score (V2). On equal scores the lower
            index is taken.
        gate_up: stacked, rows experts x 2 pad16(moe_intermediate), alternating 16 of gate, 16 of up.
        down: stacked, rows experts x pad32(hidden), cols pad16(moe_intermediate).
        shared_gate_up, shared_down: one ordinary MLP, or None.
    """

    norm: NDArray[np.float32]
    router: NDArray[np.float32]
    correction_bias: NDArray[np.float32] | None
    gate_up: Matrix
    down: Matrix
    shared_gate_up: Matrix | None
    shared_down: Matrix | None
    num_experts: int
    top_k: int
    scoring: Scoring
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    eps: float
