"""A side index reaches the database's generation from whatever a crash, another process or another embedder left behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.errors import StorageError
from deepwell.knowledge.index.ann import AnnIndex
from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.index.side import SideIndex, SideOptions
from deepwell.knowledge.index.testing import keys_of, reference_hits, unit_vectors
from deepwell.storage.knowledge.chunks import ChunksDelta

DIMENSIONS = 8
POOL = unit_vectors(5000, DIMENSIONS)
QUIET = SideOptions(background=False)


class Truth:
    """A database of chunks: what was added and removed in each generation."""

    def __init__(self) -> None:
        self.generation = 0
        self.added: dict[int, int] = {}  # generation by key
        self.removed: dict[int, int] = {}
        self.page = 1000  # generations of a delta
        self.forgotten = 0  # removals up to this generation

    def change(self, add: int, remove: list[int] | None = None) -> None:
        self.generation += 1
        start = len(self.added)
        self.added |= dict.fromkeys(range(start, start + add), self.generation)
        self.removed |= {key: self.generation for key in remove or [] if key in self.added}

    def delta(self, since: int) -> ChunksDelta:
        rebuild = 0 < since < self.forgotten
        since = 0 if rebuild else since
        reached = min(self.generation, since + self.page)
        new = [key for key, at in self.added.items() if since < at <= reached and key not in self.removed]
        gone = [] if rebuild else [key for key, at in self.removed.items() if since < at <= reached]
        return ChunksDelta(
            reached,
            reached == self.generation,
            rebuild,
            keys_of(*new),
            POOL[new].reshape(-1, DIMENSIONS),
            [f"word{key} common" for key in new],
            keys_of(*gone),
        )

    def check(self, side: SideIndex) -> None:
        left = {key: POOL[key] for key in self.added if key not in self.removed}
        assert side.generation == self.generation
        assert len(side.vectors) == len(side.lexical) == len(left)
        found = side.vectors.search(POOL[0], 20)
        assert found.keys.tolist() == reference_hits(left, POOL[0], 20).keys.tolist()
        assert sorted(side.lexical.search("common", len(left) + 1).keys.tolist()) == sorted(left)
        for key in list(self.added)[:3]:
            assert side.lexical.search(f"word{key}", 5).keys.tolist() == ([key] if key in left else [])


def opened(folder: Path | None, embedder: str = "e", options: SideOptions = QUIET) -> SideIndex:
    return SideIndex(folder, DIMENSIONS, embedder, options=options)


def sync(side: SideIndex, truth: Truth) -> list[int]:
    """Applies changes until the index is as new as the database. Returns the generations that were asked from."""
    side.reload()
    asked: list[int] = []
    while side.generation != truth.generation:
        asked.append(side.generation)
        side.apply(truth.delta(asked[-1]), asked[-1])
    return asked


@pytest.fixture
def truth() -> Truth:
    truth = Truth()
    truth.change(30)
    truth.change(20, [3, 4])
    truth.change(0, [0, 41])
    return truth


@pytest.mark.parametrize("kept", [True, False])
def test_it_reaches_the_database_and_follows_it(tmp_path: Path, truth: Truth, kept: bool) -> None:
    side = opened(tmp_path / "side" if kept else None)
    assert side.generation == 0
    assert len(side.vectors) == len(side.lexical) == 0
    sync(side, truth)
    truth.check(side)
    truth.page = 1
    for number in range(4):
        truth.change(3, [number * 5 + 1])
    sync(side, truth)
    truth.check(side)
    if kept:
        truth.check(opened(tmp_path / "side"))


def test_others_see_what_one_has_applied(tmp_path: Path, truth: Truth) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    sync(one, truth)
    assert other.generation == 0
    assert other.reload()
    assert not other.reload()
    truth.check(other)
    truth.change(5, [7])
    sync(other, truth)
    assert sync(one, truth) == []  # it found the work done
    truth.check(one)


def test_changes_that_were_read_before_another_applied_them_are_left_out(
    tmp_path: Path, truth: Truth
) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    old, since = truth.delta(0), 0
    truth.change(5, [7, 8])
    sync(other, truth)
    one.apply(old, since)
    truth.check(one)


def test_changes_whose_ground_is_gone_are_not_applied(tmp_path: Path, truth: Truth) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    sync(one, truth)
    since = truth.generation
    truth.change(5)
    delta = truth.delta(since)
    other.reset()
    one.apply(delta, since)
    assert one.generation == 0
    sync(one, truth)
    truth.check(one)


def test_a_database_that_forgot_removals_has_it_begin_anew(tmp_path: Path, truth: Truth) -> None:
    side = opened(tmp_path)
    sync(side, truth)
    truth.change(5, [9])
    truth.change(5)
    truth.forgotten = truth.generation
    sync(side, truth)
    truth.check(side)
    assert len(list(tmp_path.glob("lexical-*"))) == 1


@pytest.mark.parametrize("lost", ["vectors-*", "rows-*", "state.json", "lexical-*", "*"])
def test_what_was_deleted_comes_back_from_the_database(tmp_path: Path, truth: Truth, lost: str) -> None:
    sync(opened(tmp_path), truth)
    for path in tmp_path.glob(lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    side = opened(tmp_path)
    truth.change(2)
    sync(side, truth)
    sync(side, truth)
    truth.check(side)
    assert len(list(tmp_path.glob("lexical-*"))) == 1


def test_another_embedder_begins_anew(tmp_path: Path, truth: Truth) -> None:
    sync(opened(tmp_path, "one"), truth)
    side = opened(tmp_path, "other")
    assert side.generation == 0
    sync(side, truth)
    truth.check(side)
    assert len(list(tmp_path.glob("vectors-*"))) == len(list(tmp_path.glob("lexical-*"))) == 1


def test_texts_that_were_applied_before_a_crash_are_applied_again(tmp_path: Path, truth: Truth) -> None:
    sync(opened(tmp_path), truth)
    before = (tmp_path / "state.json").read_bytes()
    truth.change(4, [1, 2])
    sync(opened(tmp_path), truth)
    (tmp_path / "state.json").write_bytes(before)
    side = opened(tmp_path)
    assert side.generation == truth.generation - 1
    sync(side, truth)
    truth.check(side)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, truth: Truth) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        sync(opened(tmp_path / "file"), truth)


def test_a_database_from_a_backup_has_it_begin_anew(tmp_path: Path, truth: Truth) -> None:
    side = opened(tmp_path)
    later = Truth()
    for number in range(6):
        later.change(15, [number])
    sync(side, later)
    sync(side, truth)
    truth.check(side)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("change change sync sync reset reopen maintain".split()), st.integers(0, 6)
        ),
        max_size=10,
    )
)
def test_any_order_of_work_ends_in_the_database(
    tmp_path_factory: pytest.TempPathFactory, steps: list
) -> None:
    folder, truth = tmp_path_factory.mktemp("side"), Truth()
    sides = [opened(folder), opened(folder)]
    for number, (step, amount) in enumerate(steps):
        side = sides[number % 2]
        if step == "change":
            truth.change(amount, list(range(number, number + amount, 2)))
        elif step == "sync":
            sync(side, truth)
        elif step == "reset":
            side.reset()
        elif step == "reopen":
            sides[number % 2] = opened(folder)
        else:
            side.maintain()
    for side in sides:
        sync(side, truth)
        truth.check(side)


def test_a_graph_takes_over_from_its_number_of_vectors_on(tmp_path: Path) -> None:
    truth = Truth()
    truth.change(1000)
    side = opened(tmp_path, options=SideOptions(graph_from=1500, background=False, threads=1))
    sync(side, truth)
    assert isinstance(side.vectors, FlatIndex)
    truth.change(1000)
    sync(side, truth)
    assert isinstance(side.vectors, AnnIndex)
    truth.check(side)


def test_compaction_keeps_what_is_there(tmp_path: Path) -> None:
    truth = Truth()
    truth.change(3000)
    side, reader = opened(tmp_path), opened(tmp_path)
    sync(side, truth)
    truth.change(10, list(range(0, 3000, 2)))
    sync(side, truth)
    assert side.needs_maintenance()
    side.maintain()
    assert not side.needs_maintenance()
    truth.check(side)
    reader.reload()
    truth.check(reader)


def test_maintenance_runs_by_itself_and_ends_with_the_index(tmp_path: Path) -> None:
    truth = Truth()
    truth.change(3000)
    sync(opened(tmp_path), truth)
    truth.change(10, list(range(0, 3000, 2)))
    side = opened(tmp_path, options=SideOptions())
    sync(side, truth)
    side.close()
    side.close()
    assert not side.needs_maintenance()
    assert not [thread for thread in threading.enumerate() if thread.name == "deepwell-graph"]


APPLIER = """
import sys
from pathlib import Path
from tests.knowledge.index.test_side import Truth, opened, sync

side, truth = opened(Path(sys.argv[1])), Truth()
for number in range(1, 1000):
    truth.change(5, [number * 2])
    if truth.generation > side.generation:
        sync(side, truth)
        print(truth.generation, flush=True)
"""


@pytest.mark.fault
def test_an_applier_that_is_killed_leaves_what_can_be_completed(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    for changes in (2, 5, 9, 3):
        command = [sys.executable, "-c", APPLIER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as applier:
            assert applier.stdout is not None
            for _ in range(changes):
                told = int(applier.stdout.readline())
            applier.send_signal(signal.SIGKILL)
        side, truth = opened(tmp_path), Truth()
        for number in range(1, max(told, side.generation) + 2):
            truth.change(5, [number * 2])
        assert side.generation >= told
        sync(side, truth)
        truth.check(side)
