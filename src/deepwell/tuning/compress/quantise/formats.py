"""Block formats of GGUF as grids: the scales of a block, the integers nearest to its weights, and the bytes of both.

A block holds one or several groups of columns with a scale each, w = d * q + m. In Q4_K and Q3_K the scales of a block are
small integers times a float16 that the block shares. Layouts are those of ggml's `ggml-common.h`; importance is a positive
factor of the squared error of each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest

__all__ = ["FORMATS", "Format", "Scales", "encode", "fit", "format_for", "nearest", "values_of"]

Floats = NDArray[np.float32]

_AFFINE_STARTS: Final = (1.0, 0.9, 0.8)  # ranges that a fit starts from, as fractions of max - min
_SYMMETRIC_STARTS: Final = (1.0, 0.9, 1.15)  # places of the largest weight, as fractions of the last integer
_STEPS: Final = 3  # least-squares steps from each start


@dataclass(frozen=True, slots=True)
class Format:
    """A block format.

    Attributes:
        name: as ggml calls it, and the name in Hugging Face's naming of files.
        block, group: columns of a block and of a group with a scale of its own.
        low, high: the integers.
        bits: bytes of a block in bits for each weight.
        offset: whether a group has a minimum `m` beside its scale.
        factor: the largest integer that a scale of the block may be; 0: every group has its own float16.
    """

    name: str
    block: int
    group: int
    low: int
    high: int
    bits: float
    offset: bool = False
    factor: int = 0


FORMATS: Final[dict[str, Format]] = {
    "q4_0": Format("Q4_0", 32, 32, -8, 7, 4.5),
    "q4_1": Format("Q4_1", 32, 32, 0, 15, 5.0, offset=True),
    "q8_0": Format("Q8_0", 32, 32, -127, 127, 8.5),
    "q4_k": Format("Q4_K", 256, 32, 0, 15, 4.5, offset=True, factor=63),
    "q3_k": Format("Q3_K", 256, 16, -4, 3, 3.4375, factor=31),
    # Three bits in the container of Q4_1: for measurements at widths that no super-block divides
    "q3_1": Format("Q4_1", 32, 32, 0, 7, 5.0, offset=True),
}
_FALLBACK: Final = {"q4_k": "q4_1", "q3_k": "q4_0"}


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales of rows as they are stored; a group's are products of its block's float16 and its own integer.

    Attributes:
        d, m: float16 [rows, blocks], one a block with factors and one a group without; `m` is empty without an offset.
        of_d, of_m: integers [rows, groups]; empty without factors. The minimum of a group is -m * of_m.
    """

    d: NDArray[np.float16]
    m: NDArray[np.float16]
    of_d: NDArray[np.int8]
    of_m: NDArray[np.int8]

    def of_groups(self) -> tuple[Floats, Floats]:
        """Returns scale and minimum of each group, float32 [rows, groups]; minima are 0 without an offset."""
        d, m = self.d.astype(np.float32), self.m.astype(np.float32)
        if self.of_d.size:
            times = self.of_d.shape[1] // max(1, d.shape[1])
            d = np.repeat(d, times, 1) * self.of_d
            m = -np.repeat(m, times, 1) * self.of_m if m.size else m
        return d, m if m.size else np.zeros_like(d)

    @staticmethod
    def joined(parts: Sequence[Scales]) -> Scales:
        """Returns the scales of parts that follow each other in the columns."""
        return _concatenated(parts, 1)

    @staticmethod
    def stacked(parts: Sequence[Scales]) -> Scales:
        """Returns the scales of parts that follow each other in the rows."""
        return _concatenated(parts, 0)


def _concatenated(parts: Sequence[Scales], axis: int) -> Scales:
    return Scales(
        np.concatenate([one.d for one in parts], axis),
        np.concatenate([one.m for one in parts], axis),
        np.concatenate([one.of_d for one in parts], axis),
        np.concatenate([one.of_m for one in parts], axis),
    )


