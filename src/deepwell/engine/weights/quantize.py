"""Quantisation schemes and their packed layouts, as specified in `docs/explanation/weights.md` under "Packed weights".

Every scheme has two steps: choose the integers and scales of each (row, group), then lay them out in panels of 32
rows. GGUF's 4-bit blocks enter between the two, so they are never rounded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.layouts import GATE_UP_ROWS, GROUP, PANEL, Scheme

__all__ = [
    "FLOATS",
    "GATE_UP_ROWS",
    "GROUP",
    "PANEL",
    "QuantizationReport",
    "Quantized",
    "decode_q4_0",
    "decode_q4_1",
    "decode_q4_k",
    "interleave_gate_up",
    "layout",
    "pack",
    "pack_q4_0",
    "pack_q4_1",
    "packed_nbytes",
    "quantization_report",
    "quantize",
    "quantize_activations",
    "round_bf16",
    "unlayout",
    "unpack",
]

Item = TypeVar("Item", bound=np.generic)

# Schemes without scales, and the words that hold a block of one row.
FLOATS: Final[dict[Scheme, np.dtype[Any]]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "bf16": np.dtype("<u4"),
}

# One (panel, group) block. Four columns of one row are adjacent bytes, stored as one 32-bit word.
_BLOCK: Final[dict[Scheme, np.dtype[np.void]]] = {
    "int8": np.dtype([("d", "<f2", (PANEL,)), ("q", "<u4", (16, PANEL))]),
    "int4": np.dtype([("d", "<f2", (PANEL,)), ("m", "<f2", (PANEL,)), ("b", "<u4", (4, PANEL))]),
    **{scheme: np.dtype([("w", word, (PANEL,))]) for scheme, word in FLOATS.items()},
}
_CHUNK_WEIGHTS = 1 << 18  # weights per chunk, so that its temporaries stay within the second-level cache
_INT4_SHRINK = (1.0, 0.9)  # starting ranges of the 4-bit fit, as fractions of max - min
_SMALLEST_NORMAL = np.float32(2.0**-14)  # of float16
_INT4_STEPS = 3  # least-squares steps from each start


@dataclass(frozen=True, slots=True)
class Quantized:
    """Rows before layout: w = d * q (+ m), or w = q. Columns are padded to whole groups. bf16 is stored as uint16 bits."""

    q: NDArray[np.int8 | np.uint8 | np.uint16 | np.float16 | np.float32]  # [rows, groups * group]
    d: NDArray[np.float16]  # [rows, groups]; empty for floats
    m: NDArray[np.float16]  # [rows, groups]; int4 only, else empty

    def dequantized(self, scheme: Scheme) -> NDArray[np.float32]:
        """Returns the float32 weights, [rows, groups * group], in a new array."""
        if scheme == "bf16":
            return (self.q.astype(np.uint32) << 16).view(np.float32)
        if scheme in FLOATS:
            return np.array(self.q, np.float32)
        grouped = self.q.reshape(*self.d.shape, GROUP[scheme]).astype(np.float32)
        grouped *= self.d.astype(np.float32)[..., None]
        if scheme == "int4":
            grouped += self.m.astype(np.float32)[..., None]
        return grouped.reshape(self.q.shape)

    def is_finite(self, scheme: Scheme) -> bool:
        """Returns whether every weight is finite. Groups with scales are checked by their scales."""
        values = self.dequantized(scheme) if scheme in FLOATS else self.d
        return bool(np.isfinite(values).all() and np.isfinite(self.m).all())


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """The rounding loss: signal to quantisation noise in decibels (inf: exact), and the largest error."""

    sqnr_db: float
    max_error: float


def _ceil_div(n: int, size: int) -> int:
    return -(-n // size)


def packed_nbytes(rows: int, cols: int, scheme: Scheme) -> int:
    """Returns the bytes of a packed [rows, cols] matrix."""
    return _ceil_div(rows, PANEL) * _ceil_div(cols, GROUP[scheme]) * _BLOCK[scheme].itemsize


def quantize(weights: NDArray[np.float32], scheme: Scheme) -> Quantized:
    """Rounds float32 [rows, cols] to `scheme`. Floats round to nearest even, so bf16 and fp16 values stay unchanged.

    For a weight that is not finite or too large, `d` (or `m`) of its group or, in floats, the weight becomes not finite.
    """
    group = GROUP[scheme]
    rows, cols = weights.shape
    width = _ceil_div(cols, group) * group
    none = np.empty((rows, 0), np.float16)
    if scheme in FLOATS:
        padded = _pad(np.asarray(weights, np.float32), cols=width)
        if scheme == "bf16":
            return Quantized(round_bf16(padded), none, none)
        with np.errstate(over="ignore"):
            return Quantized(padded.astype(FLOATS[scheme], copy=False), none, none)
    fit = _fit_int8 if scheme == "int8" else _fit_int4
    q = np.empty((rows, width), np.int8 if scheme == "int8" else np.uint8)
    d = np.empty((rows, width // group), np.float16)
    m = np.empty((rows, width // group), np.float16) if scheme == "int4" else none
    step = max(1, _CHUNK_WEIGHTS // max(1, width))
    for start in range(0, rows, step):
        chunk = slice(start, min(start + step, rows))
        padded = _pad(np.asarray(weights[chunk], np.float32), cols=width)
        # The caller checks for a NaN or an infinite scale.
        with np.errstate(invalid="ignore", over="ignore"):
            q_chunk, d_chunk, m_chunk = fit(padded.reshape(-1, group))
        q[chunk] = q_chunk.reshape(-1, width)
        d[chunk] = d_chunk.reshape(-1, width // group)
        if scheme == "int4":
            m[chunk] = m_chunk.reshape(-1, width // group)
    return Quantized(q, d, m)


def _pad(a: NDArray[np.float32], *, cols: int) -> NDArray[np.float32]:
    return a if a.shape[1] == cols else np.pad(a, ((0, 0), (0, cols - a.shape[1])))


def _inverse(d: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


def _steps(amax: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the scale at which 127 stands for the largest value of each group."""
    return np.divide(amax, np.float32(127), dtype=np.float32)


