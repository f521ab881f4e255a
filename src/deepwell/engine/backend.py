"""What a backend offers an architecture file. `reference` (numpy) specifies it, `native` (C++) makes it fast.

Both modules hold classes of these names with these constructors; an architecture composes them once at load, and one call
of `Model.forward` runs a whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.batch import Batch
from deepwell.engine.low_rank import LowRank

__all__ = ["Adapter", "Attention", "Backend", "KVCache", "KVDtype", "Matrix", "Mlp", "Model", "Scheme"]

Scheme = Literal["fp32", "bf16", "fp16", "int8", "int4"]
KVDtype = Literal["fp32", "bf16", "int8"]  # int8: with one float32 scale a key and one a value of each head


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


class Adapter(Protocol):
    """Low-rank additions to the matrices of one model, ready to be named in a `Batch`."""


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

    def adapter(self, parts: Sequence[Sequence[LowRank]]) -> Adapter:
        """Make an adapter: `parts` has an entry, maybe empty, for each matrix of the layers, in order.

        A layer's two matrices follow each other: qkv and o, or gate_up and down. Beside int8 and int4 weights an
        adapter is kept as bf16, beside fp32 as fp32; sums are float32.
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
    ) -> None:
        """Run one step, write keys and values into `cache`, and fill the output arrays that are given.

        Args:
            logits: [outputs, vocab_size].
            argmax: [outputs], the most likely token, the lowest id on a tie; any int32 where no logit is a number.
            hidden: [outputs, hidden_size], after the final norm.
            targets: [outputs], token ids whose log probabilities `target_logprobs` [outputs] receives.
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

    def kv_cache(
        self, num_layers: int, num_blocks: int, num_kv_heads: int, head_dim: int, dtype: KVDtype
    ) -> KVCache: ...

    def model(
        self,
        embed: Matrix,
        layers: Sequence[Attention | Mlp],
        norm: NDArray[np.float32],
        head: Matrix,
        cos: NDArray[np.float32],
        sin: NDArray[np.float32],
        *,
        eps: float,
    ) -> Model:
        """`cos` and `sin` are [max_positions, head_dim / 2]; rotation pairs dimension i with i + head_dim / 2.

        `embed` and `head` may be the same matrix (tied embeddings); an embedding row is its dequantised weights.
        """
        ...