def format_for(kind: str, cols: int) -> Format:
    """Returns the format of a matrix with rows of `cols` weights: the wanted one, or the one that its width allows.

    Rows that no block of 256 divides take Q4_1 for Q4_K and Q4_0 for Q3_K.

    Raises:
        InvalidRequest: no format divides the row.
    """
    found = FORMATS[kind]
    if cols % found.block:
        found = FORMATS[_FALLBACK.get(kind, kind)]
    if cols % found.block:
        raise InvalidRequest.of(
            "compress_row_width", param="type", cols=cols, block=found.block, format=found.name
        )
    return found


def values_of(form: Format, q: NDArray[np.int8], scales: Scales) -> Floats:
    """Returns the float32 weights that integers [rows, cols] stand for."""
    d, m = scales.of_groups()
    rows, cols = q.shape
    grouped = q.reshape(rows, cols // form.group, form.group)
    return (grouped * d[..., None] + m[..., None]).astype(np.float32).reshape(rows, cols)


def nearest(form: Format, w: Floats, d: Floats, m: Floats) -> Floats:
    """Returns the integers nearest to weights, as floats; the shapes of d and m broadcast to that of w."""
    inverse = np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)
    q = (w - m) * inverse
    np.rint(q, out=q)
    return np.clip(q, form.low, form.high, out=q)


