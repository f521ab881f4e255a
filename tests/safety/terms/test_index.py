"""The index of terms finds what a plain search finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.safety.terms.index import TermIndex

SIGNS = "ab1 法轮功😀"


@given(
    st.lists(st.text(st.sampled_from(SIGNS), min_size=2, max_size=5), max_size=8, unique=True),
    st.text(st.sampled_from(SIGNS), max_size=40),
)
def test_it_finds_what_a_search_finds(terms: list[str], text: str) -> None:
    def begins_word(at: int) -> bool:
        return not (at and text[at] in "ab1" and text[at - 1] in "ab1")

    expected = {
        (at, at + len(term), number)
        for number, term in enumerate(terms)
        for at in range(len(text))
        if text.startswith(term, at) and begins_word(at)
    }
    found = list(TermIndex(terms).occurrences(text))
    assert set(found) == expected
    assert len(found) == len(expected)


def test_a_single_character_is_no_term() -> None:
    with pytest.raises(ValueError, match="two characters"):
        TermIndex(["法"])
