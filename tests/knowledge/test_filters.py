"""Filters with OpenAI's operators."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.knowledge.filters import check_filter, matches

ATTRIBUTES = {"year": 2024.0, "name": "Ann", "final": True}


def one(kind, key, value):
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("given_filter", "expected"),
    [
        (one("eq", "year", 2024), True),
        (one("eq", "name", "Bob"), False),
        (one("ne", "name", "Bob"), True),
        (one("ne", "missing", "x"), True),
        (one("eq", "missing", "x"), False),
        (one("gt", "year", 2023), True),
        (one("gte", "year", 2024), True),
        (one("lt", "year", 2024), False),
        (one("lte", "name", "Annie"), True),
        (one("gt", "name", 3), False),
        (one("gt", "missing", 3), False),
        (one("eq", "final", True), True),
        (one("eq", "final", 1), False),
        (one("in", "name", ["Ann", "Bob"]), True),
        (one("nin", "name", ["Ann"]), False),
        (one("nin", "missing", ["Ann"]), True),
        ({"type": "and", "filters": [one("eq", "year", 2024), one("eq", "name", "Ann")]}, True),
        ({"type": "and", "filters": [one("eq", "year", 2024), one("eq", "name", "Bob")]}, False),
        ({"type": "or", "filters": [one("eq", "year", 1), one("eq", "name", "Ann")]}, True),
    ],
)
def test_operators(given_filter, expected):
    check_filter(given_filter)
    assert matches(given_filter, ATTRIBUTES) is expected


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {"type": "like", "key": "a", "value": "b"},
        {"type": "eq", "value": 1},
        {"type": "eq", "key": "", "value": 1},
        {"type": "eq", "key": "a", "value": None},
        {"type": "eq", "key": "a", "value": [1]},
        {"type": "in", "key": "a", "value": "abc"},
        {"type": "gt", "key": "a", "value": True},
        {"type": "and", "filters": []},
        {"type": "and", "filters": "x"},
        {"type": "and", "filters": [{}]},
        {"type": "eq", "key": "a", "value": 1, "extra": 2},
        {"type": "eq", "key": "a", "value": float("nan")},
        {"type": "gt", "key": "a", "value": float("inf")},
        {"type": "in", "key": "a", "value": [1, float("-inf")]},
        {"type": "eq", "key": "a", "value": "half a pair \ud800"},
        {"type": "eq", "key": "\ud800", "value": 1},
    ],
)
def test_what_is_no_filter_is_refused(wrong):
    with pytest.raises(InvalidRequest):
        check_filter(wrong)


def test_deep_and_wide_filters_are_refused():
    deep = one("eq", "a", 1)
    for _ in range(20):
        deep = {"type": "and", "filters": [deep]}
    for wrong in (deep, {"type": "or", "filters": [one("eq", "a", 1)] * 1000}):
        with pytest.raises(InvalidRequest, match="at most"):
            check_filter(wrong)


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_anything_is_checked_without_a_crash(anything):
    try:
        check_filter(anything)
    except InvalidRequest:
        return
    matches(anything, ATTRIBUTES)
