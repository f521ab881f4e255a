"""The numpy backend: the specification of every kernel, and the fallback where nothing could be compiled.

Integer dot products are exact (float32 products and sums below 2**24), everything around them is float32 in the
order that `docs/design.md` fixes. Unpacked integers are kept as float32, four to eight times the packed size, from
first use on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepwell.engine import backend
from deepwell.engine.backend import KVDtype, Scheme
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.low_rank import LowRank
from deepwell.engine.quantize import (
    FLOATS,
    GATE_UP_ROWS,
    GROUP,
    PANEL,
    Quantized,
    packed_nbytes,
    quantize_activations,
    round_bf16,
    unlayout,
)

__all__ = [
    "Adapter",
    "Attention",
    "KVCache",
    "Matrix",
    "Mlp",
    "Model",
    "apply_rope",
    "attention",
    "kv_cache",
    "matmul",
    "matrix",
    "mlp",
    "model",
    "name",
    "quantize_heads",
    "rms_norm",
    "round_bf16",
    "silu",
]

name = "reference"

Float32 = NDArray[np.float32]
Stored = NDArray[np.float32 | np.uint16 | np.int8]  # bf16 as the upper halves of float32
_STORED: dict[KVDtype, type[np.float32 | np.uint16 | np.int8]] = {
    "fp32": np.float32,
    "bf16": np.uint16,
    "int8": np.int8,
}
SMALLEST_PEAK = np.float32(
    1e-36
)  # int8 pages: below, 127 / peak may overflow, and the row is stored as zeros


@dataclass(frozen=True, eq=False)
class Matrix:
    """A packed weight matrix W: [rows, cols]."""

    data: NDArray[np.uint8]
    rows: int
    cols: int
    scheme: Scheme

    @cached_property
    def operands(self) -> tuple[Float32, Float32, Float32]:
        """Integers [groups, group, rows], d and m [groups, rows]; of a matrix of floats just [1, cols, rows]."""
        unpacked = unlayout(self.data, self.rows, self.cols, self.scheme)
        if self.scheme in FLOATS:
            none = np.empty((0, self.rows), np.float32)
            weights = unpacked.dequantized(self.scheme)[:, : self.cols]
            return np.ascontiguousarray(weights.T)[None], none, none
        q = unpacked.q.reshape(self.rows, -1, GROUP[self.scheme]).transpose(1, 2, 0)
        d, m = (np.ascontiguousarray(a.T, np.float32) for a in (unpacked.d, unpacked.m))
        return np.ascontiguousarray(q, np.float32), d, m

    def row(self, index: int) -> Float32:
        """The dequantised weights of one row, [cols]."""
        panel_bytes = packed_nbytes(PANEL, self.cols, self.scheme)
        panel = index // PANEL
        data = self.data[panel * panel_bytes : (panel + 1) * panel_bytes]
        unpacked = unlayout(data, PANEL, self.cols, self.scheme)
        inside = slice(index % PANEL, index % PANEL + 1)
        one = Quantized(unpacked.q[inside], unpacked.d[inside], unpacked.m[inside])
        return one.dequantized(self.scheme)[0, : self.cols]


def _fma(a: Float32, b: Float32, c: Float32) -> Float32:
    """a * b + c with one rounding, but for ties of the float64 sum (one in 2**29)."""
    product = np.multiply(a, b, dtype=np.float64)
    product += c
    return product.astype(np.float32)


def matmul(x: Float32, weight: backend.Matrix) -> Float32:
    """y = x W^T: [tokens, cols] -> [tokens, rows]; activations are quantised as the matrix's scheme asks."""
    weight = _own(weight)
    q, d, m = weight.operands
    if weight.scheme in FLOATS:
        return x @ q[0]
    group = GROUP[weight.scheme]
    q_x, scale_x = quantize_activations(x, weight.scheme)
    x_groups = q_x.reshape(len(x), -1, group).transpose(1, 0, 2).astype(np.float32)  # [groups, tokens, group]
    y = np.zeros((len(x), weight.rows), np.float32)
    for g, x_group in enumerate(x_groups):
        scale = scale_x[:, g, None]
        y = _fma(x_group @ q[g], d[g] * scale, y)
        if weight.scheme == "int4":
            y = _fma(m[g], scale * x_group.sum(axis=1, keepdims=True), y)
    return y


