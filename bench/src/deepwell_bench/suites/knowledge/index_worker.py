"""Builds or searches the side index of a large store in a process of its own, whose memory can then be measured.

    python -m deepwell_bench.suites.knowledge.index_worker build FOLDER DATABASE
    python -m deepwell_bench.suites.knowledge.index_worker search FOLDER QUERIES

The database is a SQLite file with a table `chunks (key, vector, text)`. Each prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.index.rows import VectorRows
from deepwell.knowledge.index.side import SideIndex, SideOptions
from deepwell.storage.knowledge.chunks import ChunksDelta

__all__ = ["DIMENSIONS"]

DIMENSIONS: Final = 384
_PAGE: Final = 5_000  # chunks of a delta
_LIMIT: Final = 10
_EMBEDDER: Final = "e5-small-q4 with noise"


class _Table:
    """Chunks in the order of their keys. The generation of a chunk is its key."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        self.newest = self._connection.execute("SELECT max(key) FROM chunks").fetchone()[0]
        self.read_s = 0.0

    def delta(self, since: int) -> ChunksDelta:
        began = time.perf_counter()
        query = "SELECT key, vector, text FROM chunks WHERE key > ? ORDER BY key LIMIT ?"
        rows = self._connection.execute(query, (since, _PAGE)).fetchall()
        vectors = np.frombuffer(b"".join(row[1] for row in rows), "<f4").reshape(-1, DIMENSIONS)
        reached = rows[-1][0] if rows else since
        self.read_s += time.perf_counter() - began
        return ChunksDelta(
            generation=reached,
            complete=reached == self.newest,
            rebuild=False,
            keys=np.array([row[0] for row in rows], np.int64),
            vectors=vectors,
            texts=[row[2] for row in rows],
            removed=np.empty(0, np.int64),
        )


def _opened(folder: Path) -> SideIndex:
    return SideIndex(folder, DIMENSIONS, _EMBEDDER, options=SideOptions(background=False))


def _build(folder: Path, database: Path) -> dict[str, Any]:
    began = time.perf_counter()
    side, table = _opened(folder), _Table(database)
    found = side.generation
    while side.generation < table.newest:
        since = side.generation
        side.apply(table.delta(since), since)
    applied = time.perf_counter()
    side.maintain()
    ended = time.perf_counter()
    side.close()
    return {
        "found": found,
        "apply_s": applied - began,
        "read_s": table.read_s,
        "graph_s": ended - applied,
        "rss_gb": _rss_gb(),
    }


def _search(folder: Path, path: Path) -> dict[str, Any]:
    queries = np.load(path)
    began = time.perf_counter()
    side = _opened(folder)
    open_s = time.perf_counter() - began
    index = side.vectors
    times: list[float] = []
    found: list[list[int]] = []
    for measured in (False, True, True, True):  # the first round reads the files
        found = []
        for query in queries:
            before = time.perf_counter()
            hits = index.search(query, _LIMIT)
            if measured:
                times.append(time.perf_counter() - before)
            found.append(hits.keys.tolist())
    rss_gb = _rss_gb()  # in front of the exact search, which maps every vector
    exact = FlatIndex(VectorRows(DIMENSIONS, folder, _EMBEDDER))
    shared = sum(
        len(np.intersect1d(keys, exact.search(query, _LIMIT).keys))
        for keys, query in zip(found, queries, strict=True)
    )
    add_times = [_add_one(side, number, queries[0]) for number in range(10)]
    return {
        "vectors": len(index),
        "open_s": open_s,
        "times": times,
        "recall": shared / sum(map(len, found)),
        "rss_gb": rss_gb,
        "add_s": sorted(add_times)[len(add_times) // 2],
    }


def _add_one(side: SideIndex, number: int, vector: np.ndarray) -> float:
    """Returns the seconds until one more chunk is found."""
    key = side.generation + 1
    word = f"addition{number}"
    delta = ChunksDelta(key, True, False, np.array([key]), vector[None], [word], np.empty(0, np.int64))
    began = time.perf_counter()
    side.apply(delta, key - 1)
    found = side.vectors.search(vector, number + 1).keys, side.lexical.search(word, 1).keys
    if key not in found[0] or found[1].tolist() != [key]:
        raise RuntimeError("an added chunk was not found")
    return time.perf_counter() - began


def _rss_gb() -> float:
    """Returns the most memory that this process has had, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    work = {"build": _build, "search": _search}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]), Path(sys.argv[3]))), flush=True)