def _fit_int8(w: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16], NDArray[np.float16]]:
    """Fits symmetrically: w [n, 64] -> q in -127..127, d [n].

    A float16 below 2**-14 has fewer digits the smaller it is. There `d` is rounded up, because otherwise the largest
    weights, clamped at 127 d, would lose more than half a step.
    """
    exact = _steps(np.abs(w).max(axis=1))
    d = exact.astype(np.float16)
    d = np.where((exact < _SMALLEST_NORMAL) & (d < exact), np.nextafter(d, np.float16(np.inf)), d)
    q = w * _inverse(d.astype(np.float32))[:, None]
    np.rint(q, out=q)
    np.clip(q, -127, 127, out=q)
    return q.astype(np.int8), d, d


def _fit_int4(
    w: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float16]]:
    """Fits asymmetrically: w [n, 32] -> q in 0..15, d and m [n], with the least squared error of a few starting ranges."""
    low, high = w.min(axis=1), w.max(axis=1)
    centre = np.divide(low + high, 2, dtype=np.float32)
    best_error: NDArray[np.float32] = np.full(len(w), np.inf, np.float32)
    best_d: NDArray[np.float16] = np.zeros(len(w), np.float16)
    best_m: NDArray[np.float16] = np.zeros(len(w), np.float16)
    for shrink in _INT4_SHRINK:
        step = np.divide((high - low) * shrink, 15, dtype=np.float32)
        d, m = (a.astype(np.float16) for a in _least_squares(w, step, centre))
        q = _round_int4(w, d.astype(np.float32), m.astype(np.float32))
        q *= d.astype(np.float32)[:, None]
        q += m.astype(np.float32)[:, None]
        q -= w
        error: NDArray[np.float32] = np.einsum("nk,nk->n", q, q)
        better = ~(error >= best_error)  # a NaN wins, so that it is noticed
        best_error = np.where(better, error, best_error)
        best_d = np.where(better, d, best_d)
        best_m = np.where(better, m, best_m)
    q = _round_int4(w, best_d.astype(np.float32), best_m.astype(np.float32))
    return q.astype(np.uint8), best_d, best_m


