"""Frozen specs of a model's layers, which every backend takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.layouts import Scheme

__all__ = [
    "AttentionSpec",
    "CompressedAttentionSpec",
    "CompressedPage",
    "CompressorSpec",
    "EntryIndexer",
    "EntryShape",
    "HyperHeadSpec",
    "HyperSpec",
    "Indexer",
    "Join",
    "LatentAttentionSpec",
    "Matrix",
    "MemorySpec",
    "MoeSpec",
    "Scoring",
]

Scoring = Literal["softmax", "sigmoid", "sqrtsoftplus"]


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

    A model with several residual streams (DeepSeek-V4) has a state for each, as they are before the head mixes them, and
    x = proj rms_norm(embed(token)) + state_proj rms_norm(state): [hidden, hidden] both.
    """

    embed_norm: NDArray[np.float32]  # [hidden]
    state_norm: NDArray[np.float32]  # [hidden]
    proj: Matrix  # [hidden, 2 hidden]
    state_proj: Matrix | None = None


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
class HyperSpec:
    """Manifold-constrained hyper-connections (DeepSeek-V4): a layer reads one mixture of several residual streams.

    Attributes:
        weights: [(2 + streams) streams, streams x hidden]: what gives the input's weights, the output's, and the streams'.
        base: [(2 + streams) streams], added to their scaled sums.
        scale: [3], of each of the three.
        rounds: of Sinkhorn and Knopp, which bring rows and columns of the streams' weights to a sum of 1.
        eps: added to sums and weights; `norm_eps` to the mean square of all streams, which are normed together.
    """

    weights: NDArray[np.float32]
    base: NDArray[np.float32]
    scale: NDArray[np.float32]
    streams: int
    rounds: int
    eps: float
    norm_eps: float


@dataclass(frozen=True, slots=True, eq=False)
class HyperHeadSpec:
    """The mixture of the residual streams that the final norm reads: `weights` [streams, streams x hidden]."""

    weights: NDArray[np.float32]
    base: NDArray[np.float32]  # [streams]
    scale: NDArray[np.float32]  # [1]
    streams: int
    eps: float
    norm_eps: float


@dataclass(frozen=True, slots=True, eq=False)
class CompressorSpec:
    """Says how entries are made: one of `rate` tokens, the mean of their values weighted by a softmax of their gates.

    Attributes:
        width: of an entry.
        overlap: whether an entry is made of the tokens before, too: each token's parts are twice as wide then, and
            their first halves are for the entry that follows.
        bias: [rate, width (twice that with overlap)], added to the gates by place.
        norm: [width], of the finished entry, before it is rotated by the place of its first token.
    """

    rate: int
    width: int
    overlap: bool
    bias: NDArray[np.float32]
    norm: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EntryShape:
    """Entries of `rate` tokens; see `CompressorSpec`."""

    rate: int
    width: int
    overlap: bool


@dataclass(frozen=True, slots=True)
class CompressedPage:
    """Names what a block of the cache holds of one layer: vectors, and the entries of attention and of the indexer, if any."""

    width: int
    entries: tuple[EntryShape, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class EntryIndexer:
    """The lightning indexer over entries: a query attends to the `top_k` of largest score alone.

    score(e) = sum over heads of (w_h / sqrt(num_heads)) relu(q_h e / sqrt(width)), with e the indexer's own entries,
    w = weights h and q = rope(q_b q_norm(q_a h)).
    """

    compressor: CompressorSpec
    q_b: Matrix  # [num_heads x width, q_lora_rank]
    weights: NDArray[np.float32]  # [num_heads, hidden]
    num_heads: int
    top_k: int


@dataclass(frozen=True, slots=True, eq=False)
class CompressedAttentionSpec:
    """DeepSeek-V4's attention: a window of the last tokens, and entries that stand for several tokens each.

    Attributes:
        a: rows [q_a (q_lora_rank); vector (head_dim)], then values and gates of the compressor, then of the indexer's.
        q_b: rows heads x head_dim; each head is normed without weights.
        kv_norm: [head_dim], of the vector, which is key and value.
        o_a: rows o_groups x pad32(rank), cols heads / o_groups x head_dim: each group of heads has its own.
        o_b: cols o_groups x rank.
        sinks: [heads], a logit without a value.
        cos, sin: [positions, rope / 2] of this kind of layer; they rotate the last dimensions in pairs (2i, 2i + 1).
        compressor: None: the window alone.
        indexer: None: all entries.
    """

    norm: NDArray[np.float32]
    a: Matrix
    q_norm: NDArray[np.float32]
    q_b: Matrix
    kv_norm: NDArray[np.float32]
    o_a: Matrix
    o_b: Matrix
    sinks: NDArray[np.float32]
    cos: NDArray[np.float32]
    sin: NDArray[np.float32]
    hyper: HyperSpec
    num_heads: int
    head_dim: int
    q_lora_rank: int
    o_groups: int
    window: int
    eps: float
    compressor: CompressorSpec | None = None
    indexer: EntryIndexer | None = None

    @property
    def compressors(self) -> tuple[tuple[str, CompressorSpec], ...]:
        """Returns what makes entries: of attention ("entries"), and of the indexer ("index")."""
        own = () if self.compressor is None else (("entries", self.compressor),)
        return own if self.indexer is None else (*own, ("index", self.indexer.compressor))


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
    limit: float = 0.0  # of gate (above) and up (both ways) before they are multiplied; 0: none
    token_experts: NDArray[np.int32] | None = (
        None  # [vocab, top_k]: tokens choose their experts, scores only weigh them
    )
    hyper: HyperSpec | None = None  # None: one residual stream
