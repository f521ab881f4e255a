"""Conformance suites of the index protocols, for any implementation.

An implementation is tested by a class for pytest that inherits from a suite and makes indexes:

    class TestMyIndex(VectorIndexTests):
        @pytest.fixture(autouse=True)
        def _folder(self, tmp_path):
            self.folder = tmp_path

        def make_index(self, dimensions):
            return MyIndex(self.folder / "index", dimensions)

        def reopen_index(self, dimensions):
            return MyIndex(self.folder / "index", dimensions)

The suites need numpy and no package of tests. `make_index` is called once a test, and has to return an empty index.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.index.nearest import exact_scores, hits
from deepwell.knowledge.index.protocol import Hits, LexicalIndex, VectorIndex

__all__ = ["LexicalIndexTests", "VectorIndexTests", "keys_of", "reference_hits", "unit_vectors"]


def keys_of(*keys: int) -> NDArray[np.int64]:
    """Returns keys as an array."""
    return np.array(keys, np.int64)


def unit_vectors(count: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """Returns `count` random vectors of unit length, float32 [count, dimensions]."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def reference_hits(vectors: dict[int, NDArray[np.float32]], query: NDArray[np.float32], limit: int) -> Hits:
    """Returns the hits of an exact search over vectors by key."""
    if not vectors:
        return Hits(keys_of(), np.empty(0, np.float32))
    return hits(keys_of(*vectors), exact_scores(np.stack(list(vectors.values())), query), limit)


@contextmanager
def _refused(reason: str) -> Generator[None]:
    try:
        yield
    except ValueError:
        return
    raise AssertionError(f"accepted {reason}")


