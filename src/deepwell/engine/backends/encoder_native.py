"""The compiled encoder: the surface of `encoder_reference`, run by the kernels of `deepwell._native`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends import backend, encoder_backend
from deepwell.engine.backends.encoder_backend import Pooling

__all__ = ["Encoder", "encoder", "encoder_attention", "encoder_mlp"]

_native: Any = importlib.import_module("deepwell._native")

Float32 = NDArray[np.float32]


def encoder_attention(
    qkv: backend.Matrix,
    qkv_bias: Float32,
    o: backend.Matrix,
    o_bias: Float32,
    norm: Float32,
    shift: Float32,
    *,
    num_heads: int,
    eps: float,
) -> encoder_backend.EncoderAttention:
    """`qkv` rows are [q heads; k heads; v heads]; `norm` and `shift` are the layer norm's weight and bias."""
    return _native.EncoderAttention(qkv, qkv_bias, o, o_bias, norm, shift, num_heads, eps)


def encoder_mlp(
    up: backend.Matrix,
    up_bias: Float32,
    down: backend.Matrix,
    down_bias: Float32,
    norm: Float32,
    shift: Float32,
    *,
    eps: float,
) -> encoder_backend.EncoderMlp:
    """The MLP of one layer with the norm behind it."""
    return _native.EncoderMlp(up, up_bias, down, down_bias, norm, shift, eps)


def encoder(
    embed: backend.Matrix,
    positions: Float32,
    norm: Float32,
    shift: Float32,
    layers: Sequence[encoder_backend.EncoderAttention | encoder_backend.EncoderMlp],
    *,
    eps: float,
    pooling: Pooling,
) -> Encoder:
    """Compose an encoder; `positions` is [max_positions, hidden], the token type's embedding added."""
    return Encoder(_native.Encoder(embed, positions, norm, shift, list(layers), eps, pooling), embed.cols)


class Encoder:
    """A compiled encoder; the whole step runs without the GIL."""

    __slots__ = ("_forward", "hidden_size")

    def __init__(self, compiled: Any, hidden_size: int) -> None:
        self._forward = compiled.forward
        self.hidden_size = hidden_size

    def forward(
        self,
        tokens: NDArray[np.int32],
        seq_starts: NDArray[np.int32],
        *,
        pooled: Float32 | None = None,
        hidden: Float32 | None = None,
    ) -> None:
        """Run whole sequences; see `encoder_backend.Encoder.forward`."""
        self._forward(tokens, seq_starts, pooled, hidden)
