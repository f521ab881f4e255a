"""What a backend offers an architecture file. `reference` (numpy) specifies it, `native` (C++) makes it fast.

Both modules hold classes of these names with these constructors; an architecture composes them once at load, and one call
of `Model.forward` runs a whole step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.core.batch import Adapter, Batch
from deepwell.engine.layouts import KVDtype, Scheme
from deepwell.engine.weights.low_rank import LowRank

__all__ = [
    "Adapter",
    "Attention",
    "Backend",
    "Indexer",
    "Join",
    "KVCache",
    "LatentAttention",
    "Layer",
    "Matrix",
    "Mlp",
    "Model",
    "Moe",
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


class Attention(Protocol):
    """x += o(attend(rope(qkv(rms_norm(x)))))."""


class Mlp(Protocol):
    """x += down(silu(gate(h)) * up(h)), h = rms_norm(x)."""


class LatentAttention(Protocol):
    """x += o(attend(q, latents)): multi-head latent attention (arXiv:2405.04434, section 2.1)."""


class Moe(Protocol):
    """x += sum of the chosen experts' weighted MLPs + the shared MLP, all on h = rms_norm(x)."""


Layer = Attention | Mlp | LatentAttention | Moe


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
    """What the rows of a multi-token prediction layer begin as (arXiv:2412.19437, section 2.2), in place of embeddings.

    x = proj [rms_norm(embed(token)); rms_norm(state)]: the state is the main model's, after its final norm, at the place
    before the token's.
    """

    embed_norm: NDArray[np.float32]  # [hidden]
    state_norm: NDArray[np.float32]  # [hidden]
    proj: Matrix  # [hidden, 2 hidden]


class KVCache(Protocol):
    """Paged keys and values of every layer; block b holds positions of one sequence, 16 tokens."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Model(Protocol):
    """A decoder ready to run."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def expert_loads(self) -> NDArray[np.uint64]:
        """Rows that each expert has seen so far, [mixtures, experts]; [0, 0] in a dense model. Any thread may ask."""
        ...

    @property
    def expert_reads(self) -> NDArray[np.uint64]:
        """How often the weights of any expert were read, once a step for all of its rows: [mixtures]."""
        ...

    def adapter(self, parts: Mapping[str, Sequence[LowRank]]) -> Adapter:
        """Make an adapter: `parts` has by name what is added to a matrix; one that is left out is left alone.

        A name is "block.matrix", as in a `TensorPlan`; a block is an attention layer and what follows it up to the next,
        counted from 0. Its matrices: qkv and o; a, q_b (where there is one) and o of latent attention; gate_up and down;
        of a mixture experts_gate_up and experts_down, the stacked ones, shared_gate_up and shared_down (where there are
        any). Products of one input share a matrix: a part's `rows` say which of its outputs are meant.
        Beside int8 and int4 weights an adapter is kept as bf16, beside fp32 as fp32; sums are float32.

        Raises:
            ValueError: a name is none of this model's.
        """
        ...

    def forward(
        self,
        batch: Batch,
        cache: KVCache,
        *,
        logits: NDArray[np.float32] | None = None,
        argmax: NDArray[np.int32] | None = None,
        hidden: NDArray[np.float32] | None = None,
        targets: NDArray[np.int32] | None = None,
        target_logprobs: NDArray[np.float32] | None = None,
        previous: NDArray[np.float32] | None = None,
        states: NDArray[np.float32] | None = None,
    ) -> None:
        """Run one step, write keys and values into `cache`, and fill the output arrays that are given.

        Args:
            logits: [outputs, vocab_size].
            argmax: [outputs], the most likely token, the lowest id on a tie; any int32 where no logit is a number.
            hidden: [outputs, hidden_size], after the final norm.
            targets: [outputs], token ids whose log probabilities `target_logprobs` [outputs] receives.
            previous: [rows, hidden_size], what a model with a `Join` reads; others take none.
            states: [rows, hidden_size], of every row, after the final norm.
        """
        ...


