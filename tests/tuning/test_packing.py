"""Packing: every example is in one row, no row is too long, and rows are few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.tuning.train.packing import first_fit_decreasing, one_to_a_row, padding_share

LENGTHS = st.lists(st.integers(1, 50), max_size=60)


@given(LENGTHS, st.integers(50, 120))
def test_every_example_is_in_one_row_that_holds_it(lengths: list[int], capacity: int) -> None:
    rows = first_fit_decreasing(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity for row in rows)


@given(LENGTHS, st.integers(50, 120))
def test_at_most_one_row_is_half_empty(lengths: list[int], capacity: int) -> None:
    fills = [sum(lengths[index] for index in row) for row in first_fit_decreasing(lengths, capacity)]
    assert sum(2 * fill <= capacity for fill in fills) <= 1
    assert len(fills) <= 2 * -(-sum(lengths) // capacity)


@given(LENGTHS)
def test_rows_of_one_example_begin_with_the_longest(lengths: list[int]) -> None:
    order = [index for (index,) in one_to_a_row(lengths)]
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)


def test_a_length_that_no_row_holds_is_an_error() -> None:
    with pytest.raises(ValueError, match="example 1 has 9 tokens"):
        first_fit_decreasing([3, 9], 8)
    with pytest.raises(ValueError, match="0 tokens"):
        first_fit_decreasing([0], 8)


def test_the_share_of_padding() -> None:
    assert padding_share([[0, 1], [2]], [3, 5, 4], 8) == pytest.approx(0.25)
    assert padding_share([], [], 8) == 0
