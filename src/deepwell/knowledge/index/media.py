"""`FolderMedium`, `MemoryMedium`: where the columns of rows are kept, and the state that says how far they are filled."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np

from deepwell.knowledge.index.growing import Column, Growing, GrowingFile
from deepwell.knowledge.index.state import FolderLock, RowsState, read_state, write_state

__all__ = ["Columns", "FolderMedium", "Medium", "MemoryMedium"]

_STATE: Final = "state.json"


class Columns(NamedTuple):
    """The columns of one epoch.

    Attributes:
        vectors: float32 [rows, dimensions].
        names: int64 [rows, 3]: key, serial number and label of each row.
        removed: int64 [removed]: rows that were removed.
    """

    vectors: Column
    names: Column
    removed: Column

    def sync(self) -> None:
        """Waits until all is on the disk."""
        for column in self:
            column.sync()


class Medium(Protocol):
    """Keeps columns and their state. One holder of `lock` at a time creates, commits and sweeps."""

    lock: FolderLock

    def stored(self) -> RowsState | None:
        """Returns the state that is in force, or None."""
        ...

    def open(self, state: RowsState) -> Columns:
        """Opens the columns of a state. Raises FileNotFoundError if they are not there."""
        ...

    def create(self, state: RowsState) -> Columns:
        """Makes empty columns for a state."""
        ...

    def commit(self, state: RowsState) -> None:
        """Puts a state into force."""
        ...

    def sweep(self, state: RowsState) -> None:
        """Deletes the columns of all other states. Who has them open keeps them."""
        ...


class MemoryMedium:
    """Columns that end with the process."""

    def __init__(self) -> None:
        self.lock = FolderLock(None)
        self._state: RowsState | None = None
        self._columns: dict[tuple[str, int], Columns] = {}

    def stored(self) -> RowsState | None:
        return self._state

    def open(self, state: RowsState) -> Columns:
        return self._columns[state.lineage, state.epoch]

    def create(self, state: RowsState) -> Columns:
        made = Columns(Growing(np.float32, state.dimensions), Growing(np.int64, 3), Growing(np.int64))
        self._columns[state.lineage, state.epoch] = made
        return made

    def commit(self, state: RowsState) -> None:
        self._state = state

    def sweep(self, state: RowsState) -> None:
        kept = state.lineage, state.epoch
        self._columns = {kept: self._columns[kept]}


class FolderMedium:
    """Columns in files. The folder is made when they are."""

    def __init__(self, folder: Path) -> None:
        self.lock = FolderLock(folder / "lock")
        self._folder = folder

    def stored(self) -> RowsState | None:
        return read_state(self._folder / _STATE, RowsState)

    def open(self, state: RowsState) -> Columns:
        return self._columns(state, create=False)

    def create(self, state: RowsState) -> Columns:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._columns(state, create=True)

    def commit(self, state: RowsState) -> None:
        write_state(self._folder / _STATE, state)

    def sweep(self, state: RowsState) -> None:
        kept = self._paths(state)
        for kind in ("vectors-*.f32", "rows-*.i64", "removed-*.i64"):
            for path in self._folder.glob(kind):
                if path not in kept:
                    path.unlink(missing_ok=True)

    def _paths(self, state: RowsState) -> tuple[Path, Path, Path]:
        name = f"{state.lineage}-{state.epoch}"
        return (
            self._folder / f"vectors-{name}.f32",
            self._folder / f"rows-{name}.i64",
            self._folder / f"removed-{name}.i64",
        )

    def _columns(self, state: RowsState, *, create: bool) -> Columns:
        vectors, names, removed = self._paths(state)
        return Columns(
            GrowingFile(vectors, np.float32, state.dimensions, create=create),
            GrowingFile(names, np.int64, 3, create=create),
            GrowingFile(removed, np.int64, create=create),
        )
