"""The protocol of an encoder's backend: `encoder_reference` (numpy) specifies it, `encoder_native` (C++) makes it fast.

Both modules hold these functions; `architectures.encoder` composes their layers once at load, and one call of
`Encoder.forward` runs a whole step. Matrices come from the decoder's backend, which has the same packed layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.backend import Matrix

__all__ = ["Encoder", "EncoderAttention", "EncoderBackend", "EncoderMlp", "Pooling"]

Pooling = Literal["mean", "cls"]


class EncoderAttention(Protocol):
    """x = layer_norm(x + o(attend(qkv(x)))), every token attending to its whole sequence."""


class EncoderMlp(Protocol):
    """x = layer_norm(x + down(gelu(up(x))))."""


class Encoder(Protocol):
    """An encoder ready to run."""

    @property
    def hidden_size(self) -> int: ...

    def forward(
        self,
        tokens: NDArray[np.int32],
        seq_starts: NDArray[np.int32],
        *,
        pooled: NDArray[np.float32] | None = None,
        hidden: NDArray[np.float32] | None = None,
    ) -> None:
        """Run whole sequences and fill the arrays that are given. A sequence has the same bits in any company.

        Args:
            tokens: [rows], sequence after sequence.
            seq_starts: [sequences + 1], row offsets; no sequence is empty.
            pooled: [sequences, hidden_size], of unit length.
            hidden: [rows, hidden_size], after the last layer.
        """
        ...


class EncoderBackend(Protocol):
    """The module surface shared by `encoder_reference` and `encoder_native`."""

    def encoder_attention(
        self,
        qkv: Matrix,
        qkv_bias: NDArray[np.float32],
        o: Matrix,
        o_bias: NDArray[np.float32],
        norm: NDArray[np.float32],
        shift: NDArray[np.float32],
        *,
        num_heads: int,
        eps: float,
    ) -> EncoderAttention:
        """`qkv` rows are [q heads; k heads; v heads]; `norm` and `shift` are the layer norm's weight and bias."""
        ...

    def encoder_mlp(
        self,
        up: Matrix,
        up_bias: NDArray[np.float32],
        down: Matrix,
        down_bias: NDArray[np.float32],
        norm: NDArray[np.float32],
        shift: NDArray[np.float32],
        *,
        eps: float,
    ) -> EncoderMlp: ...

    def encoder(
        self,
        embed: Matrix,
        positions: NDArray[np.float32],
        norm: NDArray[np.float32],
        shift: NDArray[np.float32],
        layers: Sequence[EncoderAttention | EncoderMlp],
        *,
        eps: float,
        pooling: Pooling,
    ) -> Encoder:
        """`positions` is [max_positions, hidden], the token type's embedding added; layers alternate."""
        ...
