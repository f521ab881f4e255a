"""The approximate index holds the suite with and without a graph, and its builder may be stopped, killed and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from deepwell.knowledge.index.ann import AnnIndex
from deepwell.knowledge.index.protocol import VectorIndex
from deepwell.knowledge.index.rows import VectorRows
from deepwell.knowledge.index.testing import (
    VectorIndexTests,
    keys_of,
    reference_hits,
    unit_vectors,
)


def opened(
    folder: Path, dimensions: int = 32, *, checkpoint_rows: int = 500, max_tail: int = 100
) -> AnnIndex:
    rows = VectorRows(dimensions, folder)
    return AnnIndex(rows, folder, checkpoint_rows=checkpoint_rows, max_tail=max_tail, threads=1)


class _Settling(AnnIndex):
    """Builds its graph after every change: whatever the suite does, most of it is done by the graph."""

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        super().add(keys, vectors)
        self.build()

    def remove(self, keys: np.ndarray) -> None:
        super().remove(keys)
        if self.needs_build():
            self.build()


class TestWithoutGraph(VectorIndexTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "index"

    def make_index(self, dimensions: int) -> VectorIndex:
        return opened(self.folder, dimensions)

    reopen_index = make_index


class TestWithGraph(VectorIndexTests):
    min_recall = 0.95

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "index"

    def make_index(self, dimensions: int) -> VectorIndex:
        return _Settling(VectorRows(dimensions, self.folder), self.folder, max_tail=0, threads=1)

    reopen_index = make_index


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return unit_vectors(3000, 32)


def recall(index: VectorIndex, vectors: dict[int, np.ndarray], **more: np.ndarray) -> float:
    shared = 0
    for query in unit_vectors(20, 32, 7):
        found = index.search(query, 10, **more)
        exact = reference_hits(vectors, query, 10)
        assert len(found) == len(exact) == 10
        shared += len(np.intersect1d(found.keys, exact.keys))
    return shared / 200


def test_a_graph_is_built_in_the_background_of_searches(tmp_path: Path, vectors: np.ndarray) -> None:
    index, reader = opened(tmp_path), opened(tmp_path)
    index.add(np.arange(2900), vectors[:2900])
    assert index.needs_build()
    building = threading.Thread(target=index.build)
    building.start()
    query, late = vectors[5], vectors[2950]
    index.add(keys_of(2950), late[None])
    while building.is_alive():
        assert index.search(query, 1).keys.tolist() == [5]
        assert index.search(late, 1).keys.tolist() == [2950]
    building.join()
    assert 2900 <= index.covered <= 2901
    assert not index.needs_build()
    assert reader.reload()
    assert reader.covered == index.covered
    assert recall(reader, dict(enumerate(vectors[:2900]))) >= 0.95


def test_many_allowed_keys_are_searched_in_the_graph(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.knowledge.index.ann._MAX_COMPARED", 50)
    index = opened(tmp_path)
    index.add(np.arange(2500), vectors[:2500])
    index.build()
    index.add(np.arange(2500, 2600), vectors[2500:2600])
    index.remove(np.arange(0, 2600, 11))
    for step in (2, 7, 20):
        allowed = np.arange(0, 2700, step)
        left = {key: vectors[key] for key in range(0, 2600, step) if key % 11}
        assert recall(index, left, allowed=allowed) >= 0.95
    far = reference_hits(dict(enumerate(vectors[:2500])), vectors[0], 2500).keys[-100:]
    found = index.search(vectors[0], 60, allowed=np.sort(far))  # not spread evenly: the graph leads elsewhere
    left = {int(key): vectors[key] for key in far if key % 11}
    assert found.keys.tolist() == reference_hits(left, vectors[0], 60).keys.tolist()


def test_a_graph_grows_and_survives_compaction(tmp_path: Path, vectors: np.ndarray) -> None:
    index = opened(tmp_path)
    index.add(np.arange(1000), vectors[:1000])
    assert index.build()
    index.add(np.arange(1000, 2500), vectors[1000:2500])
    index.remove(np.arange(0, 300))
    assert index.build()
    rows = VectorRows(32, tmp_path)
    rows.compact()
    again = opened(tmp_path)
    assert again.covered == len(again) == 2200
    assert recall(again, {key: vectors[key] for key in range(300, 2500)}) >= 0.95


def test_a_graph_of_removed_rows_is_built_anew(tmp_path: Path, vectors: np.ndarray) -> None:
    index = opened(tmp_path)
    index.add(np.arange(2000), vectors[:2000])
    index.build()
    index.remove(np.arange(1500))
    assert index.needs_build()
    assert recall(index, {key: vectors[key] for key in range(1500, 2000)}) >= 0.95
    assert index.build()
    assert not index.needs_build()
    assert len(index) == index.covered - 1500 == 500
    index.remove(np.arange(1500, 2000))
    index.build()
    assert not index.needs_build()
    assert len(index.search(vectors[0], 5)) == 0


def test_a_stopped_builder_goes_on_where_it_was(tmp_path: Path) -> None:
    many = unit_vectors(9000, 8)
    index = opened(tmp_path, 8, checkpoint_rows=100_000)
    index.add(np.arange(9000), many)
    asked = iter([False, False, True])
    assert not index.build(lambda: next(asked))
    assert index.covered == 4000
    assert index.search(many[8999], 1).keys.tolist() == [8999]
    asked = iter([False, False, False])
    assert index.build(lambda: next(asked))
    assert index.covered == 9000


def test_two_do_not_build_at_once(tmp_path: Path, vectors: np.ndarray) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.add(np.arange(1000), vectors[:1000])
    told: list[bool] = []

    def second() -> bool:
        told.append(other.build())
        return False

    assert one.build(second)
    assert told == [False]


@pytest.mark.parametrize("damage", ["missing", "short", "garbage", "state"])
def test_a_damaged_graph_is_not_used(tmp_path: Path, vectors: np.ndarray, damage: str) -> None:
    index = opened(tmp_path)
    index.add(np.arange(1000), vectors[:1000])
    index.build()
    [graph] = tmp_path.glob("graph-*.usearch")
    if damage == "missing":
        graph.unlink()
    elif damage == "short":
        graph.write_bytes(graph.read_bytes()[:5000])
    elif damage == "garbage":
        graph.write_bytes(b"\0" * graph.stat().st_size)
    else:
        (tmp_path / "graph.json").write_text("[1, 2]")
    again = opened(tmp_path)
    assert again.covered == 0
    assert again.search(vectors[3], 1).keys.tolist() == [3]
    assert again.build()
    assert again.covered == 1000
    assert len(list(tmp_path.glob("graph-*.usearch"))) == 1


BUILDER = """
import sys
from pathlib import Path
from deepwell.knowledge.index.ann import AnnIndex
from deepwell.knowledge.index.rows import VectorRows

folder = Path(sys.argv[1])
index = AnnIndex(VectorRows(8, folder), folder, checkpoint_rows=2000, threads=1)

def told():
    print(index.covered, flush=True)
    return False

print(index.covered, flush=True)
index.build(told)
print("whole", flush=True)
"""


@pytest.mark.fault
def test_a_builder_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    many = unit_vectors(16_000, 8)
    opened(tmp_path, 8).add(np.arange(16_000), many)
    begun: list[int] = []
    for wanted in (3_000, 8_000, None):
        command = [sys.executable, "-c", BUILDER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder:
            assert builder.stdout is not None
            begun.append(int(builder.stdout.readline()))
            for line in builder.stdout:
                if wanted is not None and line.strip().isdigit() and int(line) >= wanted:
                    break
            if wanted is not None:
                builder.send_signal(signal.SIGKILL)
    assert begun[0] == 0
    assert begun[1] >= 3_000
    assert begun[2] >= 8_000
    index = opened(tmp_path, 8)
    assert index.covered == 16_000
    assert [int(index.search(many[key], 1).keys[0]) for key in range(0, 16_000, 1999)] == [
        *range(0, 16_000, 1999)
    ]
    assert len(list(tmp_path.glob("graph-*.usearch"))) == 1
