"""Contracts of the lexical index: what it finds, who sees a change, and that it ranks as Lucene does."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepwell.errors import StorageError
from deepwell.knowledge.index.lexical import MAX_TERMS, TantivyIndex, normalised

TEXTS = {
    1: "The boundary layer on a flat plate",
    2: "Flat plates in supersonic flow",
    3: "第十二条 劳动者解除劳动合同，应当提前三十日通知用人单位",
    4: "用人单位应当支付经济补偿",
    5: "Diagnosis E11.9: type 2 diabetes. See read_file and ISO-9001",
    6: "ＦＵＬＬ ｗｉｄｔｈ １２３ 全角文本",
}


def keys(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def filled(folder: Path | None = None) -> TantivyIndex:
    index = TantivyIndex(folder)
    index.add(keys(*TEXTS), list(TEXTS.values()))
    return index


@pytest.fixture(scope="module")
def index() -> TantivyIndex:
    return filled()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("flat plate", [1, 2]),
        ("What is a boundary layer?", [1]),
        ("PLATES, flows", [2, 1]),
        ("劳动合同", [3]),
        ("用人单位什么时候支付补偿", [4, 3]),
        ("经济 supersonic flow", [2, 4]),
        ("e11.9", [5]),
        ("E１１.9", [5]),
        ("read_file", [5]),
        ("iso 9001", [5]),
        ("full width 123", [6]),
        ("全角", [6]),
        ("nothing of this kind", []),
        ("the of", []),
        ("", []),
    ],
)
def test_it_finds(index: TantivyIndex, query: str, expected: list[int]) -> None:
    assert set(index.search(query, 10).keys) >= set(expected)
    assert index.search(query, 10).keys[: len(expected)].tolist() == expected
    if not expected:
        assert len(index.search(query, 10)) == 0


def test_function_words_are_searched_where_nothing_else_is_asked() -> None:
    index = TantivyIndex()
    index.add(keys(1, 2), ["what which who", "something else"])
    assert index.search("what, who?", 5).keys.tolist() == [1]


@pytest.mark.parametrize(
    "query",
    [
        'text_1:flow AND (plate OR "',
        "key:1 -flat +plate^3 *:* [a TO z] \\ / ~2",
        "\x00\x07\ud800 flat \ufffe\u202e",
        "flat plate " * 100_000,
        "平板 flow\n" * 100_000,
        "x" * 1_000_000,
        "".join(f"w{number} " for number in range(200_000)),
    ],
    ids=["syntax", "operators", "control", "long", "long-zh", "one-word", "many-words"],
)
def test_a_hostile_query_is_plain_text(index: TantivyIndex, query: str) -> None:
    hits = index.search(query, 10)
    assert set(hits.keys) <= set(TEXTS)
    assert np.isfinite(hits.scores).all()


def test_a_very_long_query_is_searched_by_its_rarest_words() -> None:
    words = [f"w{number}" for number in range(MAX_TERMS + 10)]
    index = TantivyIndex()
    index.add(keys(1, 2, 3), [" ".join(words), " ".join(words[:MAX_TERMS]), words[0]])
    # w0, which every passage has, is the first to go.
    assert index.search(" ".join(words), 5).keys.tolist() == [1, 2]


def test_equal_scores_come_in_the_order_of_keys() -> None:
    index = TantivyIndex()
    for key in (7, 3, 9, 5):
        index.add(keys(key), ["the same words"])
    index.add(np.arange(100, 200), ["the same words"] * 100)
    assert index.search("same", 3).keys.tolist() == [3, 5, 7]


def test_adding_replaces_and_removing_forgets() -> None:
    index = filled()
    index.add(keys(1, 1), ["first", "wings"])
    assert len(index) == len(TEXTS)
    assert index.search("boundary first", 5).keys.tolist() == []
    assert index.search("wing", 5).keys.tolist() == [1]
    index.remove(keys(1, 99))
    assert len(index) == len(TEXTS) - 1
    assert len(index.search("wing", 5)) == 0
    index.add(keys(1), ["wings"])
    assert index.search("wing", 5).keys.tolist() == [1]


def test_keys_and_texts_must_be_as_many() -> None:
    index = TantivyIndex()
    with pytest.raises(ValueError, match="2 keys for 1 texts"):
        index.add(keys(1, 2), ["a text"])
    assert len(index) == 0


def test_a_folder_keeps_the_index(tmp_path: Path) -> None:
    filled(tmp_path / "new" / "index").remove(keys(2))
    again = TantivyIndex(tmp_path / "new" / "index")
    assert len(again) == len(TEXTS) - 1
    assert again.search("flat", 5).keys.tolist() == [1]


def _add_elsewhere(folder: Path) -> None:
    TantivyIndex(folder).add(keys(50), ["added elsewhere"])


def test_another_process_is_seen_after_a_reload(tmp_path: Path) -> None:
    index = filled(tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=_add_elsewhere, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    index.reload()
    assert index.search("elsewhere", 5).keys.tolist() == [50]
    index.add(keys(51), ["and here"])
    assert len(index) == len(TEXTS) + 2


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    index = filled(tmp_path)
    writer = index._index.writer(15_000_000, 1)
    with pytest.raises(StorageError, match="another process is changing"):
        index.add(keys(60), ["a text"])
    writer.wait_merging_threads()
    index.add(keys(60), ["a text"])
    assert len(index) == len(TEXTS) + 1


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100])
def test_a_damaged_folder_names_the_fix(tmp_path: Path, content: bytes) -> None:
    filled(tmp_path)
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(StorageError) as caught:
        TantivyIndex(tmp_path)
    assert "knowledge rebuild" in (caught.value.fix or "")


def test_threads_search_while_one_changes() -> None:
    index = filled()
    failures: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            if 1 not in index.search("flat plate", 5).keys:
                failures.append("a passage that stays was not found")

    searchers = [threading.Thread(target=search) for _ in range(3)]
    for thread in searchers:
        thread.start()
    for round_number in range(10):
        index.add(keys(100 + round_number), ["flow"])
        assert 100 + round_number in index.search("flow", 20).keys
        index.remove(keys(100 + round_number))
        assert 100 + round_number not in index.search("flow", 20).keys
    done.set()
    for thread in searchers:
        thread.join()
    assert failures == []


WORDS = ["wing", "flow", "plate", "合同", "公司", "E11.9"]
PASSAGES = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=40
)


@settings(max_examples=25, deadline=None)
@given(PASSAGES, st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), st.data())
def test_a_filter_gives_what_filtering_everything_would(
    passages: list[str], words: list[str], data: st.DataObject
) -> None:
    index = TantivyIndex()
    index.add(np.arange(len(passages)), passages)
    gone = data.draw(st.sets(st.integers(0, len(passages) - 1)))
    allowed = data.draw(st.sets(st.integers(0, len(passages) + 3)))
    limit = data.draw(st.integers(1, 10))
    index.remove(np.array(sorted(gone), np.int64))
    every = index.search(" ".join(words), len(passages))
    assert not set(every.keys) & gone
    inside = [key for key in every.keys.tolist() if key in allowed]
    found = index.search(" ".join(words), limit, allowed=np.array(sorted(allowed), np.int64))
    assert found.keys.tolist() == inside[:limit]


def test_a_filter_of_many_keys_gives_the_same() -> None:
    count = 6000
    index = TantivyIndex()
    index.add(np.arange(count), [f"flow {'wing ' * (key % 7)}" for key in range(count)])
    every = index.search("wing flow", count).keys
    for allowed in (np.arange(0, count, 2), np.arange(3000), np.flatnonzero(np.arange(count) % 7 == 0)):
        expected = every[np.isin(every, allowed)][:20]
        assert index.search("wing flow", 20, allowed=allowed).keys.tolist() == expected.tolist()
    # The keys of passages without the word: more than a fixed margin of the best lies outside of them.
    wingless = np.concatenate([np.flatnonzero(np.arange(count) % 7 == 0), np.arange(count, 2 * count)])
    assert len(index.search("wing", 20, allowed=wingless)) == 0


@settings(max_examples=20, deadline=None)
@given(PASSAGES, st.sampled_from(["wing", "flow plate", "wing wing flow"]))
def test_scores_are_those_of_bm25s(passages: list[str], query: str) -> None:
    """Short passages, whose lengths Lucene's one byte holds exactly."""
    index = TantivyIndex()
    index.add(np.arange(len(passages)), passages)
    analyse = index._analyzer.analyze
    peer = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    peer.index([analyse(normalised(passage)) for passage in passages], show_progress=False)
    expected = peer.get_scores(analyse(normalised(query)))
    hits = index.search(query, len(passages))
    assert set(hits.keys) == set(np.flatnonzero(expected))
    # tantivy keeps the factor k1 + 1 that Lucene has dropped.
    np.testing.assert_allclose(hits.scores, 2.2 * expected[hits.keys], rtol=1e-4)


@given(st.text())
def test_words_are_separated_by_single_spaces_and_stable(text: str) -> None:
    words = normalised(text)
    assert words.split() == ([] if not words else words.split(" "))
    assert all(0 < len(word) <= 64 for word in words.split())
    words.encode()  # no lone surrogate reaches the index
