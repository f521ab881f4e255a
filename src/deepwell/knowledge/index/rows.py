"""`VectorRows`: the vectors of a store by row, in memory or in files that processes share.

A row is never changed. A vector that is replaced gets a new row, and its old row joins the list of removed ones. So a reader
that knows how far the columns are filled has a snapshot, however many rows others append meanwhile:

    state.json        how far the columns are filled, and the store's generation; replaced as a whole, once the rows are on disk
    vectors-*.f32     [rows, dimensions]
    rows-*.i64        [rows, 3]: key, serial number and label of each row
    removed-*.i64     [removed]: numbers of rows

Whatever lies behind the filled part was left by a crash, and is written over. A serial number belongs to one row for ever,
across compaction, which drops removed rows and begins the files of the next epoch. A graph over the rows names them by it.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.index.growing import Column, Growing
from deepwell.knowledge.index.media import Columns, FolderMedium, Medium, MemoryMedium
from deepwell.knowledge.index.nearest import checked_vectors
from deepwell.knowledge.index.state import FolderLock, RowsState

__all__ = ["Rows", "VectorRows"]

_MIN_REMOVED: Final = 1024
_MAX_REMOVED_SHARE: Final = 0.25
_COPIED: Final = 8192  # rows that compaction copies at once
_TRIES: Final = 100  # states that another process replaced before their files were open


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A snapshot of rows.

    Attributes:
        lineage: name of the series of rows; serial numbers of two series cannot be compared.
        column: the vectors once more, to read some of them without mapping them.
        vectors: float32 [rows, dimensions].
        keys: int64 [rows].
        serials: int64 [rows], ascending.
        labels: int64 [rows]: what the caller gave with each vector.
        alive: bool [rows], rows that were not removed. None: all.
        size: number of rows that were not removed.
        labelled: number of those whose label is not 0.
        order: int64 [rows], rows in the order of their keys, those of one key in order of age. None: they lie in that order.
    """

    lineage: str
    column: Column
    vectors: NDArray[np.float32]
    keys: NDArray[np.int64]
    serials: NDArray[np.int64]
    labels: NDArray[np.int64]
    alive: NDArray[np.bool_] | None
    size: int
    labelled: int
    order: NDArray[np.int64] | None

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of rows with label 0 and of rows with another label that were not removed."""
        return self.size - self.labelled, self.labelled

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns a copy of the vectors of ascending rows. It reads the file between the first and the last of them."""
        if not len(rows):
            return np.empty((0, self.vectors.shape[1]), np.float32)
        return self.column.read(int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]]

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the rows of those keys that are there, in the order of `keys`."""
        if not len(self.keys):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.keys, keys, side="right", sorter=self.order) - 1
        return self._there(places if self.order is None else self.order[places], self.keys, keys)

    def of_serials(self, serials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the rows of those serial numbers that are there and were not removed."""
        if not len(self.keys):
            return np.empty(0, np.int64)
        return self._there(np.searchsorted(self.serials, serials, side="right") - 1, self.serials, serials)

    def _there(
        self, rows: NDArray[np.int64], have: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Returns the rows whose number is the wanted one. Row -1 stands for what sorts before all, and never is."""
        found = have[rows] == wanted
        if self.alive is not None:
            found &= self.alive[rows]
        return rows[found]


class VectorRows:
    """Vectors by key. Any thread or process may change them, one after the other, and take snapshots.

    Args:
        dimensions: length of a vector.
        folder: where the files lie; it is made by the first change. None: in memory.
        embedder: hash of the embedder. Files of another one are not used, and the first change replaces them.

    Attributes:
        rows: the snapshot as of the last `reload` or change of this object.
        lock: what a change holds. A caller that reads first holds it around both.

    Raises:
        OSError: the files cannot be read.
    """

    def __init__(self, dimensions: int, folder: Path | None = None, embedder: str = "") -> None:
        self.dimensions = dimensions
        self._embedder = embedder
        self._medium: Medium = MemoryMedium() if folder is None else FolderMedium(folder)
        self._mutex = threading.RLock()  # `_follow` and what it fills
        self._seen: RowsState | None = None
        self._start(self._first(), None)
        self.reload()

    @property
    def lock(self) -> FolderLock:
        return self._medium.lock

    @property
    def lineage(self) -> str:
        """Random name of the present series of rows, as of the last `reload`."""
        return self._state.lineage

    @property
    def generation(self) -> int:
        """The state of the store up to which its changes were applied, as of the last `reload`. 0: none."""
        return self._state.generation

    def reload(self) -> bool:
        """Takes over what other processes have changed. Returns True if that was something.

        Raises:
            OSError: the files cannot be read.
        """
        with self._mutex:
            for _ in range(_TRIES):
                state = self._medium.stored()
                if state == self._seen:
                    return False
                if self._follow(state):
                    self._seen = state
                    return True
        raise OSError("the files of an index are replaced faster than they can be opened")

    def change(
        self,
        removed: NDArray[np.int64],
        keys: NDArray[np.int64],
        vectors: NDArray[np.float32],
        generation: int | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        """Removes keys, then adds or replaces others. After a crash all of it is there, or nothing.

        Args:
            removed: keys; those that are not there are ignored.
            keys: [n].
            vectors: [n, dimensions].
            generation: the state of the store that this change leads to. None: as before.
            labels: int64 [n], a number to tell the vectors apart by. None: 0.

        Raises:
            ValueError: as `VectorIndex.add`. Nothing was changed.
            OSError: the disk is full, or cannot be written to. Nothing was changed.
        """
        keys, vectors = checked_vectors(keys, vectors, self.dimensions)
        removed = np.asarray(removed).astype(np.int64)
        with self.lock.held():
            self.reload()
            state = self._state
            gone = np.unique(self.rows.find(np.concatenate([removed, keys])))
            if generation is None:
                generation = state.generation
            if not len(gone) and not len(keys) and generation == state.generation:
                return
            fresh = self._columns is None
            columns = self._columns or self._medium.create(state)
            serials = np.arange(state.next_serial, state.next_serial + len(keys))
            columns.vectors.write(state.rows, vectors)
            if labels is None:
                labels = np.zeros(len(keys), np.int64)
            columns.names.write(state.rows, np.stack([keys, serials, labels], axis=1))
            columns.removed.write(state.removed, gone)
            columns.sync()
            self._commit(
                replace(
                    state,
                    generation=generation,
                    rows=state.rows + len(keys),
                    removed=state.removed + len(gone),
                    next_serial=state.next_serial + len(keys),
                )
            )
            if fresh:
                self._medium.sweep(self._state)

    def reset(self) -> None:
        """Drops all rows and begins a new series at generation 0."""
        with self.lock.held():
            state = self._first()
            self._medium.create(state)
            self._commit(state)
            self._medium.sweep(state)

    def needs_compaction(self) -> bool:
        """Returns True if so many rows were removed that copying the others is worth its time."""
        rows = self.rows
        return len(rows.keys) - rows.size > max(_MIN_REMOVED, _MAX_REMOVED_SHARE * len(rows.keys))

    def compact(self) -> None:
        """Drops removed rows. Readers go on with the old files until they reload.

        Raises:
            OSError: the disk is full. Nothing was changed.
        """
        with self.lock.held():
            self.reload()
            old = self.rows
            if old.alive is None:
                return
            kept = np.flatnonzero(old.alive)
            state = replace(self._state, epoch=self._state.epoch + 1, rows=len(kept), removed=0)
            columns = self._medium.create(state)
            for start in range(0, len(kept), _COPIED):
                some = kept[start : start + _COPIED]
                columns.vectors.write(start, old.read(some))
                names = np.stack([old.keys[some], old.serials[some], old.labels[some]], axis=1)
                columns.names.write(start, names)
            columns.sync()
            self._commit(state)
            self._medium.sweep(state)

    def _first(self) -> RowsState:
        return RowsState(secrets.token_hex(8), self._embedder, self.dimensions)

    def _commit(self, state: RowsState) -> None:
        self._medium.commit(state)
        self.reload()

    def _follow(self, state: RowsState | None) -> bool:
        """Brings memory to a state. Returns False if its files went away meanwhile, for another state is in force."""
        if state is None or (state.embedder, state.dimensions) != (self._embedder, self.dimensions):
            self._start(self._first(), None)
            return True
        try:
            if self._columns is None or (state.lineage, state.epoch) != (
                self._state.lineage,
                self._state.epoch,
            ):
                self._start(replace(state, rows=0, removed=0), self._medium.open(state))
            self._extend(state)
        except (FileNotFoundError, EOFError):
            if state != self._medium.stored():
                return False
            self._start(self._first(), None)  # damaged: what is missing comes from the database again
        return True

    def _start(self, state: RowsState, columns: Columns | None) -> None:
        """Forgets all rows."""
        self._state = state
        self._columns = columns
        self._keys, self._serials, self._labels = (Growing(np.int64) for _ in range(3))
        self._alive: Growing | None = None
        self._ascending = True
        empty = np.empty(0, np.int64)
        vectors = np.empty((0, self.dimensions), np.float32)
        self.rows = Rows(state.lineage, Growing(np.float32), vectors, empty, empty, empty, None, 0, 0, None)

    def _extend(self, state: RowsState) -> None:
        """Reads the rows that a state has beyond the present one, and makes the snapshot."""
        assert self._columns is not None
        before, have = self._state, self.rows
        vectors = self._columns.vectors.view(state.rows)
        names = self._columns.names.view(state.rows)[before.rows :]
        gone = self._columns.removed.view(state.removed)[before.removed :]
        for column, values in zip((self._keys, self._serials, self._labels), names.T, strict=True):
            column.write(before.rows, values)
        keys = self._keys.view(state.rows)
        order = have.order
        if len(names):
            self._ascending = self._ascending and bool((np.diff(keys[max(before.rows - 1, 0) :]) > 0).all())
            order = None if self._ascending else np.argsort(keys, kind="stable")
        alive = self._mark(before.rows, state.rows, gone)
        size = have.size + len(names) - len(gone)
        serials, labels = self._serials.view(state.rows), self._labels.view(state.rows)
        labelled = int(np.count_nonzero(labels if alive is None else labels[alive]))
        self.rows = Rows(
            state.lineage, self._columns.vectors, vectors, keys, serials, labels, alive, size, labelled, order
        )
        self._state = state

    def _mark(self, before: int, rows: int, gone: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Returns which rows are alive. Views of before stay as they are."""
        if self._alive is None and not len(gone):
            return None
        old = np.ones(before, np.bool_) if self._alive is None else self._alive.view(before)
        if self._alive is None or len(gone):
            self._alive = Growing(np.bool_)
            self._alive.write(0, old)
        self._alive.write(before, np.ones(rows - before, np.bool_))
        alive = self._alive.view(rows)
        alive[gone] = False
        return alive
