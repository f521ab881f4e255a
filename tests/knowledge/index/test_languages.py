"""An alignment is learned when a store is large enough, again when it has doubled, and never from vectors that are missing."""

import numpy as np
import pytest
from tests.knowledge.two_languages import PASSAGES, vectors

from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.index.languages import LanguageMap
from deepwell.knowledge.index.side import SideIndex, SideOptions
from deepwell.storage.knowledge.chunks import ChunksDelta

KEYS = np.arange(PASSAGES), np.arange(PASSAGES, 2 * PASSAGES)
COUNTS = (PASSAGES, PASSAGES)


@pytest.fixture(scope="module")
def index():
    index = FlatIndex.open(vectors().shape[1])
    index.add(np.arange(2 * PASSAGES), vectors())
    return index


def test_it_is_due_when_both_languages_are_there_and_again_when_one_has_doubled(index, tmp_path):
    languages = LanguageMap(tmp_path, "e")
    assert not languages.is_due((10**6, 499))
    assert languages.is_due((500, 500))
    languages.learn(KEYS, index)
    assert languages.alignment is not None
    assert not languages.is_due(COUNTS)
    assert not languages.is_due((PASSAGES + 300, PASSAGES))
    assert languages.is_due((PASSAGES, 2 * PASSAGES))
    assert not languages.is_due((PASSAGES, 499))


def test_others_take_it_over_and_another_embedder_does_not(index, tmp_path):
    languages, other = LanguageMap(tmp_path, "e"), LanguageMap(tmp_path, "e")
    languages.learn(KEYS, index)
    assert other.alignment is None
    other.reload()
    assert languages.alignment is not None and other.alignment is not None
    assert (other.alignment.rotation == languages.alignment.rotation).all()
    assert other.alignment.pairs == languages.alignment.pairs
    assert LanguageMap(tmp_path, "another").alignment is None


def test_languages_with_nothing_in_common_are_not_asked_again(tmp_path):
    draw = np.random.default_rng(0).normal(size=(2 * PASSAGES, 256)).astype(np.float32)
    index = FlatIndex.open(256)
    index.add(np.arange(2 * PASSAGES), draw / np.linalg.norm(draw, axis=1, keepdims=True))
    languages = LanguageMap(tmp_path, "e")
    languages.learn(KEYS, index)
    assert languages.alignment is None
    assert not languages.is_due(COUNTS)
    assert not LanguageMap(tmp_path, "e").is_due(COUNTS)


def test_missing_vectors_and_a_stop_leave_it_for_later(index, tmp_path):
    languages = LanguageMap(tmp_path, "e")
    languages.learn((KEYS[0], KEYS[1] + PASSAGES), index)
    languages.learn(KEYS, index, lambda: True)
    assert languages.alignment is None
    assert languages.is_due(COUNTS)


@pytest.mark.parametrize("kept", [True, False])
def test_a_side_index_knows_the_language_of_its_chunks(tmp_path, kept):
    side = SideIndex(tmp_path / "side" if kept else None, 4, "e", options=SideOptions(background=False))
    rows = np.eye(4, dtype=np.float32)
    texts = ["An English one", "一段中文", "另一段中文", "Another"]
    side.apply(ChunksDelta(1, True, False, np.arange(1, 5), rows, texts, np.empty(0, np.int64)), 0)
    assert side.chinese(np.array([4, 3, 9, 2, 1])).tolist() == [False, True, False, True, False]
    assert side.share(chinese=True) == 0.5
    gone = ChunksDelta(2, True, False, np.empty(0, np.int64), rows[:0], [], np.array([2]))
    side.apply(gone, 1)
    assert side.chinese(np.array([2, 3])).tolist() == [False, True]
    assert side.share(chinese=True) == pytest.approx(1 / 3)
    if kept:
        again = SideIndex(tmp_path / "side", 4, "e", options=SideOptions(background=False))
        assert again.chinese(np.array([2, 3])).tolist() == [False, True]
        assert again.share(chinese=False) == pytest.approx(2 / 3)


def test_labels_survive_compaction(tmp_path):
    side = SideIndex(tmp_path, 4, "e", options=SideOptions(background=False))
    count = 3000
    rows = np.tile(np.eye(4, dtype=np.float32), (count // 4, 1))
    texts = ["中文" if number % 3 == 0 else "English" for number in range(count)]
    side.apply(ChunksDelta(1, True, False, np.arange(count), rows, texts, np.empty(0, np.int64)), 0)
    gone = np.arange(0, count, 2)
    side.apply(ChunksDelta(2, True, False, np.empty(0, np.int64), rows[:0], [], gone), 1)
    assert side.needs_maintenance()
    side.maintain()
    left = np.arange(1, count, 2)
    assert side.chinese(left).tolist() == [key % 3 == 0 for key in left.tolist()]
    assert side.share(chinese=True) == pytest.approx(sum(key % 3 == 0 for key in left.tolist()) / len(left))
