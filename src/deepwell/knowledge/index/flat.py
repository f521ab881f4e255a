"""`FlatIndex`: exact search over all vectors of a store. 26,000 of 384 dimensions take about 2 ms."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.index.nearest import checked_query, merge, nearest
from deepwell.knowledge.index.protocol import Hits
from deepwell.knowledge.index.rows import Rows, VectorRows

__all__ = ["FlatIndex", "search_rows", "search_some"]

_NONE: Final = np.empty(0, np.int64)
_BLOCK: Final = 16_384  # rows that are copied at once where only some are allowed
_MOST_COPIED_SHARE: Final = 0.25  # reading all rows in order is faster than copying more than these


def search_rows(rows: Rows, query: NDArray[np.float32], limit: int, *, start: int = 0) -> Hits:
    """Returns the `limit` nearest of the rows from `start` on that were not removed."""
    alive = None if rows.alive is None else rows.alive[start:]
    return nearest(rows.vectors[start:], rows.keys[start:], query, limit, alive=alive)


def search_some(rows: Rows, query: NDArray[np.float32], limit: int, some: NDArray[np.int64]) -> Hits:
    """Returns the `limit` nearest of some rows [n], none of which was removed."""
    if len(some) > _MOST_COPIED_SHARE * len(rows.keys):
        alive = np.zeros(len(rows.keys), np.bool_)
        alive[some] = True
        return nearest(rows.vectors, rows.keys, query, limit, alive=alive)
    blocks = [some[at : at + _BLOCK] for at in range(0, len(some), _BLOCK)]
    return merge([nearest(rows.vectors[b], rows.keys[b], query, limit) for b in blocks], limit)


class FlatIndex:
    """A `VectorIndex` that compares a query with every vector.

    Args:
        rows: the vectors.
    """

    def __init__(self, rows: VectorRows) -> None:
        self._rows = rows

    @classmethod
    def open(cls, dimensions: int, folder: Path | None = None) -> FlatIndex:
        """Opens the index of a folder, or makes it. Without a folder it ends with the process.

        Raises:
            OSError: the files cannot be read.
        """
        return cls(VectorRows(dimensions, folder))

    @property
    def dimensions(self) -> int:
        return self._rows.dimensions

    def __len__(self) -> int:
        return self._rows.rows.size

    def add(self, keys: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        self._rows.change(_NONE, keys, vectors)

    def remove(self, keys: NDArray[np.int64]) -> None:
        self._rows.change(keys, _NONE, np.empty((0, self.dimensions), np.float32))

    def search(
        self, query: NDArray[np.float32], limit: int, *, allowed: NDArray[np.int64] | None = None
    ) -> Hits:
        query = checked_query(query, self.dimensions, limit)
        rows = self._rows.rows
        if allowed is None:
            return search_rows(rows, query, limit)
        return search_some(rows, query, limit, rows.find(allowed))

    def fetch(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = self._rows.rows
        found = rows.find(keys)
        return rows.keys[found], np.asarray(rows.column.fetch(found), np.float32)

    def reload(self) -> bool:
        """Takes over what other processes have changed. Returns True if that was something."""
        return self._rows.reload()
