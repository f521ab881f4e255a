"""`GraphFolder`: the file of a graph of nearest neighbours (HNSW, Malkov and Yashunin 2016), built by usearch in steps.

    graph.json        the graph in force: its file, and the serial number up to which it covers the rows
    graph-next.json   a graph that is being built in its place and covers less so far
    graph-*.usearch   nodes are vectors in int8, named by the serial numbers of their rows

A step adds rows and saves the graph under a new name before it puts it into force, so a builder that dies loses the last step.
A graph only ever grows: nodes of rows that were removed stay in it until they are too many, and then it is built anew.
"""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import MissingDependency
from deepwell.knowledge.index.state import FolderLock, GraphState, read_state, write_state

if TYPE_CHECKING:
    from usearch.index import Index

__all__ = ["Graph", "GraphFolder", "GraphShape"]

_STATE: Final = "graph.json"
_NEXT: Final = "graph-next.json"


@dataclass(frozen=True, slots=True)
class GraphShape:
    """Parameters of a graph.

    Vectors that crowd around few points are hard on a graph: the links of a node lead to its own crowd. Over 20,000 vectors,
    133 around each of 150 passages, the recall@10 of vectors of other passages was 0.957 with 16, 64 and 256, and is 0.997 with
    these, at twice the time.

    Attributes:
        connectivity: links of a node. More find more, and take more memory.
        expansion_add: candidates that are looked at for a new node.
        expansion_search: candidates that are looked at for a query.
    """

    connectivity: int = 32
    expansion_add: int = 128
    expansion_search: int = 512

    def named(self, dimensions: int) -> str:
        """Returns what a file was built with; how it is searched may change."""
        return f"hnsw-cos-i8-{dimensions}-{self.connectivity}-{self.expansion_add}"


class Graph:
    """One graph, which does not change any more.

    Attributes:
        state: what it covers.
    """

    def __init__(self, state: GraphState, index: Index) -> None:
        self.state = state
        self._index = index
        self._expansion = index.expansion_search
        self._one = threading.Lock()  # searches on one thread of usearch share its buffers

    def search(self, query: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Returns the serial numbers of about the `count` nearest nodes, the nearest first."""
        count = min(count, self.state.nodes)
        with self._one:
            self._index.expansion_search = max(self._expansion, count)
            found: Any = self._index.search(query, count, threads=1)
        return np.asarray(found.keys).astype(np.int64)


class GraphFolder:
    """The graphs of one folder, and the one in force.

    Args:
        folder: the folder.
        dimensions: length of a vector.
        shape: a graph of other parameters is not used.

    Attributes:
        graph: the graph in force as of the last `reload`, or None.
        lock: held by the one that builds.
    """

    def __init__(self, folder: Path, dimensions: int, shape: GraphShape) -> None:
        self.graph: Graph | None = None
        self.lock = FolderLock(folder / "graph.lock")
        self._folder = folder
        self._dimensions = dimensions
        self._shape = shape
        self._seen: GraphState | None = None
        self._mutex = threading.Lock()

    def reload(self) -> None:
        """Takes over the graph that another process has put into force."""
        with self._mutex:
            state = read_state(self._folder / _STATE, GraphState)
            if state == self._seen:
                return
            index = self._open(state, view=True)
            self.graph = None if state is None or index is None else Graph(state, index)
            self._seen = state

    def begin(self, lineage: str, *, fresh: bool) -> tuple[Index, int]:
        """Returns a graph to add to, and the serial number from which on it lacks rows. The caller holds `lock`.

        Args:
            lineage: the series of rows.
            fresh: a graph that replaces the one in force, which has too many removed nodes. It may have been begun before.

        Raises:
            MissingDependency: usearch is not installed.
        """
        for name in (_NEXT,) if fresh else (_NEXT, _STATE):
            state = read_state(self._folder / name, GraphState)
            if state is not None and state.lineage == lineage:
                index = self._open(state, view=False)
                if index is not None:
                    return index, state.next_serial
        return self._made(), 0

    def save(self, index: Index, lineage: str, next_serial: int) -> None:
        """Saves a graph, and puts it into force if it covers as many rows as the present one. The caller holds `lock`.

        Raises:
            OSError: the disk is full.
        """
        path = self._folder / f"graph-{secrets.token_hex(8)}.usearch"
        try:
            index.save(path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, RuntimeError | ValueError):  # usearch has no OSError
                raise OSError(str(error)) from None
            raise
        shape = self._shape.named(self._dimensions)
        size = path.stat().st_size
        state = GraphState(lineage, path.name, size, next_serial, len(index), shape)
        present = read_state(self._folder / _STATE, GraphState)
        behind = (
            present is not None
            and (present.lineage, present.shape) == (lineage, shape)
            and present.next_serial > next_serial
        )
        write_state(self._folder / (_NEXT if behind else _STATE), state)
        if not behind:
            (self._folder / _NEXT).unlink(missing_ok=True)
        self._sweep()
        self.reload()

    def drop(self) -> None:
        """Removes all graphs. The caller holds `lock`."""
        for name in (_STATE, _NEXT):
            (self._folder / name).unlink(missing_ok=True)
        self._sweep()
        self.reload()

    def _sweep(self) -> None:
        states = [read_state(self._folder / name, GraphState) for name in (_STATE, _NEXT)]
        kept = {state.file for state in states if state is not None}
        for path in self._folder.glob("graph-*.usearch"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _open(self, state: GraphState | None, *, view: bool) -> Index | None:
        """Returns a graph in its file (`view`) or in memory, or None if it cannot be used."""
        if state is None or state.shape != self._shape.named(self._dimensions):
            return None
        path = self._folder / state.file
        try:
            if path.stat().st_size != state.bytes:
                return None
            index = self._made()
            if view:
                index.view(path)
            else:
                index.load(path)
        except (OSError, RuntimeError, ValueError):
            return None
        return index if len(index) == state.nodes else None

    def _made(self) -> Index:
        try:
            from usearch.index import Index
        except ImportError:
            raise MissingDependency.of(
                "knowledge_extra_missing",
                feature="searching this many vectors",
                feature_zh="检索这么多向量",
                package="usearch",
            ) from None
        return Index(
            ndim=self._dimensions,
            metric="cos",
            dtype="i8",
            connectivity=self._shape.connectivity,
            expansion_add=self._shape.expansion_add,
            expansion_search=self._shape.expansion_search,
            enable_key_lookups=False,
        )
