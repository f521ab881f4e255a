"""`AnnIndex`: approximate search by a graph over most vectors, and exact search over the latest ones.

NOTE: how a query is answered.
  graph    finds candidates by their int8 copies; their float32 rows are read from the file and ranked exactly
  tail     rows that the graph does not cover yet are all compared, so that an added vector is found at once
  filter   few allowed keys are all compared; for many the graph is asked for more, until enough of what it returns is allowed
Rows are read and not mapped, so 1 M vectors of 384 dimensions take 0.6 GB of memory (the graph) instead of 2.1 GB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.index.flat import FlatIndex, search_rows, search_some
from deepwell.knowledge.index.graph import Graph, GraphFolder, GraphShape
from deepwell.knowledge.index.nearest import checked_query, exact_scores, hits, merge
from deepwell.knowledge.index.protocol import Hits
from deepwell.knowledge.index.rows import Rows, VectorRows

if TYPE_CHECKING:
    from usearch.index import Index

__all__ = ["AnnIndex"]

_NONE: Final = np.empty(0, np.int64)
_BATCH: Final = 2_000  # rows between two looks at `stop`
_MAX_TAIL: Final = 20_000  # rows that are compared one by one before the graph is extended: 1.5 ms
_MAX_DEAD_SHARE: Final = 0.4  # of the nodes of a graph; beyond, it is built anew
# A row that is compared alone takes about 0.8 us, a candidate of the graph 3 us, a row of all in their order 0.1 us.
_MAX_COMPARED: Final = 30_000  # allowed rows that are all compared
_MIN_CANDIDATES: Final = 100
_SPARE: Final = 3  # candidates for each hit that is wanted: int8 ranks them roughly
_DEEPEST: Final = (
    1_000  # candidates, or a share of the nodes if that is more, beyond which all rows are compared
)
_DEEPEST_SHARE: Final = 1 / 25


def _never() -> bool:
    return False


class AnnIndex(FlatIndex):
    """A `VectorIndex` for 100,000 vectors and more. Without a graph it is an exact one.

    Args:
        rows: the vectors.
        folder: where the graph lies.
        shape: parameters of the graph.
        checkpoint_rows: rows after which a graph that is being built is saved. A builder that dies loses as many.
        max_tail: rows without a graph from which on one is built or extended.
        threads: threads that build. 0: one a core.
    """

    def __init__(
        self,
        rows: VectorRows,
        folder: Path,
        *,
        shape: GraphShape | None = None,
        checkpoint_rows: int = 100_000,
        max_tail: int = _MAX_TAIL,
        threads: int = 0,
    ) -> None:
        super().__init__(rows)
        self._graphs = GraphFolder(folder, rows.dimensions, shape or GraphShape())
        self._checkpoint_rows = checkpoint_rows
        self._max_tail = max_tail
        self._threads = threads
        self._graphs.reload()

    @property
    def covered(self) -> int:
        """The number of rows, removed ones included, that the graph covers."""
        return self._tail(self._rows.rows, self._graph(self._rows.rows))

    def search(
        self, query: NDArray[np.float32], limit: int, *, allowed: NDArray[np.int64] | None = None
    ) -> Hits:
        query = checked_query(query, self.dimensions, limit)
        rows = self._rows.rows
        graph = self._graph(rows)
        some = None if allowed is None else rows.find(allowed)
        if graph is None or not query.any():
            return search_rows(rows, query, limit) if some is None else search_some(rows, query, limit, some)
        tail = self._tail(rows, graph)
        if some is None:
            latest = search_rows(rows, query, limit, start=tail)
            wanted = rows.alive
        elif len(some) <= _MAX_COMPARED:
            return search_some(rows, query, limit, some)
        else:
            latest = search_some(rows, query, limit, some[some >= tail])
            wanted = np.zeros(len(rows.keys), np.bool_)
            wanted[some] = True
        wanted = np.ones(tail, np.bool_) if wanted is None else wanted[:tail]
        return merge([_of_graph(rows, graph, query, limit, wanted), latest], limit)

    def reload(self) -> bool:
        """Takes over what other processes have changed. Returns True if vectors have changed."""
        changed = super().reload()
        self._graphs.reload()
        return changed

    def needs_build(self) -> bool:
        """Returns True if so many rows lack a graph, or so many nodes their row, that building is worth its time."""
        rows = self._rows.rows
        graph = self._graph(rows)
        tail = self._tail(rows, graph)
        lacking = len(rows.keys) - tail if rows.alive is None else np.count_nonzero(rows.alive[tail:])
        return bool(lacking > self._max_tail) or self._is_worn(rows, graph)

    def build(self, stop: Callable[[], bool] = _never) -> bool:
        """Builds the graph, or extends it to all rows. Searches and changes go on meanwhile.

        Args:
            stop: asked every few seconds; when it returns True, what was built is saved, and the next call goes on from there.

        Returns:
            True if the graph covers all rows that there were at the beginning; False if it was stopped, or if another process
            builds.

        Raises:
            MissingDependency: usearch is not installed.
            OSError: the disk is full.
        """
        with self._graphs.lock.tried() as free:
            if not free:
                return False
            self.reload()
            rows = self._rows.rows
            fresh = self._is_worn(rows, self._graph(rows))
            index, serial = self._graphs.begin(rows.lineage, fresh=fresh)
            missing = np.arange(int(np.searchsorted(rows.serials, serial)), len(rows.keys))
            if rows.alive is not None:
                missing = missing[rows.alive[missing]]
            if fresh and not len(missing):
                self._graphs.drop()
            saved = done = 0
            while done < len(missing) and not stop():
                some = missing[done : done + _BATCH]
                index.add(rows.serials[some], rows.read(some), threads=self._threads)
                done += len(some)
                if done - saved >= self._checkpoint_rows or done == len(missing):
                    self._save(index, rows, missing, done)
                    saved = done
            if done > saved:
                self._save(index, rows, missing, done)
            return done == len(missing)

    def _save(self, index: Index, rows: Rows, missing: NDArray[np.int64], done: int) -> None:
        """Saves a graph that has the first `done` of the missing rows."""
        end = len(rows.keys) if done == len(missing) else int(missing[done])
        self._graphs.save(index, rows.lineage, int(rows.serials[end - 1]) + 1)

    def _graph(self, rows: Rows) -> Graph | None:
        """Returns the graph in force if it is one of these rows."""
        graph = self._graphs.graph
        return graph if graph is not None and graph.state.lineage == rows.lineage else None

    def _tail(self, rows: Rows, graph: Graph | None) -> int:
        """Returns the first row that the graph does not cover."""
        return 0 if graph is None else int(np.searchsorted(rows.serials, graph.state.next_serial))

    def _is_worn(self, rows: Rows, graph: Graph | None) -> bool:
        if graph is None:
            return False
        tail = self._tail(rows, graph)
        alive = tail if rows.alive is None else np.count_nonzero(rows.alive[:tail])
        return bool(graph.state.nodes - alive > _MAX_DEAD_SHARE * graph.state.nodes)


def _of_graph(
    rows: Rows, graph: Graph, query: NDArray[np.float32], limit: int, wanted: NDArray[np.bool_]
) -> Hits:
    """Returns the nearest of the wanted rows that the graph covers. `wanted` is bool [covered]."""
    size = int(np.count_nonzero(wanted))
    if not size:
        return hits(_NONE, np.empty(0, np.float32), limit)
    enough = max(_SPARE * limit, _MIN_CANDIDATES)
    # As many candidates as hold enough wanted ones if these are spread evenly; if not, more.
    count = enough * graph.state.nodes // size
    while count <= max(_DEEPEST, graph.state.nodes * _DEEPEST_SHARE):
        found = rows.of_serials(graph.search(query, count))
        found = found[found < len(wanted)]
        found = found[wanted[found]]
        if len(found) >= min(size, max(limit, enough // 2)):
            return hits(rows.keys[found], exact_scores(rows.column.fetch(found), query), limit)
        count *= 4
    return search_some(rows, query, limit, np.flatnonzero(wanted))
