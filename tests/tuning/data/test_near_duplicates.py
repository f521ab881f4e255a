"""Near-duplicates: shingles as a plain program computes them, recall as the curve of the bands says, and clusters that hold."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.tuning.data import near_duplicates as module
from deepwell.tuning.data.clusters import Clusters, Twin, choose
from deepwell.tuning.data.minhash import buckets, candidate_probability, sketch
from deepwell.tuning.data.near_duplicates import Exact, near_duplicates
from deepwell.tuning.data.semantic import semantic_duplicates
from deepwell.tuning.data.shingles import shingle_sets, shingles, units
from deepwell_bench.workloads.tuning.duplicates import plain_shingles, plain_units, similar_pairs

# Scripts with blanks between words, for which `plain_units` is written.
WORDS = st.text(st.sampled_from("abé_5-+.,$’ \tßﬁＡß\u0301"), max_size=30)

GOLDEN_SHINGLES = 1977353706158456984
GOLDEN_KEY = 10188601306182850872


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


def equal_shingles(one: str, other: str) -> bool:
    first, second = shingle_sets([one, other], 5)
    return first == second


@given(st.lists(WORDS, max_size=6))
def test_shingles_are_those_of_a_plain_program(texts: list[str]) -> None:
    found = list(shingle_sets(texts, 3))
    plain = [plain_shingles(plain_units(text), 3) for text in texts]
    assert [len(one) for one in found] == [len(one) for one in plain]
    for (one, other), (this, that) in zip(combinations(found, 2), combinations(plain, 2), strict=True):
        assert len(one & other) == len(this & that)


@given(st.lists(st.text(max_size=40), max_size=5))
def test_shingles_of_a_text_do_not_depend_on_its_neighbours(texts: list[str]) -> None:
    together = list(shingle_sets(texts, 5))
    assert together == [next(iter(shingle_sets([text], 5))) for text in texts]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("Hello, World", "hello world!", True),
        ("well-known", "well known", True),
        ("ＡＢＣ", "abc", True),
        ("e\u0301te\u0301", "été", True),
        ("今天天气很好。", "今天 天气 很好", True),
        ("2 + 2", "2 - 2", False),
        ("5-3", "5 3", False),
        ("x < 0", "x > 0", False),
        ("👍", "👎", False),
        ("今天天气很好", "今天天气不好", False),
        ("ภาษาไทย", "ภาษาไทน", False),
        ("ab c", "a bc", False),
        ("\U00020000", "\U00020001", False),
    ],
)
def test_what_counts_as_the_same(one: str, other: str, equal: bool) -> None:
    assert equal_shingles(one, other) is equal


def test_hashes_are_the_same_on_every_machine() -> None:
    found = units(["The quick brown fox", "你好世界"])
    assert found.offsets.tolist() == [0, 4, 8]
    digest = int(np.bitwise_xor.reduce(shingles(found, 3).hashes))
    keys = sketch(["The quick brown fox jumps over the lazy dog"], 5).keys
    assert (digest, int(keys[0, 0])) == (GOLDEN_SHINGLES, GOLDEN_KEY)


def test_candidates_are_as_frequent_as_the_curve_says() -> None:
    rng = random.Random(0)
    pairs, shared = 400, 130
    texts: list[str] = []
    for _ in range(pairs):
        words = [f"w{rng.randrange(1 << 30)}" for _ in range(200)]
        texts += [" ".join(words[: shared + 35]), " ".join([*words[:shared], *words[165:200]])]
    similarity = 130 / 200
    keys = sketch(texts, 1).keys
    found = {
        (int(members[at]), int(members[at + 1]))
        for row in keys
        for members in buckets(row)
        for at in range(len(members) - 1)
    }
    share = sum((at, at + 1) in found for at in range(0, 2 * pairs, 2)) / pairs
    assert share == pytest.approx(candidate_probability(similarity), abs=0.1)
    assert candidate_probability(0.9) == pytest.approx(0.9996, abs=1e-4)


def edits(seed: int, count: int) -> list[str]:
    """Texts, with copies of them that differ by a few words."""
    rng = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(300)]
    texts: list[str] = []
    for _ in range(count):
        words = rng.choices(vocabulary, k=rng.randint(3, 90))
        texts.append(" ".join(words))
        if rng.random() < 0.5:
            for _ in range(rng.randint(0, 3)):
                words[rng.randrange(len(words))] = rng.choice(vocabulary)
            texts.append(" ".join(words))
    rng.shuffle(texts)
    return texts


@pytest.mark.parametrize("seed", range(3))
def test_every_pair_is_found_and_every_dropped_text_has_a_kept_twin(seed: int) -> None:
    texts = edits(seed, 300)
    sets = list(shingle_sets(texts, 5))
    truth = similar_pairs([plain_shingles(plain_units(text)) for text in texts], 0.9)
    found = near_duplicates(texts, 0.9)
    clusters = {index: number for number, cluster in enumerate(found.clusters) for index in cluster}
    missed = [pair for pair in truth if clusters.get(pair[0], -1) != clusters.get(pair[1], -2)]
    assert truth and not missed and found.passed_over == 0
    for index, twin in found.dropped.items():
        assert twin.kept not in found.dropped and twin.kept < index
        assert twin.similarity == jaccard(sets[index], sets[twin.kept]) >= 0.9
    assert found.dropped == near_duplicates(texts, 0.9).dropped


def test_large_groups_of_candidates_cost_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_MEMBERS", 8)
    monkeypatch.setattr(module, "_COMPARISONS_PER_TEXT", 2)
    common = " ".join(f"word{number}" for number in range(30))
    texts = [f"{common} {' '.join(f'x{index}y{at}' for at in range(12))}" for index in range(300)]
    found = near_duplicates(texts, 0.95)
    assert not found.dropped and found.passed_over > 0 and found.compared < 300 * 20
    alike = [f"{common} {common.upper()} {index}" for index in range(300)]
    assert len(near_duplicates(alike, 0.9).dropped) == 299


def test_texts_without_units_resemble_nothing() -> None:
    assert near_duplicates(["", "...", "", " \n", "a", "。"], 0.9).clusters == []
    assert near_duplicates([], 0.9).dropped == {}
    assert Exact(["", "a"], 5)(np.array([0]), np.array([1])).tolist() == [0.0]


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60))
def test_clusters_are_the_components_of_the_pairs(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(one % count, other % count) for one, other in pairs]
    clusters = Clusters(count)
    for one, other in pairs:
        clusters.join(one, other)
    component = list(range(count))  # grown by relabelling, the slow and plain way
    for one, other in pairs:
        old, new = sorted((component[one], component[other]), reverse=True)
        component = [new if label == old else label for label in component]
    sizes = Counter(component)
    expected = [
        [i for i in range(count) if component[i] == root] for root in sorted(sizes) if sizes[root] > 1
    ]
    assert clusters.groups() == expected
    assert clusters.roots().tolist() == component


@given(st.integers(2, 12), st.integers(0, 1 << 16))
def test_what_is_dropped_resembles_a_kept_one_and_nothing_else_is(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    likeness = np.triu(rng.random((count, count)), 1)
    likeness += likeness.T
    clusters = Clusters(count)
    for one, other in np.argwhere(likeness >= 0.7).tolist():
        clusters.join(one, other)
    dropped = choose(clusters, lambda one, other: likeness[one, other], 0.7)
    kept = [index for index in range(count) if index not in dropped]
    assert all(likeness[one, other] < 0.7 for one, other in combinations(kept, 2))
    for index, twin in dropped.items():
        assert twin == Twin(twin.kept, likeness[twin.kept, index]) and twin.kept in kept
        assert twin.similarity >= 0.7 and twin.kept < index


def test_texts_of_like_meaning_are_found_by_their_vectors() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5000, 16)).astype(np.float32)
    vectors[4999] = vectors[7] + 0.01
    vectors[2500] = 2 * vectors[2049]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    clusters, dropped = semantic_duplicates(vectors, 0.99)
    assert clusters == [[7, 4999], [2049, 2500]]
    assert {index: twin.kept for index, twin in dropped.items()} == {4999: 7, 2500: 2049}