class VectorIndexTests:
    """The contract of `VectorIndex`, one test a rule.

    Attributes:
        min_recall: share of the exact best that a search over many vectors has to find. Indexes below 1.0 are approximate;
            over the few vectors of the other tests they have to be exact too.
        many: number of vectors of the test of recall.
    """

    min_recall = 1.0
    many = 2000

    def make_index(self, dimensions: int) -> VectorIndex:
        """Returns an empty index."""
        raise NotImplementedError

    def reopen_index(self, dimensions: int) -> VectorIndex | None:
        """Returns the index of `make_index` as another process would open it, or None if it is not kept."""
        return None

    def settle(self, index: VectorIndex) -> None:
        """Waits until the index has built what it builds in the background, if it does."""

    def test_it_starts_empty(self) -> None:
        index = self.make_index(4)
        assert len(index) == 0
        assert index.dimensions == 4
        found = index.search(unit_vectors(1, 4)[0], 5)
        assert len(found) == 0
        assert (found.keys.dtype, found.scores.dtype) == (np.int64, np.float32)
        index.remove(keys_of(1, 2))
        index.add(keys_of(), np.empty((0, 4), np.float32))
        assert len(index) == 0

    def test_the_best_come_first_with_their_cosines(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(50, 8)
        index.add(np.arange(100, 150), vectors)
        self._assert_exact(index, dict(zip(range(100, 150), vectors, strict=True)), limit=7)

    def test_a_limit_above_the_number_of_vectors_returns_all(self) -> None:
        index = self.make_index(8)
        index.add(np.arange(5), unit_vectors(5, 8))
        assert sorted(index.search(unit_vectors(1, 8, 1)[0], 100).keys.tolist()) == [0, 1, 2, 3, 4]

    def test_an_added_vector_is_found_at_once(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(20, 8)
        for key, vector in enumerate(vectors):
            index.add(keys_of(key), vector[None])
            assert index.search(vector, 1).keys.tolist() == [key]
            assert len(index) == key + 1

    def test_a_removed_vector_is_gone_at_once(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(20, 8)
        index.add(np.arange(20), vectors)
        index.remove(keys_of(3, 7, 999))
        assert len(index) == 18
        left = {key: vector for key, vector in enumerate(vectors) if key not in (3, 7)}
        self._assert_exact(index, left, limit=20)
        index.remove(keys_of(3))
        assert len(index) == 18

    def test_adding_a_key_again_replaces_its_vector(self) -> None:
        index = self.make_index(8)
        old, new = unit_vectors(10, 8), unit_vectors(3, 8, 1)
        index.add(np.arange(10), old)
        index.add(keys_of(9, 0, 4), new)
        assert len(index) == 10
        vectors = dict(enumerate(old)) | dict(zip((9, 0, 4), new, strict=True))
        self._assert_exact(index, vectors, limit=10)

    def test_a_removed_key_can_be_added_again(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(6, 8)
        index.add(np.arange(5), vectors[:5])
        index.remove(keys_of(2))
        index.add(keys_of(2), vectors[5:])
        assert len(index) == 5
        self._assert_exact(index, dict(enumerate(vectors[:5])) | {2: vectors[5]}, limit=5)

    def test_equal_scores_come_in_the_order_of_keys(self) -> None:
        index = self.make_index(8)
        one, other = unit_vectors(2, 8)
        index.add(np.arange(40, 80), np.tile(one, (40, 1)))
        index.add(np.arange(40), np.tile(one, (40, 1)))
        index.add(keys_of(1000), other[None])
        found = index.search(one, 10)
        assert found.keys.tolist() == list(range(10))
        assert len(set(found.scores.tolist())) == 1

    def test_allowed_keys_restrict_the_search(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(200, 8)
        index.add(np.arange(200), vectors)
        index.remove(keys_of(10, 11))
        query = unit_vectors(1, 8, 1)[0]
        for allowed in ([5], range(0, 200, 2), range(200), [10, 11], [], [12, 777, 5000]):
            left = {key: vectors[key] for key in allowed if key < 200 and key not in (10, 11)}
            found = index.search(query, 300, allowed=keys_of(*allowed))
            _assert_same(found, reference_hits(left, query, 300))

    def test_a_zero_vector_scores_zero(self) -> None:
        index = self.make_index(4)
        vector = unit_vectors(1, 4)[0]
        index.add(keys_of(1, 2, 3), np.stack([-vector, np.zeros_like(vector), vector]))
        found = index.search(vector, 3)
        assert found.keys.tolist() == [3, 2, 1]
        assert found.scores[1] == 0
        _assert_same(index.search(np.zeros_like(vector), 3), Hits(keys_of(1, 2, 3), np.zeros(3, np.float32)))

    def test_what_does_not_fit_is_refused_and_changes_nothing(self) -> None:
        index = self.make_index(4)
        good = unit_vectors(2, 4)
        index.add(keys_of(1, 2), good)
        bad: list[tuple[str, Any, Any]] = [
            ("fewer keys", keys_of(3), good),
            ("more keys", keys_of(3, 4, 5), good),
            ("keys twice", keys_of(3, 3), good),
            ("keys of two axes", keys_of(3, 4)[None], good),
            ("keys that are not whole", np.array([3.5, 4.0]), good),
            ("other dimensions", keys_of(3, 4), unit_vectors(2, 5)),
            ("one axis", keys_of(3), good[0]),
            ("not a number", keys_of(3, 4), np.where([[True], [False]], np.nan, good)),
            ("infinity", keys_of(3, 4), np.where([[False], [True]], np.inf, good)),
            ("length 2", keys_of(3, 4), 2 * good),
        ]
        for reason, keys, vectors in bad:
            with _refused(reason):
                index.add(keys, vectors.astype(np.float32))
        with _refused("a limit of 0"):
            index.search(good[0], 0)
        with _refused("a query of other dimensions"):
            index.search(unit_vectors(1, 5)[0], 1)
        with _refused("a query of two axes"):
            index.search(good, 1)
        with _refused("a query that is not finite"):
            index.search(np.full(4, np.nan, np.float32), 1)
        assert len(index) == 2
        self._assert_exact(index, dict(zip((1, 2), good, strict=True)), limit=5)

    def test_hits_do_not_change_afterwards(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(30, 8)
        index.add(np.arange(20), vectors[:20])
        found = index.search(vectors[0], 20)
        keys, scores = found.keys.tolist(), found.scores.tolist()
        index.remove(np.arange(10))
        index.add(np.arange(20, 30), vectors[20:])
        assert (found.keys.tolist(), found.scores.tolist()) == (keys, scores)

    def test_the_caller_may_change_its_arrays_afterwards(self) -> None:
        index = self.make_index(8)
        vectors, keys = unit_vectors(5, 8), np.arange(5)
        kept = dict(enumerate(vectors.copy()))
        index.add(keys, vectors)
        vectors[:] = 0
        keys += 100
        self._assert_exact(index, kept, limit=5)

    def test_other_kinds_of_arrays_are_taken(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(6, 8)
        keys: Any = np.arange(3, dtype=np.int32)
        wide: Any = vectors[:3].astype(np.float64)
        index.add(keys, wide)
        index.add(np.arange(3, 6), np.asfortranarray(vectors)[3:])
        self._assert_exact(index, dict(enumerate(vectors)), limit=6)

    def test_vectors_are_fetched_by_key(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(6, 8)
        index.add(np.arange(6), vectors)
        index.remove(keys_of(2))
        keys, fetched = index.fetch(keys_of(4, 2, 77, 0))
        assert keys.tolist() == [4, 0]
        assert fetched.dtype == np.float32
        assert (fetched == vectors[[4, 0]]).all()
        keys, fetched = index.fetch(keys_of())
        assert keys.tolist() == []
        assert fetched.shape == (0, 8)

    def test_large_keys_are_kept_exactly(self) -> None:
        index = self.make_index(4)
        keys = keys_of(0, 2**53 + 1, 2**62 + 3)
        index.add(keys, unit_vectors(3, 4))
        assert sorted(index.search(unit_vectors(1, 4, 1)[0], 3).keys.tolist()) == keys.tolist()

    def test_many_vectors_are_found_with_the_recall_that_is_stated(self) -> None:
        index = self.make_index(32)
        vectors = unit_vectors(self.many, 32)
        for start in range(0, self.many, 700):
            index.add(np.arange(start, min(start + 700, self.many)), vectors[start : start + 700])
        index.remove(np.arange(0, self.many, 10))
        self.settle(index)
        left = {key: vectors[key] for key in range(self.many) if key % 10}
        shared = 0
        for query in unit_vectors(30, 32, 1):
            found, exact = index.search(query, 10), reference_hits(left, query, 10)
            assert len(found) == 10
            assert (np.diff(found.scores) <= 0).all()
            assert not (found.keys % 10 == 0).any()
            shared += len(np.intersect1d(found.keys, exact.keys))
        assert shared / 300 >= self.min_recall

    def test_few_allowed_of_many_are_found_exactly(self) -> None:
        index = self.make_index(32)
        vectors = unit_vectors(self.many, 32)
        index.add(np.arange(self.many), vectors)
        self.settle(index)
        allowed = np.arange(7, self.many, self.many // 20)
        for query in unit_vectors(5, 32, 1):
            exact = reference_hits({key: vectors[key] for key in allowed.tolist()}, query, 50)
            _assert_same(index.search(query, 50, allowed=allowed), exact)

    def test_threads_search_while_one_changes_it(self) -> None:
        index = self.make_index(16)
        vectors = unit_vectors(400, 16)
        index.add(np.arange(100), vectors[:100])
        faults: list[BaseException] = []
        done = threading.Event()

        def search(seed: int) -> None:
            try:
                while not done.is_set():
                    query = vectors[seed % 50]
                    found = index.search(query, 5)
                    assert found.keys[0] == seed % 50, "a vector that was there all the time is missing"
                    exact = exact_scores(vectors[found.keys], query)
                    assert (found.scores == exact).all(), "the score of another vector"
                    seed += 1
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=search, args=(number * 7,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for start in range(100, 400, 10):
            index.add(np.arange(start, start + 10), vectors[start : start + 10])
            index.remove(np.arange(start - 45, start - 40))
        done.set()
        for thread in threads:
            thread.join()
        assert faults == []

    def test_it_is_there_after_reopening(self) -> None:
        index = self.make_index(8)
        vectors = unit_vectors(30, 8)
        index.add(np.arange(20), vectors[:20])
        index.remove(np.arange(0, 20, 3))
        index.add(np.arange(15, 30), vectors[15:])
        again = self.reopen_index(8)
        if again is None:
            return
        left = {key: vectors[key] for key in range(30) if key >= 15 or key % 3}
        assert len(again) == len(left)
        self._assert_exact(again, left, limit=30)
        again.add(keys_of(3), vectors[3][None])
        again.remove(keys_of(29))
        third = self.reopen_index(8)
        assert third is not None
        del left[29]
        self._assert_exact(third, left | {3: vectors[3]}, limit=30)

    def _assert_exact(self, index: VectorIndex, vectors: dict[int, Any], limit: int) -> None:
        dimensions = index.dimensions
        for query in unit_vectors(5, dimensions, 99):
            _assert_same(index.search(query, limit), reference_hits(vectors, query, limit))


def _assert_same(found: Hits, expected: Hits) -> None:
    assert found.keys.tolist() == expected.keys.tolist()
    assert found.scores.tolist() == expected.scores.tolist()


class LexicalIndexTests:
    """The contract of `LexicalIndex`, one test a rule. Scores are not compared: BM25 has variants."""

    def make_index(self) -> LexicalIndex:
        """Returns an empty index."""
        raise NotImplementedError

    def reopen_index(self) -> LexicalIndex | None:
        """Returns the index of `make_index` as another process would open it, or None if it is not kept."""
        return None

    def test_it_starts_empty(self) -> None:
        index = self.make_index()
        assert len(index) == 0
        found = index.search("lake", 5)
        assert len(found) == 0
        assert (found.keys.dtype, found.scores.dtype) == (np.int64, np.float32)
        index.remove(keys_of(1))
        index.add(keys_of(), [])
        assert len(index) == 0

    def test_texts_with_the_words_of_a_query_are_found(self) -> None:
        index = self._filled()
        assert self._found(index, "lighthouse") == [1]
        assert self._found(index, "LIGHTHOUSE") == [1]
        assert self._found(index, "harbour") == [1, 2]
        assert self._found(index, "submarine") == []

    def test_chinese_texts_are_found(self) -> None:
        index = self._filled()
        assert self._found(index, "民法典") == [4]
        assert 5 in self._found(index, "机器学习")

    def test_scores_fall(self) -> None:
        index = self.make_index()
        index.add(np.arange(3), ["pear pear pear", "pear and plum and fig and date", "plum and fig"])
        found = index.search("pear", 3)
        assert found.keys.tolist() == [0, 1]
        assert found.scores[0] > found.scores[1] > 0

    def test_equal_scores_come_in_the_order_of_keys(self) -> None:
        index = self.make_index()
        for key in (30, 10, 20):
            index.add(keys_of(key), ["the same words"])
        assert index.search("words", 2).keys.tolist() == [10, 20]

    def test_a_limit_above_the_number_of_texts_returns_those_that_match(self) -> None:
        assert len(self._filled().search("harbour", 1000)) == 2

    def test_an_added_text_is_found_at_once_and_a_removed_one_is_gone(self) -> None:
        index = self._filled()
        index.add(keys_of(9), ["a kite"])
        assert self._found(index, "kite") == [9]
        assert len(index) == 6
        index.remove(keys_of(9, 777))
        assert self._found(index, "kite") == []
        assert len(index) == 5

    def test_adding_a_key_again_replaces_its_text(self) -> None:
        index = self._filled()
        index.add(keys_of(1), ["an orchard"])
        assert len(index) == 5
        assert self._found(index, "lighthouse") == []
        assert self._found(index, "orchard") == [1]

    def test_allowed_keys_restrict_the_search(self) -> None:
        index = self._filled()
        assert self._found(index, "harbour", allowed=[2, 3, 50]) == [2]
        assert self._found(index, "harbour", allowed=[3]) == []
        assert self._found(index, "harbour", allowed=[]) == []

    def test_no_character_of_a_query_is_syntax(self) -> None:
        index = self._filled()
        wild = [
            "",
            " ",
            "AND",
            "OR NOT",
            '"',
            "harbour AND",
            "text:harbour",
            "a:b:c",
            "[a TO",
            "*",
            "?",
            "har*",
        ]
        wild += ["(", ")", "harbour^2", "-harbour", "+(-", "\\", "\0", "~1", "/x/", "😀", "e\u0301", "\ud800"]
        for query in wild:
            index.search(query, 5)
        assert self._found(index, 'text:"harbour" AND (') == [1, 2]
        assert self._found(index, "-harbour") == [1, 2]

    def test_what_does_not_fit_is_refused_and_changes_nothing(self) -> None:
        index = self._filled()
        with _refused("fewer keys"):
            index.add(keys_of(7), ["a kite", "a hat"])
        assert len(index) == 5
        assert self._found(index, "kite") == []

    def test_an_empty_text_is_kept_and_never_found(self) -> None:
        index = self.make_index()
        index.add(keys_of(1, 2), ["", "a kite"])
        assert len(index) == 2
        assert self._found(index, "kite") == [2]

    def test_large_keys_are_kept_exactly(self) -> None:
        index = self.make_index()
        keys = [0, 2**53 + 1, 2**62 + 3]
        index.add(keys_of(*keys), ["a kite"] * 3)
        assert self._found(index, "kite") == keys

    def test_threads_search_while_one_changes_it(self) -> None:
        index = self._filled()
        faults: list[BaseException] = []
        done = threading.Event()

        def search() -> None:
            try:
                while not done.is_set():
                    assert self._found(index, "lighthouse") == [1]
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for key in range(100, 110):
            index.add(keys_of(key), [f"kite number {key}"])
            index.remove(keys_of(key - 1))
        done.set()
        for thread in threads:
            thread.join()
        assert faults == []

    def test_it_is_there_after_reopening(self) -> None:
        index = self._filled()
        index.remove(keys_of(2))
        again = self.reopen_index()
        if again is None:
            return
        assert len(again) == 4
        assert self._found(again, "harbour") == [1]

    def _filled(self) -> LexicalIndex:
        index = self.make_index()
        texts = [
            "The lighthouse stands over the harbour.",
            "Boats leave the harbour at dawn.",
            "A mill grinds corn.",
            "《中华人民共和国民法典》自2021年1月1日起施行。",
            "机器学习是人工智能的一个分支。",
        ]
        index.add(np.arange(1, 6), texts)
        return index

    def _found(self, index: LexicalIndex, query: str, allowed: Iterable[int] | None = None) -> list[int]:
        keys = None if allowed is None else keys_of(*allowed)
        return sorted(index.search(query, 10, allowed=keys).keys.tolist())
