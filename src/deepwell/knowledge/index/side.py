"""`SideIndex`: the side files of one store on this machine, brought up to the database by differences."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.index.lexical import TantivyIndex
from deepwell.knowledge.index.protocol import LexicalIndex, VectorIndex
from deepwell.knowledge.index.rows import VectorRows

__all__ = ["Delta", "SideIndex"]


class Delta(Protocol):
    """The changes of a store's chunks since a generation; see `storage.knowledge.chunks.ChunksDelta`."""

    @property
    def generation(self) -> int: ...
    @property
    def rebuild(self) -> bool: ...
    @property
    def keys(self) -> NDArray[np.int64]: ...
    @property
    def vectors(self) -> NDArray[np.float32]: ...
    @property
    def texts(self) -> Sequence[str]: ...
    @property
    def removed(self) -> NDArray[np.int64]: ...


class SideIndex:
    """Words and vectors of one store. Several processes may have it open; one applies a difference, all see it.

    The rows of the vectors say which generation is applied. A difference goes to the words first, so that a crash between
    the two leaves rows of the earlier generation, and the same difference is applied again.

    Args:
        folder: directory of the side files, which is made.
        dimensions: length of a vector.
        embedder_hash: files of another embedder are built anew.
    """

    def __init__(self, folder: Path, dimensions: int, embedder_hash: str) -> None:
        self._folder = folder
        self._rows = VectorRows(dimensions, folder / "vectors", embedder_hash)
        self._lexical: tuple[str, TantivyIndex] | None = None
        self._opening = threading.Lock()
        self.vectors: VectorIndex = FlatIndex(self._rows)

    @property
    def generation(self) -> int:
        """The generation that is applied, as of the last `reload`."""
        return self._rows.generation

    @property
    def lexical(self) -> LexicalIndex:
        """The words, of the same series as the vectors."""
        lineage = self._rows.lineage
        with self._opening:
            if self._lexical is None or self._lexical[0] != lineage:
                self._lexical = lineage, TantivyIndex(self._folder / f"lexical-{lineage}")
            return self._lexical[1]

    def reload(self) -> bool:
        """Takes over what other processes have applied. Returns True if that was something."""
        changed = self._rows.reload()
        if changed:
            lexical = self.lexical
            assert isinstance(lexical, TantivyIndex)
            lexical.reload()
        return changed

    def apply(self, delta: Delta) -> None:
        """Applies a difference that begins at this generation. One that is applied already changes nothing.

        Raises:
            OSError, StorageError: the disk cannot be written to. The side files are as before, or will be mended.
        """
        with self._rows.lock.held():
            self.reload()
            if self.generation >= delta.generation and not delta.rebuild:
                return
            if delta.rebuild:
                self._rows.reset()
            lexical = self.lexical
            lexical.remove(delta.removed)
            lexical.add(delta.keys, delta.texts)
            self._rows.change(delta.removed, delta.keys, delta.vectors, delta.generation)
            if self._rows.needs_compaction():
                self._rows.compact()
            self._sweep()

    def close(self) -> None:
        """Lets go of the files."""
        self._lexical = None

    def _sweep(self) -> None:
        current = f"lexical-{self._rows.lineage}"
        for path in self._folder.glob("lexical-*"):
            if path.name != current:
                shutil.rmtree(path, ignore_errors=True)
