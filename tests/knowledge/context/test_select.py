"""Contracts of the choice of pieces."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deepwell.knowledge.context.select import Choice, choose, evidence, spare, surrounded


@given(
    scores=arrays.arrays(np.float64, (3, 12), elements=st.floats(0, 1)),
    costs=arrays.arrays(np.int64, 12, elements=st.integers(1, 20)),
    budget=st.integers(0, 100),
)
@settings(max_examples=100, deadline=None)
def test_the_budget_is_kept_and_filled(scores, costs, budget) -> None:
    found = choose(scores, costs, budget)
    assert len(set(found)) == len(found)
    used = int(costs[found].sum())
    assert used <= budget
    rest = [int(cost) for index, cost in enumerate(costs) if index not in found]
    assert not rest or used + min(rest) > budget
    assert found == choose(scores.copy(), costs.copy(), budget)


def test_each_part_of_a_question_gets_its_piece() -> None:
    # Three pieces fit the first part well, and one the second.
    whole = np.array([0.9, 0.85, 0.8, 0.4, 0.1])
    first = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    second = np.array([0.0, 0.0, 0.0, 1.0, 0.0])
    costs = np.ones(5, np.int64)
    assert choose(whole[None], costs, 2) == [0, 1]
    assert choose(np.stack([whole, first, second]), costs, 2, Choice(0.8, 0.9, 0.0)) == [0, 3]


def test_equal_pieces_are_taken_from_the_front() -> None:
    assert choose(np.full((1, 4), 0.5), np.ones(4, np.int64), 3) == [0, 1, 2]


def test_the_cost_of_seams_counts() -> None:
    asked: list[tuple[int, set[int]]] = []

    def seams(index: int, taken: set[int]) -> int:
        asked.append((index, set(taken)))
        return 3

    assert choose(np.array([[0.9, 0.8, 0.7]]), np.full(3, 2), 10, extra=seams) == [0, 1]
    assert asked[:2] == [(0, set()), (1, {0})]


def best_of_all(scores, costs, budget, weights, extra) -> list[int]:
    """The choice as it is defined: of all pieces that may still fit, the one of most worth, again and again."""
    scores = scores / np.maximum(scores.max(1, keepdims=True), 1e-9)
    left, chosen, open_parts = budget, [], np.ones(len(scores) - 1)
    free = {index for index in range(len(costs)) if costs[index] <= budget}
    while free:
        needed = (open_parts[:, None] * scores[1:]).sum(0) / max(len(scores) - 1, 1)
        worth = scores[0] if len(scores) == 1 else (1 - weights.parts) * scores[0] + weights.parts * needed
        worth = worth / np.maximum(costs, 1).astype(np.float64) ** weights.size
        best = max(free, key=lambda index: (worth[index], -index))
        free.remove(best)
        cost = int(costs[best]) + extra(best, set(chosen))
        if cost > left:
            continue
        left -= cost
        chosen.append(best)
        open_parts *= 1 - weights.covered * scores[1:, best]
        free = {index for index in free if costs[index] <= left}
    return chosen


@given(
    scores=arrays.arrays(np.float64, st.tuples(st.integers(1, 3), st.just(16)), elements=st.floats(0, 1)),
    costs=arrays.arrays(np.int64, 16, elements=st.integers(0, 9)),
    budget=st.integers(0, 40),
    seam=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_pieces_that_do_not_fit_change_nothing(scores, costs, budget, seam) -> None:
    def extra(index: int, taken: set[int]) -> int:
        return (seam * index + len(taken)) % 5 - 1

    expected = best_of_all(scores, costs, budget, Choice(), extra)
    assert choose(scores, costs, budget, extra=extra) == expected


def test_a_hundred_thousand_sentences_that_do_not_fit_are_passed_over() -> None:
    count = 100_000
    scores = np.linspace(1, 0.5, count)[None]
    asked: list[int] = []

    def extra(index: int, taken: set[int]) -> int:
        asked.append(index)
        return 4 if taken else 0

    assert choose(scores, np.full(count, 2), 6, Choice(size=0.0), extra=extra) == [0]
    assert asked == list(range(count))


def test_what_stands_out_for_each_part_is_evidence() -> None:
    whole = np.full(8, 0.2)
    first, second = np.full(8, 0.3), np.full(8, 0.3)
    first[2], second[5], second[6] = 0.9, 0.8, 0.78
    assert evidence(np.stack([whole, first, second])) == [2, 5, 6]


def test_a_part_for_which_nothing_stands_out_leaves_no_evidence() -> None:
    first = np.full(8, 0.3)
    first[2] = 0.9
    assert evidence(np.stack([np.full(8, 0.2), first, np.full(8, 0.3)])) == []
    assert evidence(np.zeros((1, 3))) == [] and evidence(np.zeros((1, 0))) == []


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(0, 60), st.data())
def test_surroundings_stay_in_their_text_and_budget(
    costs: list[int], budget: int, data: st.DataObject
) -> None:
    places = st.integers(0, len(costs) - 1)
    found = data.draw(st.lists(places, min_size=1, max_size=3, unique=True))
    leaning = data.draw(st.sets(places))
    sources = sorted(data.draw(st.lists(st.integers(0, 3), min_size=len(costs), max_size=len(costs))))
    taken = surrounded(found, sources, np.array(costs, np.int64), leaning.__contains__, budget)
    assert taken[: len(found)] == found and len(set(taken)) == len(taken)
    assert {sources[one] for one in taken} == {sources[one] for one in found}
    needed = {
        near
        for one in found
        for near, by in ((one - 1, one), (one + 1, one + 1))
        if 0 <= near < len(costs) and by in leaning and sources[near] == sources[one]
    }
    assert needed <= set(taken)
    assert sum(costs[one] for one in taken if one not in {*found, *needed}) <= budget


def test_surroundings_grow_on_both_sides() -> None:
    costs = np.full(9, 10, np.int64)
    assert sorted(surrounded([4], [0] * 9, costs, lambda _: False, 40)) == [2, 3, 4, 5, 6]


def test_what_has_most_words_of_every_part_stands_alone() -> None:
    whole, first, second = np.full(8, 0.2), np.full(8, 0.1), np.full(8, 0.1)
    first[2], second[5] = 0.5, 0.4
    assert spare(np.stack([whole, first, second]), [2, 5], 64) == 0
    second[5] = 0.3  # few words of the second part
    assert spare(np.stack([whole, first, second]), [2, 5], 64) == 64
    assert spare(first[None], [2], 64) == 0 and spare(whole[None], [2], 64) == 64
