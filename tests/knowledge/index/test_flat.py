"""The flat index holds the suite, equals plain numpy after any changes, and shares its files between processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.index.rows import VectorRows
from deepwell.knowledge.index.testing import VectorIndexTests, keys_of, reference_hits, unit_vectors

DIMENSIONS = 6
POOL = unit_vectors(40, DIMENSIONS)


class TestInMemory(VectorIndexTests):
    def make_index(self, dimensions: int) -> FlatIndex:
        return FlatIndex.open(dimensions)


class TestInFolder(VectorIndexTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "index"

    def make_index(self, dimensions: int) -> FlatIndex:
        return FlatIndex.open(dimensions, self.folder)

    reopen_index = make_index


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(0, 30), unique=True, max_size=6)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 30), max_size=6)),
        st.tuples(st.just("compact"), st.just([])),
        st.tuples(st.just("reopen"), st.just([])),
    ),
    max_size=12,
)


@pytest.mark.parametrize("kept", [False, True])
@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, limit=st.integers(1, 40), allowed=st.none() | st.sets(st.integers(0, 40)))
def test_it_equals_plain_numpy_after_any_changes(
    tmp_path_factory: pytest.TempPathFactory, kept: bool, changes: Any, limit: int, allowed: set[int] | None
) -> None:
    folder = tmp_path_factory.mktemp("rows") if kept else None
    rows = VectorRows(DIMENSIONS, folder)
    expected: dict[int, np.ndarray] = {}
    for number, (change, keys) in enumerate(changes):
        if change == "add":
            vectors = POOL[[(key * 7 + number) % len(POOL) for key in keys]].reshape(-1, DIMENSIONS)
            FlatIndex(rows).add(keys_of(*keys), vectors)
            expected |= dict(zip(keys, vectors, strict=True))
        elif change == "remove":
            FlatIndex(rows).remove(keys_of(*keys))
            for key in keys:
                expected.pop(key, None)
        elif change == "compact":
            rows.compact()
        elif folder is not None:
            rows = VectorRows(DIMENSIONS, folder)
    index = FlatIndex(rows)
    assert len(index) == len(expected)
    if allowed is not None:
        expected = {key: vector for key, vector in expected.items() if key in allowed}
    for query in POOL[:3]:
        found = index.search(query, limit, allowed=None if allowed is None else keys_of(*sorted(allowed)))
        exact = reference_hits(expected, query, limit)
        assert found.keys.tolist() == exact.keys.tolist()
        assert found.scores.tolist() == exact.scores.tolist()


def test_hits_cannot_be_written_to() -> None:
    index = FlatIndex.open(4)
    index.add(keys_of(1), unit_vectors(1, 4))
    found = index.search(unit_vectors(1, 4)[0], 1)
    assert not found.keys.flags.writeable
    assert not found.scores.flags.writeable


def test_another_opener_sees_changes_once_it_reloads(tmp_path: Path) -> None:
    one, other = FlatIndex.open(4, tmp_path), FlatIndex.open(4, tmp_path)
    vectors = unit_vectors(3, 4)
    one.add(keys_of(1, 2), vectors[:2])
    assert len(other) == 0
    assert other.reload()
    assert not other.reload()
    other.remove(keys_of(1))
    one.add(keys_of(3), vectors[2:])  # a change begins with what others have done
    other.reload()
    assert sorted(other.search(vectors[0], 5).keys.tolist()) == [2, 3]


def test_a_reader_keeps_its_snapshot_while_another_compacts(tmp_path: Path) -> None:
    writer, reader = VectorRows(4, tmp_path), VectorRows(4, tmp_path)
    vectors = unit_vectors(50, 4)
    writer.change(keys_of(), np.arange(50), vectors)
    reader.reload()
    before = FlatIndex(reader).search(vectors[7], 5)
    writer.change(np.arange(40), keys_of(), vectors[:0])
    writer.compact()
    assert FlatIndex(reader).search(vectors[7], 5).keys.tolist() == before.keys.tolist()
    reader.reload()
    assert sorted(FlatIndex(reader).search(vectors[7], 50).keys.tolist()) == list(range(40, 50))
    assert (reader.rows.serials == np.arange(40, 50)).all()
    assert len(list(tmp_path.glob("vectors-*"))) == 1


def test_files_of_another_embedder_are_not_used(tmp_path: Path) -> None:
    VectorRows(4, tmp_path, "one").change(keys_of(), keys_of(1), unit_vectors(1, 4), 7)
    other = VectorRows(4, tmp_path, "other")
    assert (other.rows.size, other.generation) == (0, 0)
    other.change(keys_of(), keys_of(2), unit_vectors(1, 4), 3)
    assert VectorRows(4, tmp_path, "other").generation == 3
    assert VectorRows(4, tmp_path, "one").generation == 0
    assert len(list(tmp_path.glob("vectors-*"))) == 1


@pytest.mark.parametrize("damage", ["missing", "short", "no state", "wrong state"])
def test_damaged_files_count_as_none(tmp_path: Path, damage: str) -> None:
    VectorRows(4, tmp_path).change(keys_of(), np.arange(20_000), unit_vectors(20_000, 4), 7)
    [vectors] = tmp_path.glob("vectors-*")
    if damage == "missing":
        vectors.unlink()
    elif damage == "short":
        os.truncate(vectors, 1000)
    elif damage == "no state":
        (tmp_path / "state.json").unlink()
    else:
        (tmp_path / "state.json").write_text('{"format": 1, "rows": ')
    rows = VectorRows(4, tmp_path)
    assert (rows.rows.size, rows.generation) == (0, 0)
    rows.change(keys_of(), keys_of(5), unit_vectors(1, 4), 8)
    again = VectorRows(4, tmp_path)
    assert (again.rows.size, again.generation) == (1, 8)


def test_what_a_crash_left_behind_the_rows_is_written_over(tmp_path: Path) -> None:
    vectors = unit_vectors(3, 4)
    VectorRows(4, tmp_path).change(keys_of(), keys_of(1), vectors[:1], 1)
    before = (tmp_path / "state.json").read_bytes()
    VectorRows(4, tmp_path).change(keys_of(1), keys_of(2), vectors[1:2], 2)
    (tmp_path / "state.json").write_bytes(before)  # as if it had died in front of the last step
    rows = VectorRows(4, tmp_path)
    assert FlatIndex(rows).search(vectors[0], 5).keys.tolist() == [1]
    rows.change(keys_of(1), keys_of(2), vectors[2:3], 2)
    found = FlatIndex(VectorRows(4, tmp_path)).search(vectors[2], 5)
    assert found.keys.tolist() == [2]
    assert found.scores[0] > 0.999


WRITER = """
import sys
from pathlib import Path
import numpy as np
from deepwell.knowledge.index.rows import VectorRows
from deepwell.knowledge.index.testing import unit_vectors

rows, vectors = VectorRows(8, Path(sys.argv[1])), unit_vectors(1000, 8)
while True:
    start = rows.generation
    keys = np.arange(start, start + 5)
    rows.change(keys - 20, keys, vectors[keys % 1000], start + 5)
    if start % 100 == 0:
        rows.compact()
    print(start + 5, flush=True)
"""


@pytest.mark.fault
def test_a_writer_that_is_killed_leaves_whole_changes(tmp_path: Path) -> None:
    vectors = unit_vectors(1000, 8)
    reached = 0
    for round in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(5 + 17 * round):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        rows = VectorRows(8, tmp_path)
        assert rows.generation >= told > reached
        reached = rows.generation
        keys = np.arange(max(reached - 20, 0), reached)
        found = FlatIndex(rows).search(vectors[3], 100)
        exact = reference_hits({int(key): vectors[key % 1000] for key in keys}, vectors[3], 100)
        assert found.keys.tolist() == exact.keys.tolist()
        assert found.scores.tolist() == exact.scores.tolist()
