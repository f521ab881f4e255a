"""`LowRank`: an adapter's addition to a packed matrix, and its layout for the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["AdapterDtype", "LowRank", "PackedLowRank", "by_expert", "pack"]

AdapterDtype = Literal["fp32", "bf16", "int8"]
PackedLowRank = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]

# Outputs that share the same ranks; all borders in packed matrices of real models are multiples of it
RUN = 16
COLUMNS = 16  # columns of A are padded to a multiple of this
GROUP = 64  # columns of a row of A that share a scale in int8


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
        A: for each pair of stacked ranks, [cols padded to 16] lanes. B: for each run of 16 rows and each pair of the
        ranks that own the run, [16] lanes. runs: [rows / 16, 3], the first rank, the number of ranks, and the byte at which
        its B begins. A lane of bf16 holds both ranks of the pair, the even one in the lower half. In fp32 the lanes of the
        even rank come first; in int8 16 lanes of the even rank and 16 of the odd one alternate. int8 has scales, as bf16:
        before the lanes of a pair of A one for each 64 columns and rank, [groups, 2] padded to 16 bytes; before a run of B
        one for each row, [16]. A part's ranks are padded to an even number. No zeros are stored for outputs that a part
        does not own, except where two parts meet inside a run.
    """
    even = [part.rank + part.rank % 2 for part in parts]
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
    for run, (low, high) in enumerate(zip(begin, end, strict=True)):
        if high > low:
            lanes = full[run * RUN : (run + 1) * RUN, low:high].T
            blocks.append(_scaled_run(lanes) if dtype == "int8" else _pairs(lanes, dtype))
            runs[run] = low, high - low, offset
            offset += blocks[-1].nbytes
    return _scaled_pairs(a) if dtype == "int8" else _pairs(a, dtype), np.concatenate(blocks), runs


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
    scales = (bits << 16).view(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(scales > 0, np.rint(values / scales), 0)
    return codes.astype(np.int8), bits.astype(np.uint16)


def _scaled_pairs(rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Stores rows 2i and 2i + 1, [rows, cols], as int8 behind the scales of both."""
    pairs, cols = len(rows) // 2, rows.shape[1]
    groups = -(-cols // GROUP)
    padded = np.zeros((len(rows), groups * GROUP), np.float32)
    padded[:, :cols] = rows
    codes, scales = _rounded(padded.reshape(len(rows), groups, GROUP))
    table = np.zeros((pairs, -(-groups * 2 // 8) * 8), np.uint16)
    table[:, : 2 * groups] = scales.reshape(pairs, 2, groups).swapaxes(1, 2).reshape(pairs, -1)
    lanes = codes.reshape(pairs, 2, -1, COLUMNS)[:, :, : cols // COLUMNS].swapaxes(1, 2).reshape(pairs, -1)
    return np.concatenate([table.view(np.uint8), lanes.view(np.uint8)], axis=1).reshape(-1)


def _scaled_run(lanes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Stores a run of B, [ranks, 16], as int8 behind the scales of its outputs."""
    codes, scales = _rounded(lanes.T)
    return np.concatenate([scales.view(np.uint8), np.ascontiguousarray(codes.T).view(np.uint8).reshape(-1)])