def _least_squares(
    w: NDArray[np.float32], d: NDArray[np.float32], centre: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Improves (d, m) from a range of 15 d around `centre`, alternating rounding and linear regression as in k-means."""
    n = w.shape[1]
    m = (centre - d * 7.5).astype(np.float32, copy=False)
    sum_w = w.sum(axis=1)
    for _ in range(_INT4_STEPS):
        q = _round_int4(w, d, m)
        sum_q: NDArray[np.float32] = q.sum(axis=1)
        sum_qq: NDArray[np.float32] = np.einsum("nk,nk->n", q, q)
        sum_qw: NDArray[np.float32] = np.einsum("nk,nk->n", q, w)
        determinant: NDArray[np.float32] = n * sum_qq - sum_q * sum_q
        slope: NDArray[np.float32] = (n * sum_qw - sum_q * sum_w) * _inverse(determinant)
        d = np.where(determinant > 0, slope, d)
        m = ((sum_w - d * sum_q) / n).astype(np.float32, copy=False)
    return d, m


def _round_int4(
    w: NDArray[np.float32], d: NDArray[np.float32], m: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns the integers 0..15 nearest to (w - m) / d, as floats."""
    q = w - m[:, None]
    q *= _inverse(d)[:, None]
    np.rint(q, out=q)
    np.clip(q, 0, 15, out=q)
    return q


def decode_q4_1(raw_rows: NDArray[np.uint8], cols: int) -> Quantized:
    """Converts GGUF Q4_1 rows, uint8 [rows, cols / 32 * 20], to int4 with the same integers and float16 d and m."""
    blocks = _gguf_blocks(raw_rows, cols, 20)
    scales = np.ascontiguousarray(blocks[..., :4]).view("<f2")
    return Quantized(_gguf_nibbles(blocks[..., 4:]), scales[..., 0].copy(), scales[..., 1].copy())


def decode_q4_0(raw_rows: NDArray[np.uint8], cols: int) -> Quantized:
    """Converts GGUF Q4_0 rows, uint8 [rows, cols / 32 * 18], to int4 with m = -8 d (exact: a change of exponent)."""
    blocks = _gguf_blocks(raw_rows, cols, 18)
    d = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
    return Quantized(_gguf_nibbles(blocks[..., 2:]), d.copy(), (d * np.float16(-8)).astype(np.float16))


def decode_q4_k(raw_rows: NDArray[np.uint8], cols: int) -> Quantized:
    """Converts GGUF Q4_K rows, uint8 [rows, cols / 256 * 144], to int4: same integers, d and m rounded to float16.

    A block of 256 columns has float16 d and m, eight 6-bit factors of each in 12 bytes, and 128 bytes of nibbles.
    """
    blocks = _gguf_blocks(raw_rows, cols, 144, block_cols=256)
    rows = len(raw_rows)
    super_scales = np.ascontiguousarray(blocks[..., :4]).view("<f2").astype(np.float32)  # [rows, blocks, 2]
    # Factors 0..3 of d, factors 0..3 of m, and the nibbles of factors 4..7.
    a, b, c = (blocks[..., 4 + 4 * i : 8 + 4 * i] for i in range(3))
    factors_d = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], axis=-1)  # [rows, blocks, 8]
    factors_m = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], axis=-1)
    d = (super_scales[..., :1] * factors_d).reshape(rows, -1).astype(np.float16)
    m = (super_scales[..., 1:] * factors_m).reshape(rows, -1).astype(np.float16)
    return Quantized(_gguf_nibbles(blocks[..., 16:].reshape(rows, -1, 32)), d, -m)


