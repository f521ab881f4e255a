"""Contracts of the fusion of lexical and dense hits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.knowledge.fuse import E5, Calibration, Candidates, calibration_of, fuse
from deepwell.knowledge.index.protocol import Hits

NONE = Hits(np.empty(0, np.int64), np.empty(0, np.float32))


def hits(ceiling: float = 0.0, **scores: float) -> Hits:
    """Returns hits whose keys are the numbers behind `k`, best first."""
    found = sorted(((-score, int(name[1:])) for name, score in scores.items()))
    return Hits(
        np.array([key for _, key in found], np.int64),
        np.array([-score for score, _ in found], np.float32),
        ceiling,
    )


def test_nothing_found_is_no_ranking() -> None:
    assert len(fuse(None, None)) == len(fuse(NONE, NONE)) == len(fuse(NONE, None)) == 0


def test_a_passage_that_both_arms_like_comes_first() -> None:
    fused = fuse(hits(20, k1=10, k2=9, k3=1), hits(k4=0.9, k2=0.89, k5=0.84))
    assert fused.keys[0] == 2
    assert set(fused.keys) == {1, 2, 3, 4, 5}


def test_an_arm_alone_keeps_its_order() -> None:
    assert fuse(hits(20, k1=3, k2=9, k3=5), None).keys.tolist() == [2, 3, 1]
    assert fuse(None, hits(k1=0.8, k2=0.9, k3=0.85)).keys.tolist() == [2, 3, 1]
    assert fuse(NONE, hits(k1=0.8, k2=0.9, k3=0.85)).keys.tolist() == [2, 3, 1]


def test_words_that_cover_little_of_the_question_do_not_outweigh_the_meaning() -> None:
    dense = hits(k1=0.9, k2=0.85, k3=0.82)
    assert fuse(hits(100, k3=5), dense).keys[0] == 1
    assert fuse(hits(6, k2=5), dense).keys[0] == 2


@pytest.mark.parametrize(
    ("coverage", "cosine", "least", "most"),
    [(0.5, 0.9, 0.95, 1.0), (0.0, 0.82, 0.0, 0.05), (0.05, 0.84, 0.0, 0.1), (0.3, 0.91, 0.9, 1.0)],
)
def test_the_best_score_tells_whether_the_subject_is_there(
    coverage: float, cosine: float, least: float, most: float
) -> None:
    lexical = hits(10, k1=10 * coverage) if coverage else NONE
    assert least <= fuse(lexical, hits(k1=cosine)).scores[0] <= most


def test_a_calibration_belongs_to_an_embedder() -> None:
    assert calibration_of("e5-small-q4") == E5 != calibration_of("minilm")
    dense = hits(k1=0.65)
    assert fuse(None, dense, calibration=Calibration(0.2, 0.6)).scores[0] > 0.5 > fuse(None, dense).scores[0]


def test_a_passage_of_the_lexical_arm_gets_its_own_cosine() -> None:
    lexical, dense = hits(10, k1=5, k2=5), hits(k3=0.95, k4=0.85)
    query = np.array([1, 0], np.float32)
    vectors = np.array([[0.6, 0.8], [0.94, 0.34], [0.95, 0.31], [0.85, 0.53]], np.float32)
    known = Candidates(
        query, np.array([1, 2, 3, 4]), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    )
    assert fuse(lexical, dense).keys.tolist().index(1) < fuse(lexical, dense).keys.tolist().index(2)
    assert fuse(lexical, dense, known).keys[0] == 2


def test_candidates_may_miss_some_keys() -> None:
    query = np.array([1, 0], np.float32)
    lexical, dense = hits(10, k1=5), hits(k2=0.9)
    for known in (np.array([2]), np.array([1]), np.array([9, 2])):
        given_vectors = np.tile(np.array([0.9, 0.44], np.float32), (len(known), 1))
        assert len(fuse(lexical, dense, Candidates(query, known, given_vectors))) == 2
    nothing = Candidates(query, np.empty(0, np.int64), np.empty((0, 2), np.float32))
    assert fuse(lexical, dense, nothing).keys.tolist() == fuse(lexical, dense).keys.tolist()


SCORES = st.dictionaries(st.integers(0, 50), st.floats(0, 1, width=32), max_size=20)


@given(SCORES, SCORES, st.floats(0.5, 3))
def test_every_hit_has_one_score_from_0_to_1_and_ties_go_by_key(
    lexical: dict[int, float], dense: dict[int, float], ceiling: float
) -> None:
    fused = fuse(
        hits(ceiling, **{f"k{key}": score for key, score in lexical.items()}),
        hits(**{f"k{key}": score for key, score in dense.items()}),
    )
    assert sorted(fused.keys) == sorted({*lexical, *dense})
    assert all(0 <= score <= 1 for score in fused.scores)
    ranked = list(zip(-fused.scores, fused.keys, strict=True))
    assert ranked == sorted(ranked)
