"""`LowRank`: an adapter's addition to a packed matrix, and its layout for the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["AdapterDtype", "LowRank", "PackedLowRank", "by_expert", "pack"]

AdapterDtype = Literal["fp32", "bf16"]
PackedLowRank = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]

# Outputs that share the same ranks; all borders in packed matrices of real models are multiples of it
RUN = 16
COLUMNS = 16  # columns of A are padded to a multiple of this


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
        ranks that own the run, [16] lanes. runs: [rows / 16, 3], the first rank, the number of ranks, and the start of
        its B in units of 16 lanes. A lane of bf16 holds both ranks of the pair, the even one in the lower half. In fp32
        the lanes of the even rank come first. A part's ranks are padded to an even number. No zeros are stored for
        outputs that a part does not own, except where two parts meet inside a run.
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
    blocks: list[NDArray[np.float32]] = []
    offset = 0
    for run, (low, high) in enumerate(zip(begin, end, strict=True)):
        if high > low:
            blocks.append(full[run * RUN : (run + 1) * RUN, low:high].T)
            runs[run] = low, high - low, offset
            offset += (high - low) // 2
    return _pairs(a, dtype), _pairs(np.concatenate(blocks), dtype), runs


def _pairs(rows: NDArray[np.float32], dtype: AdapterDtype) -> NDArray[np.uint8]:
    """Stores rows 2i and 2i + 1 as pairs of lanes."""
    if dtype == "fp32":
        return np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    bits = np.ascontiguousarray(rows).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.ascontiguousarray(rounded[0::2] >> 16 | rounded[1::2]).view(np.uint8).reshape(-1)
