"""`SideIndex`: the indexes of one store on one machine, brought up to the database by whoever finds them behind.

The folder holds nothing that the database does not have. Processes share it: one at a time applies changes, the others open
what it has written.

    state.json, vectors-*, rows-*, removed-*   the vectors, see `rows`
    graph*                                     the graph over them, see `graph`
    lexical-*/                                 the texts; the folder of one lineage of rows
    alignment.npz                              how the vectors of two languages lie to each other, see `languages`
    lock, graph.lock                           held by the one that applies changes, and by the one that builds the graph

The lexical index is changed first, and the vectors' state, which carries the generation, last. A crash in between leaves texts
that the same changes add or remove again.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import DeepwellError, StorageError
from deepwell.knowledge.align import Alignment
from deepwell.knowledge.index.ann import AnnIndex
from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.index.graph import GraphShape
from deepwell.knowledge.index.languages import LanguageMap
from deepwell.knowledge.index.protocol import LexicalIndex, VectorIndex
from deepwell.knowledge.index.rows import VectorRows
from deepwell.models.store.languages import is_chinese

__all__ = ["Delta", "LexicalFactory", "SideIndex", "SideOptions"]

_log = logging.getLogger("deepwell")
_NICENESS: Final = 10  # of the thread that builds a graph beside a server's work
_CHINESE: Final = 1  # label of the row of a Chinese text

LexicalFactory = Callable[[Path | None], LexicalIndex]
"""Opens the lexical index of a folder, or makes it; None: in memory."""


class Delta(Protocol):
    """Changes of a store's chunks since a generation, or a first part of them.

    Attributes:
        generation: what an index reaches with them.
        complete: True if that is the store's newest.
        rebuild: True if an index has to drop everything first.
        keys: int64 [added].
        vectors: float32 [added, dimensions].
        texts: the texts of the added chunks.
        removed: int64 [removed].
    """

    @property
    def generation(self) -> int: ...
    @property
    def complete(self) -> bool: ...
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


@dataclass(frozen=True, slots=True)
class SideOptions:
    """Options of a `SideIndex`.

    Attributes:
        graph_from: number of vectors from which on a graph is built. In memory there is none.
        shape: parameters of the graph.
        checkpoint_rows: rows after which a graph that is being built is saved.
        background: builds and compacts in a thread of its own as soon as it is worth its time. Otherwise `maintain` does.
        threads: threads that build. 0: one a core.
    """

    graph_from: int = 100_000
    shape: GraphShape = field(default_factory=GraphShape)
    checkpoint_rows: int = 100_000
    background: bool = True
    threads: int = 0


def _tantivy(folder: Path | None) -> LexicalIndex:
    from deepwell.knowledge.index.lexical import TantivyIndex

    return TantivyIndex(folder)


class SideIndex:
    """The vector index and the lexical index of one store. Threads and processes may use one folder at once.

    Args:
        folder: the folder; it is made by the first change. None: in memory.
        dimensions: length of a vector.
        embedder: hash of the embedder. What another one has made is not used, and the first change replaces it.
        lexical: makes the lexical index. None: tantivy.
        options: how it works.

    Raises:
        MissingDependency: a package of the extra `[knowledge]` is not installed.
        StorageError: the folder cannot be read.
    """

    def __init__(
        self,
        folder: Path | None,
        dimensions: int,
        embedder: str,
        *,
        lexical: LexicalFactory | None = None,
        options: SideOptions | None = None,
    ) -> None:
        self._folder = folder
        self._options = options or SideOptions()
        self._factory = lexical or _tantivy
        self._doubted = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._learner: threading.Thread | None = None
        self._starting = threading.Lock()  # `_learner`
        self._opening = threading.RLock()  # `_lexical` and `_lineage`
        self._lexical: LexicalIndex | None = None
        self._lineage = ""
        with _reported(folder):
            self._rows = VectorRows(dimensions, folder, embedder)
            self._flat = FlatIndex(self._rows)
            self._languages = LanguageMap(folder, embedder)
            self._ann = None
            if folder is not None:
                self._ann = AnnIndex(
                    self._rows,
                    folder,
                    shape=self._options.shape,
                    checkpoint_rows=self._options.checkpoint_rows,
                    threads=self._options.threads,
                )

    @property
    def generation(self) -> int:
        """The generation of the store that searches see, as of the last `reload` or change. 0: nothing."""
        return self._rows.generation

    @property
    def vectors(self) -> VectorIndex:
        """The vector index: flat, or with a graph once there are enough vectors."""
        if self._ann is not None and len(self._ann) >= self._options.graph_from:
            return self._ann
        return self._flat

    @property
    def lexical(self) -> LexicalIndex:
        """The lexical index.

        Raises:
            MissingDependency, StorageError: it cannot be opened.
        """
        with self._opening:
            lineage = self._rows.lineage
            if self._lexical is None or self._lineage != lineage:
                self._lexical = self._factory(self._lexical_folder(lineage))
                self._lineage = lineage
            return self._lexical

    @property
    def alignment(self) -> Alignment | None:
        """The alignment of the store's Chinese passages with the others. None: there is none yet, or nothing to align."""
        return self._languages.alignment

    def chinese(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns for each of the keys [n] whether its text is Chinese; False for a key that is not there."""
        rows = self._rows.rows
        found = rows.find(keys)
        chinese = rows.labels[found] == _CHINESE
        return chinese if len(found) == len(keys) else np.isin(keys, rows.keys[found[chinese]])

    def share(self, *, chinese: bool) -> float:
        """Returns the share of the passages that are Chinese, or that are not."""
        others, mine = self._rows.rows.counts
        return (mine if chinese else others) / max(mine + others, 1)

    def learn(self, vectors: VectorIndex) -> None:
        """Learns the alignment of the two languages if the store has become large enough, which takes seconds.

        Args:
            vectors: the vectors of the store, in these files or elsewhere.

        Raises:
            StorageError: the disk is full.
        """
        if not self._is_due():
            return
        rows = self._rows.rows
        alive = np.ones(len(rows.keys), np.bool_) if rows.alive is None else rows.alive
        chinese = rows.labels == _CHINESE
        with _reported(self._folder):
            keys = rows.keys[alive & ~chinese], rows.keys[alive & chinese]
            self._languages.learn(keys, vectors, self._closed.is_set)

    def learn_later(self, vectors: VectorIndex) -> None:
        """Starts a thread that does what `learn` does, if that is due. Searches go on with the alignment that there is."""
        if not self._options.background or self._closed.is_set() or not self._is_due():
            return
        with self._starting:
            if self._learner is None or not self._learner.is_alive():
                work = (lambda: self.learn(vectors), "the languages of %s were not aligned")
                self._learner = threading.Thread(
                    target=self._quietly, args=work, name="deepwell-languages", daemon=True
                )
                self._learner.start()

    def reload(self) -> bool:
        """Takes over what other processes have applied. Returns True if that was something. Takes 20 us if it was nothing.

        Raises:
            StorageError: the folder cannot be read.
        """
        with _reported(self._folder):
            changed = self._rows.reload() if self._ann is None else self._ann.reload()
            self._languages.reload()
        if changed:
            self.lexical.reload()
        return changed

    def apply(self, delta: Delta, since: int | None = None) -> None:
        """Applies changes. Changes that another process has applied meanwhile are left out; applying them twice is harmless.

        Args:
            delta: changes of the database.
            since: the generation that they begin at. None: `generation` as it is now. If the folder has lost what was in front
                of it, or has more than the whole database, nothing is applied: `generation` tells from where to read again.

        Raises:
            ValueError: a vector has another length, or is not finite.
            StorageError: the folder cannot be written to. Applying the same again is right.
        """
        since = self.generation if since is None else since
        with _reported(self._folder), self._rows.lock.held():
            self.reload()
            if not delta.rebuild and self.generation < since:
                return
            if delta.rebuild:
                self._reset()
            elif delta.complete and delta.generation < since:
                _log.warning(
                    "the database is older than the side index in %s, which begins anew", self._folder
                )
                self._reset()
                return
            elif delta.generation <= self.generation:
                return
            lexical = self._writable_lexical()
            if not delta.rebuild and self.generation < since:
                return  # it begins anew, and this is only the end of what it needs
            if len(delta.removed):
                lexical.remove(delta.removed)
            if len(delta.keys):
                lexical.add(delta.keys, delta.texts)
            labels = np.array([_CHINESE * is_chinese(text) for text in delta.texts], np.int64)
            self._rows.change(delta.removed, delta.keys, delta.vectors, delta.generation, labels)
            if delta.complete:
                self._check(len(lexical), len(self._flat))
        self._maintain_later()

    def reset(self) -> None:
        """Drops everything: generation 0. The database brings it back.

        Raises:
            StorageError: the folder cannot be written to.
        """
        with _reported(self._folder), self._rows.lock.held():
            self._reset()

    def repair(self) -> None:
        """Drops everything if the lexical index cannot be opened, for its files are broken. The database brings it back.

        Raises:
            MissingDependency: tantivy is not installed.
            StorageError: the folder cannot be written to.
        """
        if self.generation == 0:
            return
        try:
            _ = self.lexical
        except StorageError as error:
            _log.warning("%s: it begins anew", error.message)
            self.reset()

    def needs_maintenance(self) -> bool:
        """Returns True if building the graph or compacting the rows is worth its time."""
        ann = self._ann
        large = ann is not None and len(ann) >= self._options.graph_from
        return self._rows.needs_compaction() or (large and ann is not None and ann.needs_build())

    def maintain(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Compacts the rows and builds the graph, if that is worth its time. Searches and changes go on meanwhile.

        Args:
            stop: asked every few seconds; when it returns True, the work is saved and left for later.

        Raises:
            StorageError: the disk is full.
        """
        with _reported(self._folder):
            if self._rows.needs_compaction():
                self._rows.compact()
            if self._ann is not None and len(self._ann) >= self._options.graph_from:
                while self._ann.needs_build() and self._ann.build(stop) and not stop():
                    self._ann.reload()

    def close(self) -> None:
        """Waits until a graph that is being built has been saved. Closing twice is harmless."""
        self._closed.set()
        for thread in (self._thread, self._learner):
            if thread is not None:
                thread.join()

    def _is_due(self) -> bool:
        return self._languages.is_due(self._rows.rows.counts)

    def _reset(self) -> None:
        self._rows.reset()
        self._sweep()

    def _check(self, texts: int, vectors: int) -> None:
        """Begins anew if texts and vectors are not the same chunks, for somebody has deleted files; at most once."""
        if texts != vectors and not self._doubted:
            self._doubted = True
            _log.warning(
                "the side index in %s has %d texts for %d vectors: it begins anew",
                self._folder,
                texts,
                vectors,
            )
            self._reset()

    def _writable_lexical(self) -> LexicalIndex:
        """Returns the lexical index to change. One that cannot be opened is dropped, and the vectors with it."""
        try:
            lexical = self.lexical
        except StorageError as error:
            _log.warning("%s: it begins anew", error.message)
            self._reset()
            lexical = self.lexical
        if self.generation == 0:
            self._sweep()
        return lexical

    def _lexical_folder(self, lineage: str) -> Path | None:
        return None if self._folder is None else self._folder / f"lexical-{lineage}"

    def _sweep(self) -> None:
        """Deletes the texts of other lineages."""
        if self._folder is not None:
            mine = self._lexical_folder(self._rows.lineage)
            for path in self._folder.glob("lexical-*"):
                if path != mine:
                    shutil.rmtree(path, ignore_errors=True)

    def _maintain_later(self) -> None:
        if not self._options.background or self._closed.is_set() or not self.needs_maintenance():
            return
        if self._thread is None or not self._thread.is_alive():
            work = (lambda: self.maintain(self._closed.is_set), "the graph in %s was not built")
            self._thread = threading.Thread(
                target=self._quietly, args=work, name="deepwell-graph", daemon=True
            )
            self._thread.start()

    def _quietly(self, work: Callable[[], None], failure: str) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            work()
        except DeepwellError as error:
            _log.warning(f"{failure}: %s", self._folder, error)
        except Exception:
            _log.exception(failure, self._folder)


@contextmanager
def _reported(folder: Path | None) -> Generator[None]:
    """Raises what the disk refuses as an error that names the folder."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the side index in {folder} cannot be used: {error.strerror or error}",
            fix="free space on the disk and check who owns data_dir; the passages themselves are in the database",
        ) from None
