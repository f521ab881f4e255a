"""`LowRank`: an adapter's addition to a packed matrix, and its layout for the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["INT8_RANK", "AdapterDtype", "LowRank", "PackedLowRank", "by_expert", "pack"]

AdapterDtype = Literal["fp32", "bf16", "int8"]
PackedLowRank = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]

# Outputs that share the same ranks; all borders in packed matrices of real models are multiples of it
RUN = 16
COLUMNS = 16  # columns of A are padded to a multiple of this
STRIP = 16  # rows of A that lie together in int8
GROUP = 64  # columns of a row of A that share a scale in int8
INT8_RANK = 512  # of a part in int8: from 1041 on, the kernels' sums could leave 32 bits
_LARGEST = 1e38  # of a balanced B, which is finite in float32


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """The update y[rows] += b (a x), with the scaling folded into `b`."""

    rows: NDArray[np.intp]  # [outputs], ascending rows of the packed matrix
    a: NDArray[np.float32]  # [rank, cols]
    b: NDArray[np.float32]  # [outputs, rank]

    @property
    def rank(self) -> int:
        """Number of rows of `a`."""
        return len(self.a)


def by_expert(parts: Sequence[LowRank], rows: int, experts: int) -> list[list[LowRank]]:
    """Splits the parts of a matrix that stacks `experts` of `rows` rows each into parts of each expert's matrix."""
    result: list[list[LowRank]] = [[] for _ in range(experts)]
    for part in parts:
        expert = int(part.rows[0]) // rows
        result[expert].append(LowRank(part.rows - expert * rows, part.a, part.b))
    return result


def pack(parts: Sequence[LowRank], rows: int, cols: int, dtype: AdapterDtype) -> PackedLowRank:
    """Lays out what `parts` add to a matrix [rows, cols], with `rows` padded to whole panels.

    Returns:
        A, B and runs: [rows / 16, 3], of each run of 16 rows the first rank, the number of ranks, and the byte at which its B
        begins. In fp32 and bf16, A has for each pair of stacked ranks [cols padded to 16] lanes, and B for each run and
        each pair of the ranks that own the run [16] lanes. A lane of bf16 holds both ranks of the pair, the even one in the
        lower half; in fp32 the lanes of the even rank come first. In int8, A has for each 16 ranks and 64 columns
        [16] float32 scales and [16 of 4 columns][16 ranks][4] codes; B has [16] bf16 scales for each run, padded to 64
        bytes, then for each run and four of its ranks [16][4] codes. A part's ranks are padded to a multiple of 2, in int8
        of 4. No zeros are stored for outputs that a part does not own, except where two parts meet inside a run.
    """
    if dtype == "int8":
        parts = [_balanced(part) for part in parts]
    unit = 4 if dtype == "int8" else 2
    even = [-(-part.rank // unit) * unit for part in parts]
    first = np.concatenate([[0], np.cumsum(even)])
    a = np.zeros((int(first[-1]), -(-cols // COLUMNS) * COLUMNS), np.float32)
    full = np.zeros((rows, int(first[-1])), np.float32)
    begin = np.full(rows // RUN, int(first[-1]))
    end = np.zeros(rows // RUN, np.int64)
    for part, start, width in zip(parts, first, even, strict=False):
        a[start : start + part.rank, : part.a.shape[1]] = part.a
        full[part.rows, start : start + part.rank] = part.b
        touched = np.unique(part.rows // RUN)
        begin[touched] = np.minimum(begin[touched], start)
        end[touched] = np.maximum(end[touched], start + width)
    runs = np.zeros((rows // RUN, 3), np.int32)
    blocks: list[NDArray[np.uint8]] = []
    offset = 0
    rounded = _rounded(full) if dtype == "int8" else None
    if rounded:
        scales = rounded[1]
        blocks.append(np.zeros(-(-scales.nbytes // 64) * 64, np.uint8))
        blocks[0][: scales.nbytes] = scales.view(np.uint8)
        offset = blocks[0].nbytes
    for run, (low, high) in enumerate(zip(begin, end, strict=True)):
        if high > low:
            own = slice(run * RUN, (run + 1) * RUN), slice(low, high)
            blocks.append(_fours(rounded[0][own]) if rounded else _pairs(full[own].T, dtype))
            runs[run] = low, high - low, offset
            offset += blocks[-1].nbytes
    return _strips(a) if dtype == "int8" else _pairs(a, dtype), np.concatenate(blocks), runs


def _balanced(part: LowRank) -> LowRank:
    """Returns the same update with rows of A that reach 1, as far as B stays finite.

    A row of A may be large where its column of B is small. In int8, all of A x share a scale, and so do an output's values of
    B: unbalanced, small ones would be lost.
    """
    peaks, columns = np.abs(part.a).max(axis=1), np.abs(part.b).max(axis=0)
    with np.errstate(divide="ignore", over="ignore"):
        most = np.maximum(np.float32(_LARGEST) / columns, np.float32(1))
    factors = np.where(peaks > 0, np.minimum(peaks, most), 1).astype(np.float32)
    return LowRank(part.rows, part.a / factors[:, None], part.b * factors)


def _pairs(rows: NDArray[np.float32], dtype: AdapterDtype) -> NDArray[np.uint8]:
    """Stores rows 2i and 2i + 1 as pairs of lanes."""
    if dtype == "fp32":
        return np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    bits = np.ascontiguousarray(rows).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.ascontiguousarray(rounded[0::2] >> 16 | rounded[1::2]).view(np.uint8).reshape(-1)


def _rounded(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """Returns the last axis as int8 with a common scale, the bits of a bf16 that is never too small."""
    peaks = np.abs(values).max(axis=-1) / np.float32(127)
    bits = (peaks.astype(np.float32).view(np.uint32) + np.uint32(0xFFFF)) >> 16
    return _codes(values, (bits << 16).view(np.float32)), bits.astype(np.uint16)


def _codes(values: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(scales[..., None] > 0, np.rint(values / scales[..., None]), 0)
    return np.clip(codes, -127, 127).astype(np.int8)


def _fours(rows: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Stores [outputs, columns] by four columns: [columns / 4][outputs][4]."""
    fours = rows.reshape(len(rows), -1, 4).swapaxes(0, 1)
    return np.ascontiguousarray(fours).view(np.uint8).reshape(-1)


def _strips(rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Stores A, [ranks, cols], in blocks of 16 ranks and 64 columns, each behind its scales."""
    strips, groups = -(-len(rows) // STRIP), -(-rows.shape[1] // GROUP)
    padded = np.zeros((strips * STRIP, groups * GROUP), np.float32)
    padded[: len(rows), : rows.shape[1]] = rows
    blocks = padded.reshape(strips, STRIP, groups, GROUP).swapaxes(1, 2)
    peaks = np.abs(blocks).max(axis=-1)  # [strips, groups, 16]
    scales = np.ascontiguousarray(peaks / np.float32(127))
    codes = _codes(blocks, scales).reshape(strips, groups, STRIP, -1, 4).swapaxes(2, 3)
    parts = [scales.view(np.uint8), np.ascontiguousarray(codes).reshape(strips, groups, -1).view(np.uint8)]
    return np.concatenate(parts, axis=2).reshape(-1)