class Backend(Protocol):
    """The module surface shared by `reference` and `native`."""

    @property
    def name(self) -> str: ...

    def matrix(self, data: NDArray[np.uint8], rows: int, cols: int, scheme: Scheme) -> Matrix:
        """Wrap packed bytes (not copied, kept alive)."""
        ...

    def attention(
        self,
        norm: NDArray[np.float32],
        qkv: Matrix,
        bias: NDArray[np.float32] | None,
        o: Matrix,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        eps: float,
        q_norm: NDArray[np.float32] | None = None,
        k_norm: NDArray[np.float32] | None = None,
    ) -> Attention:
        """`qkv` rows are [q heads; k heads; v heads]; `bias` is [qkv.rows].

        `q_norm` and `k_norm` [head_dim] come together: RMSNorm of each query and key head before rotation.
        """
        ...

    def mlp(self, norm: NDArray[np.float32], gate_up: Matrix, down: Matrix, *, eps: float) -> Mlp:
        """`gate_up` rows alternate 16 of gate, 16 of up (`quantize.interleave_gate_up`)."""
        ...

    def latent_attention(
        self,
        norm: NDArray[np.float32],
        a: Matrix,
        q_norm: NDArray[np.float32] | None,
        q_b: Matrix | None,
        kv_norm: NDArray[np.float32],
        k_up: Matrix,
        k_absorb: Matrix,
        v_up: Matrix,
        o: Matrix,
        *,
        num_heads: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        kv_lora_rank: int,
        scale: float,
        eps: float,
        indexer: Indexer | None = None,
    ) -> LatentAttention:
        """A head of `k_up`, `k_absorb` and `v_up` begins at a panel; the rows that pad it are zero.

        Args:
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
        ...

    def moe(
        self,
        norm: NDArray[np.float32],
        router: NDArray[np.float32],
        correction_bias: NDArray[np.float32] | None,
        gate_up: Matrix,
        down: Matrix,
        shared_gate_up: Matrix | None,
        shared_down: Matrix | None,
        *,
        num_experts: int,
        top_k: int,
        scoring: Scoring,
        n_group: int,
        topk_group: int,
        norm_topk_prob: bool,
        routed_scaling_factor: float,
        eps: float,
    ) -> Moe:
        """A mixture of experts; the routed sum is taken from the best expert down, whatever else is in the batch.

        Args:
            router: [num_experts, hidden], multiplied in float32.
            correction_bias: [num_experts], added to the scores that choose and not to the weights; a group's score is
                then the sum of its two best corrected scores (V3), else its best score (V2). On equal scores the lower
                index is taken.
            gate_up: stacked, rows experts x 2 pad16(moe_intermediate), alternating 16 of gate, 16 of up.
            down: stacked, rows experts x pad32(hidden), cols pad16(moe_intermediate).
            shared_gate_up, shared_down: one ordinary MLP, or None.
        """
        ...

    def latent_cache(
        self,
        num_layers: int,
        num_blocks: int,
        kv_lora_rank: int,
        qk_rope_head_dim: int,
        dtype: KVDtype,
        index_head_dim: int = 0,
    ) -> KVCache:
        """Latents (after kv_norm) and rotated k_pe of every token, and the indexer's key where there is one.

        int8 keeps the latent as int8 with one float32 scale a token, k_pe and the indexer's key as bf16.
        """
        ...

    def kv_cache(
        self, num_layers: int, num_blocks: int, num_kv_heads: int, head_dim: int, dtype: KVDtype
    ) -> KVCache: ...

    def model(
        self,
        embed: Matrix,
        layers: Sequence[Layer],
        norm: NDArray[np.float32],
        head: Matrix,
        cos: NDArray[np.float32],
        sin: NDArray[np.float32],
        *,
        eps: float,
        join: Join | None = None,
    ) -> Model:
        """`cos` and `sin` are [max_positions, rotary_dim / 2]; rotation pairs dimension i with i + rotary_dim / 2.

        The layers alternate attention and MLP of any kind; one model has one kind of attention, and its cache.

        `embed` and `head` may be the same matrix (tied embeddings); an embedding row is its dequantised weights.
        With a `join` the model is a multi-token prediction layer: one pair of layers, with a cache of one layer.
        """
        ...
