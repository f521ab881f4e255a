"""Reranking: the order of search and reranker together, the scores of the places, and the bounds of its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.documents import Passage, Place
from deepwell.knowledge.rerank import (
    MOST_PASSAGES,
    MOST_TOKENS,
    LikelihoodReranker,
    passage_prompt,
    reordered,
    titled,
)


class Judge(LikelihoodReranker):
    """A token is a character, and a passage is the likelier the longer it is."""

    def __init__(self, context: int = 100_000) -> None:
        self.context = context
        self.batches: list[list[tuple[str, str]]] = []

    @property
    def _context_tokens(self) -> int:
        return self.context

    async def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return [[0, *map(ord, text)] for text in texts]

    def _unframed(self, tokens: list[int]) -> list[int]:
        return tokens[1:]

    async def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        self.batches.append([("".join(map(chr, one[1:])), "".join(map(chr, two))) for one, two in pairs])
        return [-1 / len(prompt) for prompt, _ in pairs]


def passages(*scores: float) -> list[Passage]:
    return [Passage(key, "file", "a.txt", score, f"text {key}") for key, score in enumerate(scores)]


def keys(found: Sequence[Passage]) -> list[int]:
    return [one.key for one in found]


def test_search_and_reranker_count_the_same() -> None:
    found = passages(0.9, 0.8, 0.7, 0.1)
    assert keys(reordered(found, [-5, -1, -5, -5])) == [1, 0, 2, 3]
    assert keys(reordered(found, [-5, -5, -5, -1])) != keys(found)
    assert keys(reordered(found, [-1, -2, -3, -9])) == keys(found)


def test_equal_passages_keep_their_order() -> None:
    assert keys(reordered(passages(0.5, 0.5, 0.5), [-2, -2, -2])) == [0, 1, 2]
    assert keys(reordered(passages(0.9, 0.8, 0.1), [-3, -3, -3])) == [0, 1, 2]
    assert keys(reordered(passages(0.5, 0.5, 0.5), [-3, -1, -2])) == [1, 2, 0]
    # The two are as far apart for the one as for the other.
    assert keys(reordered(passages(0.9, 0.4), [-3, -1])) == [0, 1]


def test_scores_belong_to_the_places() -> None:
    moved = reordered(passages(0.9, 0.8, 0.7, 0.6), [-9, -9, -1, -9])
    assert keys(moved)[0] == 2
    assert [one.score for one in moved] == [0.9, 0.8, 0.7, 0.6]


def test_what_was_not_judged_stays_behind() -> None:
    moved = reordered(passages(0.9, 0.8, 0.7, 0.6, 0.5), [-9, -9, -1])
    assert keys(moved) == [0, 2, 1, 3, 4]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-50, 0)), max_size=25),
    st.integers(0, 25),
)
def test_nothing_is_lost_and_scores_fall_with_the_order(
    pairs: list[tuple[float, float]], judged: int
) -> None:
    found = passages(*sorted((score for score, _ in pairs), reverse=True))
    moved = reordered(found, [likelihood for _, likelihood in pairs][:judged])
    assert sorted(keys(moved)) == keys(found)
    assert [one.score for one in moved] == [one.score for one in found]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_likelihood_that_is_no_number_has_no_say(broken: float) -> None:
    assert keys(reordered(passages(0.9, 0.8, 0.7), [-1.0, broken, -0.5])) == [0, 1, 2]


async def test_all_candidates_are_one_batch() -> None:
    judge = Judge()
    scores = await judge.rerank("why", ["one", "three"])
    assert scores[1] > scores[0]
    assert judge.batches == [[(passage_prompt("one"), " why"), (passage_prompt("three"), " why")]]


async def test_passages_tokens_and_context_are_bounded() -> None:
    assert len(await Judge().rerank("why", ["a"] * 50)) == MOST_PASSAGES
    whole = MOST_TOKENS // 5 - len(passage_prompt("")) - len(" why") - 1
    assert len(await Judge().rerank("why", ["a" * whole] * 9)) == 5
    assert len(await Judge().rerank("why", ["a" * (whole + 1)] * 9)) == 4
    small = Judge(context=100)
    assert len(await small.rerank("why", ["a", "b", "c" * 90, "d"])) == 2
    shared = Judge()
    shared.most_tokens = MOST_TOKENS // 2
    assert len(await shared.rerank("why", ["a" * whole] * 9)) == 2


async def test_what_leaves_nothing_to_order_is_an_error() -> None:
    judge = Judge()
    with pytest.raises(ContextLengthExceeded, match="at least two") as error:
        await judge.rerank("why " * MOST_TOKENS, ["a", "b"])
    assert error.value.fix and str(MOST_TOKENS) in str(error.value)
    assert judge.batches == []


def test_headings_stand_above_a_text_that_does_not_have_them() -> None:
    place = Place(headings=("Leave", "Annual leave"))
    above = Passage(1, "f", "a.txt", 0.5, "26 days a year.", place=place)
    assert titled(above) == "Leave > Annual leave\n26 days a year."
    inside = Passage(1, "f", "a.txt", 0.5, "# Leave\n26 days a year.", place=Place(headings=("Leave",)))
    assert titled(inside) == inside.text
