"""`LanguageMap`: the alignment of the two languages of one store, kept in its side folder and learned again as the store grows.

    alignment.npz    the alignment, the embedder, and how many passages of each language there were; replaced as a whole
    alignment.lock   held by the one that learns

A store whose languages have nothing in common keeps that answer, and is asked again once it has doubled.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.align import MIN_PAIRS, MOST_LEARNED, Alignment, learn_alignment
from deepwell.knowledge.index.protocol import VectorIndex
from deepwell.knowledge.index.state import FolderLock

__all__ = ["LanguageMap"]

_FILE: Final = "alignment.npz"
_GROWTH: Final = 2  # of either language since it was learned, or its inverse
_FETCHED: Final = 4096  # vectors read at once
_LEAST_SHARE: Final = 0.9  # of the vectors that have to be there: a shared table may be behind its store


@dataclass(frozen=True, slots=True)
class _Learned:
    """One result of learning: the alignment, None if there is none, and the passages of each language that there were."""

    alignment: Alignment | None
    counts: tuple[int, int]


class LanguageMap:
    """The alignment of passages that are not Chinese (the first language) with Chinese ones (the second).

    Args:
        folder: where it is kept. None: in memory.
        embedder: hash of the embedder. What was learned from another one's vectors is not used.
    """

    def __init__(self, folder: Path | None, embedder: str) -> None:
        self._folder = folder
        self._embedder = embedder
        self._lock = FolderLock(None if folder is None else folder / "alignment.lock")
        self._learned: _Learned | None = None
        self._seen: tuple[int, int] | None = None
        self.reload()

    @property
    def alignment(self) -> Alignment | None:
        """The alignment, as of the last `reload` or `learn`. None: the store has one language, or too little of both."""
        learned = self._learned
        return None if learned is None else learned.alignment

    def reload(self) -> None:
        """Takes over what another process has learned. A file that is missing or broken counts as nothing."""
        if self._folder is None:
            return
        path = self._folder / _FILE
        try:
            status = path.stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != self._seen:
                self._learned, self._seen = self._read(path), seen
        except FileNotFoundError:
            self._learned = self._seen = None

    def is_due(self, counts: tuple[int, int]) -> bool:
        """Returns True if a store with so many passages of each language is to be learned from."""
        if min(counts) < MIN_PAIRS:
            return False
        learned = self._learned
        return learned is None or any(
            now >= _GROWTH * then or then >= _GROWTH * now
            for now, then in zip(counts, learned.counts, strict=True)
        )

    def learn(
        self,
        keys: tuple[NDArray[np.int64], NDArray[np.int64]],
        vectors: VectorIndex,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Learns the alignment, if that is due and no other process does, and puts it in force. Takes seconds.

        Args:
            keys: int64 [n], those of the first language and those of the second.
            vectors: their vectors.
            stop: asked several times a second; when it returns True, nothing is changed.

        Raises:
            OSError: the disk is full.
        """
        counts = (len(keys[0]), len(keys[1]))
        with self._lock.tried() as free:
            self.reload()
            if not free or not self.is_due(counts):
                return
            samples = [_sample(mine) for mine in keys]
            first, second = (_fetched(vectors, mine, stop) for mine in samples)
            if any(
                len(found) < _LEAST_SHARE * len(mine)
                for found, mine in zip((first, second), samples, strict=True)
            ):
                return
            alignment = learn_alignment(first, second, stop=stop)
            if stop():
                return
            learned = _Learned(alignment, counts)
            if self._folder is not None:
                self._write(self._folder / _FILE, learned)
                self.reload()
            else:
                self._learned = learned

    def _read(self, path: Path) -> _Learned | None:
        try:
            with np.load(path, allow_pickle=False) as kept:
                if str(kept["embedder"]) != self._embedder:
                    return None
                counts = (int(kept["counts"][0]), int(kept["counts"][1]))
                if not int(kept["pairs"]):
                    return _Learned(None, counts)
                alignment = Alignment(
                    kept["first_mean"], kept["second_mean"], kept["rotation"], int(kept["pairs"])
                )
        except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            return None
        return _Learned(alignment, counts)

    def _write(self, path: Path, learned: _Learned) -> None:
        values: dict[str, Any] = {"embedder": self._embedder, "counts": np.array(learned.counts), "pairs": 0}
        if (one := learned.alignment) is not None:
            values |= {
                "first_mean": one.first_mean,
                "second_mean": one.second_mean,
                "rotation": one.rotation,
                "pairs": one.pairs,
            }
        temporary = path.with_name(f"{path.name}.new")
        with temporary.open("wb") as file:
            np.savez(file, **values)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _sample(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the keys in their order, or as many of them as are learned from at most."""
    keys = np.sort(keys)
    if len(keys) <= MOST_LEARNED:
        return keys
    return keys[np.sort(np.random.default_rng(0).permutation(len(keys))[:MOST_LEARNED])]


def _fetched(vectors: VectorIndex, keys: NDArray[np.int64], stop: Callable[[], bool]) -> NDArray[np.float32]:
    found = [np.empty((0, vectors.dimensions), np.float32)]
    for start in range(0, len(keys), _FETCHED):
        if stop():
            break
        found.append(vectors.fetch(keys[start : start + _FETCHED])[1])
    return np.concatenate(found)