def _gguf_blocks(
    raw_rows: NDArray[np.uint8], cols: int, block_bytes: int, *, block_cols: int = 32
) -> NDArray[np.uint8]:
    rows, row_bytes = raw_rows.shape
    if cols % block_cols or row_bytes != cols // block_cols * block_bytes:
        raise ValueError(f"rows of {row_bytes} bytes do not hold {cols} columns in {block_bytes}-byte blocks")
    return raw_rows.reshape(rows, cols // block_cols, block_bytes)


def _gguf_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unpacks [rows, runs, bytes] to [rows, cols]. Low nibbles are the first half of a run of columns, high the second."""
    rows = packed.shape[0]
    halves = [packed & np.uint8(15), packed >> np.uint8(4)]
    return np.concatenate(halves, axis=-1).reshape(rows, -1)


def layout(quantized: Quantized, scheme: Scheme) -> NDArray[np.uint8]:
    """Arranges rows in panels: flat bytes `[panels][groups][block]`, padded with zero rows to whole panels."""
    group = GROUP[scheme]
    rows, width = quantized.q.shape
    panels, groups = _ceil_div(rows, PANEL), width // group
    missing = ((0, panels * PANEL - rows), (0, 0))
    out = np.empty((panels, groups), _BLOCK[scheme])

    def scales(a: NDArray[np.float16]) -> NDArray[np.float16]:
        return np.pad(a, missing).reshape(panels, PANEL, groups).transpose(0, 2, 1)

    q = np.pad(quantized.q, missing) if missing[0][1] else np.ascontiguousarray(quantized.q)
    if scheme in FLOATS:
        out["w"] = q.view(FLOATS[scheme]).reshape(panels, PANEL, groups).transpose(0, 2, 1)
    elif scheme == "int8":
        out["d"] = scales(quantized.d)
        out["q"] = q.view("<u4").reshape(panels, PANEL, groups, 16).transpose(0, 2, 3, 1)
    else:
        out["d"], out["m"] = scales(quantized.d), scales(quantized.m)
        words = q.view("<u4").reshape(panels, PANEL, groups, 4, 2)
        out["b"] = (words[..., 0] | words[..., 1] << 4).transpose(0, 2, 3, 1)
    return out.reshape(-1).view(np.uint8)


def unlayout(data: NDArray[np.uint8], rows: int, cols: int, scheme: Scheme) -> Quantized:
    """Inverts `layout`; q is [rows, groups * group].

    Raises:
        ValueError: `data` is not `packed_nbytes(rows, cols, scheme)` long.
    """
    group = GROUP[scheme]
    panels, groups = _ceil_div(rows, PANEL), _ceil_div(cols, group)
    expected = packed_nbytes(rows, cols, scheme)
    if data.nbytes != expected:
        raise ValueError(f"a {scheme} matrix [{rows}, {cols}] packs into {expected} bytes, got {data.nbytes}")
    blocks = data.reshape(-1).view(_BLOCK[scheme]).reshape(panels, groups)

    def scales(field: str) -> NDArray[np.float16]:
        return blocks[field].transpose(0, 2, 1).reshape(-1, groups)[:rows]

    none = np.empty((rows, 0), np.float16)
    if scheme in FLOATS:
        words = np.ascontiguousarray(blocks["w"].transpose(0, 2, 1)).reshape(-1, groups)[:rows]
        return Quantized(words.view("<u2") if scheme == "bf16" else words, none, none)
    if scheme == "int8":
        words = np.ascontiguousarray(blocks["q"].transpose(0, 3, 1, 2))
        return Quantized(words.view(np.int8).reshape(-1, groups * group)[:rows], scales("d"), none)
    packed = blocks["b"].transpose(0, 3, 1, 2)
    words = np.stack([packed & 0x0F0F0F0F, packed >> 4 & 0x0F0F0F0F], axis=-1)
    return Quantized(words.view(np.uint8).reshape(-1, groups * group)[:rows], scales("d"), scales("m"))


def pack(weights: NDArray[np.float32], scheme: Scheme) -> NDArray[np.uint8]:
    """Quantises and lays out float32 [rows, cols] as flat bytes."""
    return layout(quantize(weights, scheme), scheme)


def unpack(data: NDArray[np.uint8], rows: int, cols: int, scheme: Scheme) -> NDArray[np.float32]:
    """Returns the float32 weights [rows, cols] that packed bytes stand for."""
    return np.ascontiguousarray(unlayout(data, rows, cols, scheme).dequantized(scheme)[:, :cols])


def pack_q4_1(raw_rows: NDArray[np.uint8], cols: int) -> NDArray[np.uint8]:
    """Lays out GGUF Q4_1 rows as int4 without a second rounding."""
    return layout(decode_q4_1(raw_rows, cols), "int4")


def pack_q4_0(raw_rows: NDArray[np.uint8], cols: int) -> NDArray[np.uint8]:
    """Lays out GGUF Q4_0 rows as int4 without a second rounding."""
    return layout(decode_q4_0(raw_rows, cols), "int4")


def interleave_gate_up(gate: NDArray[Item], up: NDArray[Item]) -> NDArray[Item]:
    """Alternates 16 rows of gate and 16 of up, after padding both with zero rows to a multiple of 16.

    It works on weights [intermediate, hidden] and on raw quantised rows or scales.
    """
    runs = _ceil_div(len(gate), GATE_UP_ROWS)
    padding = ((0, runs * GATE_UP_ROWS - len(gate)), (0, 0))
    halves = [np.pad(half, padding).reshape(runs, GATE_UP_ROWS, half.shape[1]) for half in (gate, up)]
    return np.stack(halves, axis=1).reshape(2 * runs * GATE_UP_ROWS, gate.shape[1])


def round_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Returns the upper half of each float32, rounded to nearest even. NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def quantize_activations(
    x: NDArray[np.float32], scheme: Scheme
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounds activations [tokens, cols] per row and per group of the matrix they are multiplied by.

    Returns:
        q [tokens, groups * group] in -127..127, and scales [tokens, groups] with x ~ q * scale.
    """
    group = GROUP[scheme]
    padded = _pad(x, cols=_ceil_div(x.shape[1], group) * group).reshape(len(x), -1, group)
    amax = np.abs(padded).max(axis=2)
    factor = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=amax > 0)
    q = np.clip(np.rint(padded * factor[..., None]), -127, 127).astype(np.int8)
    return q.reshape(len(x), -1), _steps(amax)


def quantization_report(
    weights: NDArray[np.float32], approximation: NDArray[np.float32]
) -> QuantizationReport:
    """Compares weights with the values of their packed form (same shape)."""
    error = approximation - weights
    signal, noise = float(np.vdot(weights, weights)), float(np.vdot(error, error))
    sqnr_db = 10 * float(np.log10(signal / noise)) if signal and noise else float("inf") if not noise else 0.0
    return QuantizationReport(sqnr_db, float(np.abs(error).max(initial=0.0)))