def fit(form: Format, w: Floats, importance: Floats) -> Scales:
    """Fits the scales of whole blocks to weights [rows, cols] by the squared error with an importance [cols]."""
    rows, cols = w.shape
    grouped = np.ascontiguousarray(w, np.float32).reshape(rows, cols // form.group, form.group)
    factors = importance.astype(np.float32).reshape(cols // form.group, form.group)
    factors = factors / np.maximum(factors.mean(1, keepdims=True), np.float32(1e-30)) + np.float32(1e-6)
    whole = importance.astype(np.float32).reshape(-1, form.block).mean(1)
    weight = np.float32(1e-6) + importance.reshape(factors.shape).mean(1) / np.maximum(
        np.repeat(whole, form.block // form.group), 1e-30
    )
    if form.offset:
        d, m = _affine(form, grouped, factors)
    else:
        d, m = _symmetric(form, grouped, factors), np.empty((rows, 0), np.float32)
    none = np.empty((rows, 0), np.int8)
    if not form.factor:
        return Scales(_half(d), _half(m), none, none)
    return _shared(form, grouped, factors * weight[:, None].astype(np.float32), d, m)


def _half(a: Floats) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return a.astype(np.float16)


def _affine(form: Format, w: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Fits d and m of groups, w [rows, groups, size] and v [groups, size]; with factors, m is at most 0."""
    low, high = w.min(-1), w.max(-1)
    if form.factor:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    sums: tuple[Floats, Floats] = v.sum(-1), np.einsum("rgk,gk->rg", w, v)
    best_error: Floats = np.full(low.shape, np.inf, np.float32)
    best_d: Floats = np.zeros_like(low)
    best_m: Floats = np.zeros_like(low)
    for shrink in _AFFINE_STARTS:
        d: Floats = ((high - low) * np.float32(shrink / form.high)).astype(np.float32)
        m: Floats = ((low + high) / 2 - d * np.float32(form.high / 2)).astype(np.float32)
        for _ in range(_STEPS):
            d, m = _affine_step(form, w, v, sums, d, m)
        if form.factor:
            d = np.maximum(d, 0)
        error = _error(form, w, v, d, m)
        better = error < best_error
        best_error = _chosen(better, error, best_error)
        best_d, best_m = _chosen(better, d, best_d), _chosen(better, m, best_m)
    return best_d, best_m


def _affine_step(
    form: Format, w: Floats, v: Floats, sums: tuple[Floats, Floats], d: Floats, m: Floats
) -> tuple[Floats, Floats]:
    """Returns the d and m of least squares for the integers nearest to w; `sums` are those of v and of v * w in a group."""
    total, sum_w = sums
    q = nearest(form, w, d[..., None], (np.minimum(m, 0) if form.factor else m)[..., None])
    weighted = q * v
    sum_q, sum_qq = weighted.sum(-1), np.einsum("rgk,rgk->rg", weighted, q)
    sum_qw = np.einsum("rgk,rgk->rg", weighted, w)
    determinant = total * sum_qq - sum_q * sum_q
    slope = (total * sum_qw - sum_q * sum_w) / np.where(determinant > 0, determinant, 1)
    fitted = np.where(determinant > 0, slope, d).astype(np.float32)
    lowest = ((sum_w - fitted * sum_q) / total).astype(np.float32)
    if not form.factor:
        return fitted, lowest
    # No minimum above 0 can be stored: there the scale alone is fitted
    through = np.where(sum_qq > 0, sum_qw / np.where(sum_qq > 0, sum_qq, 1), fitted)
    return np.where(lowest > 0, through, fitted).astype(np.float32), np.minimum(lowest, 0)


def _chosen(better: NDArray[np.bool_], a: Floats, b: Floats) -> Floats:
    return np.where(better, a, b)


def _symmetric(form: Format, w: Floats, v: Floats) -> Floats:
    """Fits d of groups without a minimum. It may be negative: the longer side of the integers meets the largest weight."""
    largest = np.take_along_axis(w, np.abs(w).argmax(-1)[..., None], -1)[..., 0]
    best_error: Floats = np.full(largest.shape, np.inf, np.float32)
    best_d: Floats = np.zeros_like(largest)
    # An even grid, as of Q8_0, has no longer side
    for end in {form.low, form.high} if form.low != -form.high else (form.high,):
        for start in _SYMMETRIC_STARTS:
            d: Floats = (largest / np.float32(end * start)).astype(np.float32)
            for _ in range(_STEPS):
                d = _symmetric_step(form, w, v, d)
            error = _error(form, w, v, d, np.zeros_like(d))
            better = error < best_error
            best_error, best_d = _chosen(better, error, best_error), _chosen(better, d, best_d)
    return best_d


def _symmetric_step(form: Format, w: Floats, v: Floats, d: Floats) -> Floats:
    """Returns the d of least squares for the integers nearest to w."""
    q = nearest(form, w, d[..., None], np.zeros((), np.float32))
    weighted = q * v
    sum_qq = np.einsum("rgk,rgk->rg", weighted, q)
    sum_qw = np.einsum("rgk,rgk->rg", weighted, w)
    return np.where(sum_qq > 0, sum_qw / np.where(sum_qq > 0, sum_qq, 1), d).astype(np.float32)


def _error(form: Format, w: Floats, v: Floats, d: Floats, m: Floats) -> Floats:
    """Returns the weighted squared error of groups, with scales as float16 keeps them where a group has its own."""
    if not form.factor:
        d, m = _half(d).astype(np.float32), _half(m).astype(np.float32)
    off = nearest(form, w, d[..., None], m[..., None]) * d[..., None] + m[..., None] - w
    return np.asarray(np.einsum("rgk,rgk,gk->rg", off, off, v), np.float32)


def _shared(form: Format, w: Floats, v: Floats, d: Floats, m: Floats) -> Scales:
    """Rounds the scales of groups to integers of a block's own float16, and fits that to the weights once more."""
    rows, groups, _ = w.shape
    per = form.block // form.group

    def rounded(a: Floats) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
        blocks = a.reshape(rows, groups // per, per)
        if form.offset:
            top = _half(blocks.max(-1) / np.float32(form.factor))
        else:  # the integers reach one further below 0
            largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
            top = _half(largest / np.float32(-form.factor - 1))
        unit = top.astype(np.float32)[..., None]
        of = np.rint(np.divide(blocks, unit, out=np.zeros_like(blocks), where=unit != 0))
        of = np.clip(of, 0 if form.offset else -form.factor - 1, form.factor)
        return top, of.astype(np.int8).reshape(rows, groups)

    top_d, of_d = rounded(d)
    none = np.empty((rows, 0), np.int8)
    top_m, of_m = rounded(-m) if form.offset else (np.empty((rows, 0), np.float16), none)
    scales = Scales(top_d, top_m, of_d, of_m)
    for _ in range(2):
        each_d, each_m = scales.of_groups()
        q = nearest(form, w, each_d[..., None], each_m[..., None])
        unit = q * of_d[..., None]
        over = (
            np.einsum("rgk,rgk,gk->rg", unit, w - each_m[..., None], v),
            np.einsum("rgk,rgk,gk->rg", unit, unit, v),
        )
        upper, lower = (one.reshape(rows, groups // per, per).sum(-1) for one in over)
        better = np.where(lower > 0, upper / np.where(lower > 0, lower, 1), top_d)
        scales = Scales(_half(better.astype(np.float32)), top_m, of_d, of_m)
    return scales


def encode(form: Format, q: NDArray[np.int8], scales: Scales) -> NDArray[np.uint8]:
    """Returns the bytes of rows as GGUF stores them, uint8 [rows, row_bytes]."""
    rows, cols = q.shape
    blocks = cols // form.block
    shaped = q.reshape(rows, blocks, form.block)

    def half(a: NDArray[np.float16]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(a, "<f2").view(np.uint8).reshape(rows, blocks, 2)

    if form.name == "Q8_0":
        parts = [half(scales.d), shaped.view(np.uint8)]
    elif form.name == "Q4_0":
        parts = [half(scales.d), _nibbles((shaped + np.int8(8)).view(np.uint8), 32)]
    elif form.name == "Q4_1":
        parts = [half(scales.d), half(scales.m), _nibbles(shaped.view(np.uint8), 32)]
    elif form.name == "Q4_K":
        of_d, of_m = (a.view(np.uint8).reshape(rows, blocks, 8) for a in (scales.of_d, scales.of_m))
        packed = [
            (of_d[..., :4] | (of_d[..., 4:] >> 4 << 6)),
            (of_m[..., :4] | (of_m[..., 4:] >> 4 << 6)),
            ((of_d[..., 4:] & 15) | (of_m[..., 4:] & 15) << 4),
        ]
        parts = [half(scales.d), half(scales.m), *packed, _nibbles(shaped.view(np.uint8), 64)]
    else:
        parts = _q3_k(shaped, scales, half(scales.d))
    return np.ascontiguousarray(np.concatenate(parts, -1), np.uint8).reshape(rows, -1)


def _nibbles(q: NDArray[np.uint8], run: int) -> NDArray[np.uint8]:
    """Packs [rows, blocks, cols]: low nibbles are the first half of each run of columns, high ones the second."""
    rows, blocks, cols = q.shape
    halves = q.reshape(rows, blocks, cols // run, 2, run // 2)
    packed = halves[..., 0, :] | halves[..., 1, :] << np.uint8(4)
    return packed.astype(np.uint8).reshape(rows, blocks, cols // 2)


def _q3_k(q: NDArray[np.int8], scales: Scales, d: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Returns the parts of Q3_K: high bits, two low bits each, 6-bit scales from 32 up, and the float16."""
    rows, blocks, _ = q.shape
    lifted = (q + np.int8(4)).view(np.uint8)
    high = lifted.reshape(rows, blocks, 8, 32) >> 2 & 1
    masks = np.bitwise_or.reduce(high << np.arange(8, dtype=np.uint8)[:, None], axis=2)
    low = lifted.reshape(rows, blocks, 2, 4, 32) & 3
    pairs = np.bitwise_or.reduce(low << np.arange(0, 8, 2, dtype=np.uint8)[:, None], axis=3)
    of = (scales.of_d.reshape(rows, blocks, 16) + np.int8(32)).view(np.uint8)
    four = ((of[..., :8] & 15) | (of[..., 8:] & 15) << 4).astype(np.uint8)
    top = (of >> 4).reshape(rows, blocks, 4, 4)
    two = np.bitwise_or.reduce(top << np.arange(0, 8, 2, dtype=np.uint8)[:, None], axis=2)
    return [
        masks.astype(np.uint8),
        pairs.astype(np.uint8).reshape(rows, blocks, 64),
        four,
        two.astype(np.uint8),
        d,
    ]
