"""`VectorIndex`, `LexicalIndex`: what a search asks of an index of one store's chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hits", "LexicalIndex", "VectorIndex"]


@dataclass(frozen=True, slots=True)
class Hits:
    """The chunks that an index found, best first; equal scores in the order of keys.

    Attributes:
        keys: int64 [found]: keys of chunks.
        scores: float32 [found]: cosine of a vector index, BM25 of a lexical one. Higher is better.
        ceiling: of a lexical index, the least score that no text can exceed, words of the query that no text has included.
            0: not known.
    """

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    ceiling: float = 0.0

    def __len__(self) -> int:
        return len(self.keys)


class VectorIndex(Protocol):
    """Vectors of unit length by key. Several threads may search while one changes it.

    A change is seen by every search that begins after it returned. Keys only ever grow; a key may be added again after it
    was removed, and adding a key that is there replaces its vector.
    """

    @property
    def dimensions(self) -> int: ...

    def __len__(self) -> int:
        """Returns the number of vectors."""
        ...

    def add(self, keys: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds `vectors` [n, dimensions] under `keys` [n].

        Raises:
            ValueError: the shapes do not fit, a key is there twice, or a vector is not finite, or neither of unit length nor
                zero. Nothing was added.
        """
        ...

    def remove(self, keys: NDArray[np.int64]) -> None:
        """Removes keys. Those that are not there are ignored."""
        ...

    def search(
        self, query: NDArray[np.float32], limit: int, *, allowed: NDArray[np.int64] | None = None
    ) -> Hits:
        """Returns the `limit` nearest by cosine. `allowed`, sorted, restricts the search to these keys.

        Raises:
            ValueError: the limit is below 1, or the query is not one vector as those that can be added.
        """
        ...

    def fetch(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Returns those of `keys` that are there, in the order given, and their vectors [found, dimensions]."""
        ...


class LexicalIndex(Protocol):
    """Texts by key, searched by BM25. The same rules as for `VectorIndex`."""

    def __len__(self) -> int: ...

    def add(self, keys: NDArray[np.int64], texts: Sequence[str]) -> None: ...

    def remove(self, keys: NDArray[np.int64]) -> None: ...

    def reload(self) -> None:
        """Takes over what other processes have changed in the folder of the index."""
        ...

    def search(self, query: str, limit: int, *, allowed: NDArray[np.int64] | None = None) -> Hits:
        """Returns the `limit` best. A query is plain text: no character of it is syntax."""
        ...