def rms_norm(x: Float32, weight: Float32, eps: float) -> Float32:
    """x / sqrt(mean(x^2) + eps) * weight, rows of [tokens, hidden]."""
    mean = (x * x).mean(axis=-1, keepdims=True)
    return x * (1.0 / np.sqrt(mean + eps)).astype(np.float32, copy=False) * weight


def silu(x: Float32) -> Float32:
    """x * sigmoid(x)."""
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, -0
        return (x / (1.0 + np.exp(-x))).astype(np.float32, copy=False)


def apply_rope(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Rotate dimension i with i + head_dim / 2: x [tokens, heads, head_dim], tables [tokens, head_dim / 2]."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cos, sin = cos[:, None, :], sin[:, None, :]
    rotated = np.empty_like(x)
    rotated[..., :half] = first * cos - second * sin
    rotated[..., half:] = second * cos + first * sin
    return rotated


def _widen(x: Stored) -> Float32:
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32, copy=False)


def quantize_heads(x: Float32) -> tuple[NDArray[np.int8], Float32]:
    """Round [..., head_dim] to -127..127 with one scale a head: x ~ q * scale[..., None]."""
    peak = np.abs(x).max(axis=-1)
    factor = np.divide(np.float32(127), peak, out=np.zeros_like(peak), where=peak > SMALLEST_PEAK)
    scale = np.divide(peak, np.float32(127), dtype=np.float32)
    return np.rint(x * factor[..., None]).astype(np.int8), scale


class KVCache:
    """Paged keys and values, [layers, blocks, kv heads, 16 tokens, head_dim] each; int8 with scales but for the last."""

    def __init__(
        self, num_layers: int, num_blocks: int, num_kv_heads: int, head_dim: int, dtype: KVDtype
    ) -> None:
        shape = (num_layers, num_blocks, num_kv_heads, BLOCK_TOKENS, head_dim)
        self.num_blocks = num_blocks
        self.dtype: KVDtype = dtype
        self.keys: Stored = np.zeros(shape, _STORED[dtype])
        self.values: Stored = np.zeros_like(self.keys)
        scales = shape[:-1] if dtype == "int8" else (0,)
        self.key_scales, self.value_scales = np.zeros(scales, np.float32), np.zeros(scales, np.float32)
        self.nbytes = self.keys.nbytes + self.values.nbytes + 2 * self.key_scales.nbytes

    def write(
        self, layer: int, blocks: NDArray[np.int32], slots: NDArray[np.int32], keys: Float32, values: Float32
    ) -> None:
        """Store rows [tokens, kv heads, head_dim] at (block, slot) of each token."""
        at = (layer, blocks, slice(None), slots)
        if self.dtype == "int8":
            self.keys[at], self.key_scales[at] = quantize_heads(keys)
            self.values[at], self.value_scales[at] = quantize_heads(values)
            return
        convert = round_bf16 if self.dtype == "bf16" else np.asarray
        self.keys[at] = convert(keys)
        self.values[at] = convert(values)

    def read(self, layer: int, blocks: NDArray[np.int32], length: int) -> tuple[Float32, Float32]:
        """The first `length` keys and values of a sequence, each [kv heads, length, head_dim]."""
        heads, dim = self.keys.shape[2], self.keys.shape[4]

        def pages(stored: Stored, scales: Float32) -> Float32:
            wide = _widen(stored[layer, blocks].swapaxes(0, 1)).reshape(heads, -1, dim)[:, :length]
            if self.dtype == "int8":
                wide = wide * scales[layer, blocks].swapaxes(0, 1).reshape(heads, -1, 1)[:, :length]
            return wide

        return pages(self.keys, self.key_scales), pages(self.values, self.value_scales)


@dataclass(frozen=True, eq=False)
class Adapter:
    """Low-rank additions, by matrix of the layers in order; see `backend.Model.adapter`."""

    parts: Sequence[Sequence[LowRank]]


class _Adapters:
    """The adapters of one batch: [rows], one a row of the batch."""

    def __init__(self, batch: Batch) -> None:
        self._rows: list[tuple[slice, Adapter]] = []
        for s, adapter in enumerate(batch.adapters or ()):
            if adapter is not None:
                if not isinstance(adapter, Adapter):
                    raise TypeError(
                        f"the reference backend needs its own Adapter, got {type(adapter).__name__}"
                    )
                self._rows.append((slice(batch.seq_starts[s], batch.seq_starts[s + 1]), adapter))

    def matmul(self, x: Float32, weight: Matrix, index: int) -> Float32:
        """`matmul` with matrix `index` of the layers, and what each row's adapter adds to it."""
        y = matmul(x, weight)
        for rows, adapter in self._rows:
            for part in adapter.parts[index]:
                y[rows, part.rows] += (x[rows, : part.a.shape[1]] @ part.a.T) @ part.b.T
        return y


