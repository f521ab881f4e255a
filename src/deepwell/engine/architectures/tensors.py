"""The tensors that an architecture needs: the mapping from stored tensors to matrices and vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.layouts import GATE_UP_ROWS

__all__ = ["HeadRows", "MatrixPlan", "TensorPlan", "VectorPlan", "row_map", "source_places"]


@dataclass(frozen=True, slots=True)
class HeadRows:
    """The rows that a matrix takes from a stored tensor, head by head: `count` of every `stride`, starting at `first`."""

    heads: int
    stride: int
    first: int
    count: int
    # Number of rows at the end of a head that are rotated and stored as pairs (2i, 2i + 1). The matrix takes the even rows
    # first, then the odd ones.
    interleaved: int = 0
    pad: int = 1  # a head is padded with zero rows to a multiple of this

    @property
    def padded(self) -> int:
        """Number of rows of a head in the matrix, including padding."""
        return -(-self.count // self.pad) * self.pad

    def order(self) -> NDArray[np.intp]:
        """Returns the stored row of each row of the matrix, -1 for padding: [heads x padded]."""
        inside = np.arange(self.count)
        plain = self.count - self.interleaved
        inside[plain:] = plain + np.arange(self.interleaved).reshape(-1, 2).T.reshape(-1)
        order = np.full((self.heads, self.padded), -1, np.intp)
        order[:, : self.count] = np.arange(self.heads)[:, None] * self.stride + self.first + inside
        return order.reshape(-1)


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """One packed matrix [rows, cols], made of the rows of the stored tensors in `sources`.

    "concatenate" appends the sources. "interleave" applies `quantize.interleave_gate_up` to each pair of sources and
    appends the results. "transpose" transposes each head of the only source, so that its `cols` rows become columns, and
    pads it with zero rows to whole panels.
    """

    name: str  # of a decoder's block "block.matrix", by which `backend.Model.adapter` knows it
    rows: int
    cols: int
    sources: tuple[str, ...]
    role: Literal["body", "embedding"]  # token embedding and output head may be kept wider than the body
    order: Literal["concatenate", "interleave", "transpose"] = "concatenate"
    heads: tuple[HeadRows | None, ...] = ()  # rows of each source; None, or an empty tuple, takes all rows
    adapts: bool = True  # whether a body matrix is one that `backend.Model.adapter` knows

    @property
    def plain(self) -> bool:
        """True if the matrix is made of whole sources, concatenated or one pair interleaved."""
        return (
            not self.heads
            and self.order != "transpose"
            and (self.order != "interleave" or len(self.sources) == 2)
        )


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """One float32 vector, the concatenation of stored vectors. A table is stored row by row."""

    name: str
    size: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """All tensors that a model loads, in the order of the packed file."""

    matrices: tuple[MatrixPlan, ...]
    vectors: tuple[VectorPlan, ...]


def row_map(matrix: MatrixPlan, source_rows: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Maps each row of a concatenated or interleaved matrix to its source.

    Args:
        source_rows: number of rows of each source.

    Returns:
        The index of the source and the row in it, each [matrix.rows]; both are -1 for a zero row.
    """
    sources = np.full(matrix.rows, -1, np.int32)
    rows = np.full(matrix.rows, -1, np.intp)
    for index, order, places in _placed(matrix, source_rows):
        taken = order >= 0
        sources[places[taken]] = index
        rows[places[taken]] = order[taken]
    return sources, rows


def source_places(matrix: MatrixPlan, source_rows: Sequence[int], source: int) -> NDArray[np.intp]:
    """Returns the matrix row of each row of a source that is taken whole, [rows of the source]; see `row_map`."""
    for _, order, places in _placed(matrix, source_rows, source):
        result = np.empty(source_rows[source], np.intp)
        result[order[order >= 0]] = places[order >= 0]
        return result
    raise IndexError(source)


def _placed(
    matrix: MatrixPlan, source_rows: Sequence[int], only: int | None = None
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp]]]:
    """Yields for each source (or `only` one) its index, the rows taken from it, -1 for padding, and their matrix rows."""
    first = 0
    for index, count in enumerate(source_rows):
        selection = matrix.heads[index] if matrix.heads else None
        length = count if selection is None else selection.heads * selection.padded
        wanted = only is None or only == index
        if matrix.order == "interleave":
            runs = -(-length // GATE_UP_ROWS)
            if wanted:
                run, inside = np.divmod(np.arange(length), GATE_UP_ROWS)
                yield index, np.arange(length), first + (2 * run + index % 2) * GATE_UP_ROWS + inside
            first += 2 * runs * GATE_UP_ROWS if index % 2 else 0
        else:
            if wanted:
                order = np.arange(length) if selection is None else selection.order()
                yield index, order, first + np.arange(length)
            first += length
