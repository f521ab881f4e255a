"""Operations of the numpy backend's layers: products with packed matrices, norms, rotation, adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends import backend
from deepwell.engine.batch import Batch
from deepwell.engine.layouts import GATE_UP_ROWS, GROUP, PANEL, KVDtype, Scheme
from deepwell.engine.weights.low_rank import LowRank
from deepwell.engine.weights.quantize import FLOATS, Quantized, packed_nbytes, quantize_activations, unlayout

__all__ = [
    "SMALLEST_PEAK",
    "STORED",
    "Adapter",
    "Adapters",
    "Float32",
    "Matrix",
    "Stored",
    "apply_rope",
    "matmul",
    "matrix",
    "own",
    "quantize_heads",
    "rms_norm",
    "silu",
    "swiglu",
    "widen",
]

Float32 = NDArray[np.float32]
Stored = NDArray[np.float32 | np.uint16 | np.int8]  # bf16 as the upper halves of float32
STORED: dict[KVDtype, type[np.float32 | np.uint16 | np.int8]] = {
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

    def part(self, first: int, rows: int) -> Matrix:
        """The rows from `first` on as a matrix of their own; both are multiples of a panel."""
        begin, end = (packed_nbytes(count, self.cols, self.scheme) for count in (first, first + rows))
        return Matrix(self.data[begin:end], rows, self.cols, self.scheme)

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
    weight = own(weight)
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


def swiglu(both: Float32, limit: float = 0.0) -> Float32:
    """silu(gate) * up of rows that alternate 16 of gate, 16 of up: [tokens, 2 x n] -> [tokens, n]; see `MoeSpec.limit`."""
    gate, up = np.moveaxis(both.reshape(len(both), -1, 2, GATE_UP_ROWS), 2, 0)
    if limit:
        gate, up = np.minimum(gate, np.float32(limit)), np.clip(up, np.float32(-limit), np.float32(limit))
    return (silu(gate) * up).reshape(len(both), -1)


def apply_rope(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Rotate dimension i with i + head_dim / 2: x [tokens, heads, head_dim], tables [tokens, head_dim / 2]."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cos, sin = cos[:, None, :], sin[:, None, :]
    rotated = np.empty_like(x)
    rotated[..., :half] = first * cos - second * sin
    rotated[..., half:] = second * cos + first * sin
    return rotated


def widen(x: Stored) -> Float32:
    """Stored cache entries as float32."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32, copy=False)


def quantize_heads(x: Float32) -> tuple[NDArray[np.int8], Float32]:
    """Round [..., head_dim] to -127..127 with one scale a head: x ~ q * scale[..., None]."""
    peak = np.abs(x).max(axis=-1)
    factor = np.divide(np.float32(127), peak, out=np.zeros_like(peak), where=peak > SMALLEST_PEAK)
    scale = np.divide(peak, np.float32(127), dtype=np.float32)
    return np.rint(x * factor[..., None]).astype(np.int8), scale


@dataclass(frozen=True, eq=False)
class Adapter:
    """Low-rank additions, by name of the matrix; see `backend.Model.adapter`."""

    parts: Mapping[str, Sequence[LowRank]]


class Adapters:
    """The adapters of one batch: [rows], one a row of the batch."""

    def __init__(self, batch: Batch) -> None:
        self._block = 0
        self._rows: list[tuple[slice, Adapter]] = []
        for s, adapter in enumerate(batch.adapters or ()):
            if adapter is not None:
                if not isinstance(adapter, Adapter):
                    raise TypeError(
                        f"the reference backend needs its own Adapter, got {type(adapter).__name__}"
                    )
                self._rows.append((slice(batch.seq_starts[s], batch.seq_starts[s + 1]), adapter))

    def of(self, block: int) -> Adapters:
        """The same for the matrices of a block."""
        view = copy(self)
        view._block = block
        return view

    def matmul(
        self,
        x: Float32,
        weight: Matrix,
        name: str,
        tokens: NDArray[np.intp] | None = None,
        first: int = 0,
    ) -> Float32:
        """`matmul` with the block's matrix `name`, and what each row's adapter adds to it.

        Args:
            tokens: which rows of the batch `x` holds, ascending; None: all.
            first: where `weight` begins in the matrix that it is a part of.
        """
        y = matmul(x, weight)
        for span, adapter in self._rows:
            rows = span if tokens is None else slice(*np.searchsorted(tokens, (span.start, span.stop)))
            for part in adapter.parts.get(f"{self._block}.{name}", ()):
                if first <= part.rows[0] < first + weight.rows:
                    y[rows, part.rows - first] += (x[rows, : part.a.shape[1]] @ part.a.T) @ part.b.T
        return y


def own(weight: backend.Matrix) -> Matrix:
    """The matrix, if it is one of this backend."""
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