@dataclass(frozen=True, eq=False)
class Attention:
    """x += o(attend(rope(qkv(rms_norm(x)) + bias))); Qwen3 normalises each query and key head before rope."""

    norm: Float32
    qkv: Matrix
    bias: Float32 | None
    o: Matrix
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    q_norm: Float32 | None = None
    k_norm: Float32 | None = None

    def forward(
        self,
        x: Float32,
        batch: Batch,
        cache: KVCache,
        layer: int,
        cos: Float32,
        sin: Float32,
        adapters: _Adapters,
        index: int,
    ) -> Float32:
        """The residual stream after this layer; `cos` and `sin` are [tokens, head_dim / 2]."""
        qkv = adapters.matmul(rms_norm(x, self.norm, self.eps), self.qkv, index)
        if self.bias is not None:
            qkv = qkv + self.bias
        heads = qkv.reshape(len(x), -1, self.head_dim)
        queries, keys, values = np.split(heads, [self.num_heads, self.num_heads + self.num_kv_heads], axis=1)
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = rms_norm(queries, self.q_norm, self.eps), rms_norm(keys, self.k_norm, self.eps)
        queries, keys = apply_rope(queries, cos, sin), apply_rope(keys, cos, sin)

        starts, positions = batch.seq_starts, batch.positions
        tables = np.repeat(batch.block_tables, np.diff(starts), axis=0)  # [tokens, max_blocks]
        blocks = tables[np.arange(len(x)), positions // BLOCK_TOKENS]
        cache.write(layer, blocks, positions % BLOCK_TOKENS, keys, values)

        attended = np.empty_like(queries)
        for s, table in enumerate(batch.block_tables):
            rows = slice(starts[s], starts[s + 1])
            length = int(positions[rows].max(initial=-1)) + 1
            stored = cache.read(layer, table[: -(-length // BLOCK_TOKENS)], length)
            attended[rows] = _attend(queries[rows], *stored, positions[rows])
        return x + adapters.matmul(attended.reshape(len(x), -1), self.o, index + 1)


def _attend(queries: Float32, keys: Float32, values: Float32, positions: NDArray[np.int32]) -> Float32:
    """Causal attention of one sequence: queries [tokens, heads, dim], keys, values [kv heads, length, dim].

    In float64, so that the result is the right one whatever order a kernel sums in.
    """
    tokens, heads, dim = queries.shape
    kv_heads, length, _ = keys.shape
    grouped = (
        queries.astype(np.float64).reshape(tokens, kv_heads, heads // kv_heads, dim).transpose(1, 2, 0, 3)
    )
    scores = grouped @ keys[:, None].swapaxes(-1, -2).astype(np.float64) / np.sqrt(dim)
    scores[..., np.arange(length)[None, :] > positions[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = weights @ values[:, None].astype(np.float64)  # [kv heads, heads a kv head, tokens, dim]
    return out.transpose(2, 0, 1, 3).reshape(tokens, heads, dim).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Mlp:
    """x += down(silu(gate(h)) * up(h)), h = rms_norm(x)."""

    norm: Float32
    gate_up: Matrix
    down: Matrix
    eps: float

    def forward(self, x: Float32, adapters: _Adapters, index: int) -> Float32:
        """The residual stream after this layer."""
        both = adapters.matmul(rms_norm(x, self.norm, self.eps), self.gate_up, index)
        gate, up = np.moveaxis(both.reshape(len(x), -1, 2, GATE_UP_ROWS), 2, 0)
        return x + adapters.matmul((silu(gate) * up).reshape(len(x), -1), self.down, index + 1)


class Model:
    """A decoder: embedding, alternating attention and MLP layers, final norm, head."""

    def __init__(
        self,
        embed: Matrix,
        layers: Sequence[Attention | Mlp],
        norm: Float32,
        head: Matrix,
        cos: Float32,
        sin: Float32,
        eps: float,
    ) -> None:
        self.vocab_size, self.hidden_size = head.rows, embed.cols
        self._embed, self._layers, self._norm, self._head = embed, tuple(layers), norm, head
        self._cos, self._sin, self._eps = cos, sin, eps

    def adapter(self, parts: Sequence[Sequence[LowRank]]) -> Adapter:
        """Keep the parts as they are; see `backend.Model.adapter`."""
        if len(parts) != 2 * len(self._layers):
            raise ValueError(f"{len(parts)} parts given, {2 * len(self._layers)} needed")
        return Adapter(parts)

    def forward(
        self,
        batch: Batch,
        cache: backend.KVCache,
        *,
        logits: NDArray[np.float32] | None = None,
        argmax: NDArray[np.int32] | None = None,
        hidden: NDArray[np.float32] | None = None,
        targets: NDArray[np.int32] | None = None,
        target_logprobs: NDArray[np.float32] | None = None,
    ) -> None:
        """Run one step; see `backend.Model.forward`."""
        if not isinstance(cache, KVCache):
            raise TypeError(f"the reference backend needs its own KVCache, got {type(cache).__name__}")
        x = np.stack([self._embed.row(int(token)) for token in batch.tokens])
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        adapters = _Adapters(batch)
        attention_index = 0
        for index, layer in enumerate(self._layers):
            if isinstance(layer, Mlp):
                x = layer.forward(x, adapters, 2 * index)
            else:
                x = layer.forward(x, batch, cache, attention_index, cos, sin, adapters, 2 * index)
                attention_index += 1
        final = rms_norm(x[batch.output_rows], self._norm, self._eps)
        if hidden is not None:
            hidden[...] = final
        if logits is None and argmax is None and target_logprobs is None:
            return
        scores = matmul(final, self._head)
        if logits is not None:
            logits[...] = scores
        if argmax is not None:
            argmax[...] = scores.argmax(axis=1)
        if target_logprobs is not None:
            if targets is None:
                raise ValueError("target_logprobs needs targets")
            top = scores.max(axis=1)
            log_sum = np.log(np.exp((scores - top[:, None]).astype(np.float64)).sum(axis=1))
            target_logprobs[...] = scores[np.arange(len(scores)), targets] - top - log_sum


def _own(weight: backend.Matrix) -> Matrix:
    if not isinstance(weight, Matrix):
        raise TypeError(f"the reference backend needs its own Matrix, got {type(weight).__name__}")
    return weight


def matrix(data: NDArray[np.uint8], rows: int, cols: int, scheme: Scheme) -> Matrix:
    """Wrap packed bytes (not copied, kept alive).

    Raises:
        ValueError: `data` is not `packed_nbytes(rows, cols, scheme)` long.
    """
    if data.nbytes != packed_nbytes(rows, cols, scheme):
        raise ValueError(f"a {scheme} matrix [{rows}, {cols}] does not have {data.nbytes} bytes")
    return Matrix(data, rows, cols, scheme)


def attention(
    norm: Float32,
    qkv: backend.Matrix,
    bias: Float32 | None,
    o: backend.Matrix,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    eps: float,
    q_norm: Float32 | None = None,
    k_norm: Float32 | None = None,
) -> Attention:
    """`qkv` rows are [q heads; k heads; v heads]; `bias` is [qkv.rows]; `q_norm` and `k_norm` are [head_dim]."""
    return Attention(norm, _own(qkv), bias, _own(o), num_heads, num_kv_heads, head_dim, eps, q_norm, k_norm)


def mlp(norm: Float32, gate_up: backend.Matrix, down: backend.Matrix, *, eps: float) -> Mlp:
    """`gate_up` rows alternate 16 of gate, 16 of up (`quantize.interleave_gate_up`)."""
    return Mlp(norm, _own(gate_up), _own(down), eps)


def kv_cache(num_layers: int, num_blocks: int, num_kv_heads: int, head_dim: int, dtype: KVDtype) -> KVCache:
    """An empty paged cache."""
    return KVCache(num_layers, num_blocks, num_kv_heads, head_dim, dtype)


def model(
    embed: backend.Matrix,
    layers: Sequence[backend.Attention | backend.Mlp],
    norm: Float32,
    head: backend.Matrix,
    cos: Float32,
    sin: Float32,
    *,
    eps: float,
) -> Model:
    """Compose a decoder; `embed` and `head` may be the same matrix."""
    own = [layer for layer in layers if isinstance(layer, Attention | Mlp)]
    if len(own) != len(layers):
        raise TypeError("the reference backend needs its own Attention and Mlp layers")
    return Model(_own(embed), own, norm, _own(head), cos, sin, eps)
