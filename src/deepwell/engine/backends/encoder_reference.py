"""The numpy encoder: the specification of the kernels in `csrc/kernels/encoder.h`, and the fallback without them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends import backend, encoder_backend
from deepwell.engine.backends.encoder_backend import Pooling
from deepwell.engine.backends.reference import Matrix, matmul

__all__ = [
    "Encoder",
    "EncoderAttention",
    "EncoderMlp",
    "encoder",
    "encoder_attention",
    "encoder_mlp",
    "gelu",
    "layer_norm",
]

Float32 = NDArray[np.float32]


def gelu(x: Float32) -> Float32:
    """x times the standard normal distribution's probability below x, by the error function and not its tanh stand-in."""
    wide = x.astype(np.float64)
    erf = np.array([math.erf(value) for value in (wide / math.sqrt(2.0)).ravel().tolist()]).reshape(x.shape)
    return (0.5 * wide * (1.0 + erf)).astype(np.float32)


def layer_norm(x: NDArray[np.float32 | np.float64], weight: Float32, shift: Float32, eps: float) -> Float32:
    """(x - mean) / sqrt(variance + eps) * weight + shift, rows of [tokens, hidden]."""
    wide = x.astype(np.float64)
    wide -= wide.mean(axis=-1, keepdims=True)
    wide /= np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + eps)
    return (wide * weight + shift).astype(np.float32)


@dataclass(frozen=True, eq=False)
class EncoderAttention:
    """x = layer_norm(x + o(attend(qkv(x)))), every token attending to its whole sequence."""

    qkv: backend.Matrix
    qkv_bias: Float32
    o: backend.Matrix
    o_bias: Float32
    norm: Float32
    shift: Float32
    num_heads: int
    eps: float

    def forward(self, x: Float32, seq_starts: NDArray[np.int32]) -> Float32:
        """The rows [tokens, hidden] after this layer."""
        qkv = matmul(x, self.qkv) + self.qkv_bias
        heads = qkv.reshape(len(x), 3, self.num_heads, -1).transpose(1, 2, 0, 3)  # [3, heads, tokens, dim]
        attended = np.empty_like(x)
        for start, end in itertools.pairwise(seq_starts):
            attended[start:end] = _attend(*heads[:, :, start:end])
        return layer_norm(x + (matmul(attended, self.o) + self.o_bias), self.norm, self.shift, self.eps)


def _attend(queries: Float32, keys: Float32, values: Float32) -> Float32:
    """Attention of one sequence, each [heads, tokens, dim] -> [tokens, heads * dim]; in float64, as the decoder's."""
    scores = queries.astype(np.float64) @ keys.swapaxes(-1, -2) / math.sqrt(queries.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = weights @ values.astype(np.float64)
    return out.transpose(1, 0, 2).reshape(queries.shape[1], -1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class EncoderMlp:
    """x = layer_norm(x + down(gelu(up(x))))."""

    up: backend.Matrix
    up_bias: Float32
    down: backend.Matrix
    down_bias: Float32
    norm: Float32
    shift: Float32
    eps: float

    def forward(self, x: Float32) -> Float32:
        """The rows [tokens, hidden] after this layer."""
        inner = gelu(matmul(x, self.up) + self.up_bias)
        return layer_norm(x + (matmul(inner, self.down) + self.down_bias), self.norm, self.shift, self.eps)


class Encoder:
    """Embeddings, alternating attention and MLP layers, pooling."""

    def __init__(
        self,
        embed: Matrix,
        positions: Float32,
        norm: Float32,
        shift: Float32,
        layers: Sequence[EncoderAttention | EncoderMlp],
        eps: float,
        pooling: Pooling,
    ) -> None:
        self.hidden_size = embed.cols
        self._embed, self._positions, self._norm, self._shift = embed, positions, norm, shift
        self._layers, self._eps, self._pooling = tuple(layers), eps, pooling

    def forward(
        self,
        tokens: NDArray[np.int32],
        seq_starts: NDArray[np.int32],
        *,
        pooled: Float32 | None = None,
        hidden: Float32 | None = None,
    ) -> None:
        """Run whole sequences; see `encoder_backend.Encoder.forward`."""
        words = np.stack([self._embed.row(int(token)) for token in tokens])
        position = np.arange(len(tokens)) - np.repeat(seq_starts[:-1], np.diff(seq_starts))
        x = layer_norm(words + self._positions[position], self._norm, self._shift, self._eps)
        for layer in self._layers:
            x = layer.forward(x) if isinstance(layer, EncoderMlp) else layer.forward(x, seq_starts)
        if hidden is not None:
            hidden[...] = x
        if pooled is None:
            return
        if self._pooling == "mean":
            sums = np.add.reduceat(x.astype(np.float64), seq_starts[:-1], axis=0)
        else:
            sums = x[seq_starts[:-1]].astype(np.float64)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        pooled[...] = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)


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
) -> EncoderAttention:
    """`qkv` rows are [q heads; k heads; v heads]; `norm` and `shift` are the layer norm's weight and bias."""
    return EncoderAttention(qkv, qkv_bias, o, o_bias, norm, shift, num_heads, eps)


def encoder_mlp(
    up: backend.Matrix,
    up_bias: Float32,
    down: backend.Matrix,
    down_bias: Float32,
    norm: Float32,
    shift: Float32,
    *,
    eps: float,
) -> EncoderMlp:
    """The MLP of one layer with the norm behind it."""
    return EncoderMlp(up, up_bias, down, down_bias, norm, shift, eps)


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
    own = [layer for layer in layers if isinstance(layer, EncoderAttention | EncoderMlp)]
    if len(own) != len(layers) or not isinstance(embed, Matrix):
        raise TypeError("the reference encoder needs its own matrices and layers")
    return Encoder(embed, positions, norm, shift, own, eps, pooling)
