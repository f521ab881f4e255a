"""The protocol of a backend, as architecture files use it. `reference` (numpy) specifies it, `native` (C++) makes it fast.

Both modules hold classes of these names with these constructors; an architecture composes them once at load, and one call
of `Model.forward` runs a whole step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.specs import (
    AttentionSpec,
    CompressedAttentionSpec,
    CompressedPage,
    HyperHeadSpec,
    Join,
    LatentAttentionSpec,
    Matrix,
    MemorySpec,
    MoeSpec,
)
from deepwell.engine.batch import Adapter, Batch, Memory
from deepwell.engine.layouts import KVDtype, Scheme
from deepwell.engine.weights.low_rank import LowRank

__all__ = [
    "Adapter",
    "Attention",
    "Backend",
    "CompressedAttention",
    "KVCache",
    "LatentAttention",
    "Layer",
    "Memory",
    "Mlp",
    "Model",
    "Moe",
]


class Attention(Protocol):
    """x += o(attend(rope(qkv(rms_norm(x)))))."""


class Mlp(Protocol):
    """x += down(silu(gate(h)) * up(h)), h = rms_norm(x)."""


class LatentAttention(Protocol):
    """x += o(attend(q, latents)): multi-head latent attention (arXiv:2405.04434, section 2.1)."""


class Moe(Protocol):
    """x += sum of the chosen experts' weighted MLPs + the shared MLP, all on h = rms_norm(x)."""


class CompressedAttention(Protocol):
    """Attention over a window and compressed entries, into several residual streams (DeepSeek-V4)."""


Layer = Attention | Mlp | LatentAttention | CompressedAttention | Moe


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
    def state_size(self) -> int:
        """Width of what a prediction layer reads of a row: the hidden size, times the residual streams."""
        ...

    @property
    def expert_loads(self) -> NDArray[np.uint64]:
        """Rows that each expert has seen so far, [mixtures, experts]; [0, 0] in a dense model. Any thread may ask."""
        ...

    @property
    def expert_reads(self) -> NDArray[np.uint64]:
        """Counts reads of expert weights, one per step and expert for all of its rows: [mixtures]."""
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
        output_states: NDArray[np.float32] | None = None,
    ) -> None:
        """Run one step, write keys and values into `cache`, and fill the output arrays that are given.

        Args:
            logits: [outputs, vocab_size].
            argmax: [outputs], the most likely token, the lowest id on a tie; any int32 where no logit is a number.
            hidden: [outputs, hidden_size], after the final norm.
            targets: [outputs], token ids whose log probabilities `target_logprobs` [outputs] receives.
            previous: [rows, state_size], what a model with a `Join` reads; others take none.
            states: [rows, state_size], of every row: after the final norm, or its residual streams where it has several.
            output_states: [outputs, state_size], the same of the output rows.
        """
        ...

    def shift_blocks(
        self, cache: KVCache, sources: Sequence[int], targets: Sequence[int], positions: int
    ) -> None:
        """Copy blocks of all layers, with their keys turned back as if they stood `positions` places further down.

        A rotation by an angle undoes one of the same angle, so keys need not be computed again; values and latents have no
        place. Narrow keys are widened, rotated and rounded once more.

        Args:
            targets: as many as `sources`; each is its own source, or no source at all.
        """
        ...

    def memory(self, cache: KVCache, spec: MemorySpec) -> Memory:
        """Make an empty memory for one sequence whose pages are in `cache`.

        Raises:
            ValueError: a rank is no multiple of 16 or exceeds head_dim (kv_lora_rank), or the cache holds keys of an indexer.
        """
        ...

    def remember_blocks(self, cache: KVCache, memory: Memory, blocks: Sequence[int]) -> None:
        """Keep the tokens of these blocks, which leave the window, as the next segment of a memory.

        Args:
            blocks: as many as a segment has, in order; the first token stands at the memory's first place.
        """
        ...


class Backend(Protocol):
    """The module surface shared by `reference` and `native`."""

    @property
    def name(self) -> str: ...

    def matrix(self, data: NDArray[np.uint8], rows: int, cols: int, scheme: Scheme) -> Matrix:
        """Wrap packed bytes (not copied, kept alive)."""
        ...

    def attention(self, spec: AttentionSpec) -> Attention: ...

    def mlp(self, norm: NDArray[np.float32], gate_up: Matrix, down: Matrix, *, eps: float) -> Mlp:
        """`gate_up` rows alternate 16 of gate, 16 of up (`quantize.interleave_gate_up`)."""
        ...

    def latent_attention(self, spec: LatentAttentionSpec) -> LatentAttention: ...

    def compressed_attention(self, spec: CompressedAttentionSpec) -> CompressedAttention: ...

    def moe(self, spec: MoeSpec) -> Moe: ...

    def compressed_cache(
        self,
        shapes: Sequence[CompressedPage],
        num_blocks: int,
        dtype: KVDtype,
        slots: NDArray[np.int32] | None = None,
        num_slots: int = 0,
    ) -> KVCache:
        """Entries of each layer, and of single tokens their vectors and what entries are made of; bf16 or fp32.

        Args:
            slots: where single tokens of each block lie, -1 for nowhere: [num_blocks], read anew in every step; see
                `engine.recents`. None: every block has a slot.
            num_slots: those that there are.
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
        streams: HyperHeadSpec | None = None,
    ) -> Model:
        """`cos` and `sin` are [max_positions, rotary_dim / 2]; rotation pairs dimension i with i + rotary_dim / 2.

        The layers alternate attention and MLP of any kind; one model has one kind of attention, and its cache.

        `embed` and `head` may be the same matrix (tied embeddings); an embedding row is its dequantised weights.
        With `streams` it has several residual streams, which this mixes for the final norm; its layers have the others of them.
        With a `join` the model is a multi-token prediction layer: one pair of layers, with a cache of one layer.
        """
        ...
