"""Expressions of beginnings: every beginning of a match matches, and what cannot become one does not."""

from __future__ import annotations

import re

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from deepwell.safety.personal import KINDS
from deepwell.safety.secrets import FORMS
from deepwell.safety.streaming.prefixes import prefixes

PATTERNS = [
    *(kind.pattern for kind in KINDS),
    *(form.pattern for form in FORMS),
    *(one.lead + one.pattern for one in (*KINDS, *FORMS) if one.lead),
]


def generated(pattern: str) -> st.SearchStrategy[str]:
    """Returns texts that a pattern matches; Python has no name for the characters of a script."""
    python = pattern.replace(r"[\p{Han}", "[\u4e00-\u9fa5").replace(r"\p{Han}", "[\u4e00-\u9fa5]")
    return st.from_regex(re.compile(python, re.ASCII), fullmatch=True).filter(lambda text: len(text) < 300)


@given(st.data())
def test_every_beginning_of_every_value_matches(data: st.DataObject) -> None:
    pattern = data.draw(st.sampled_from(PATTERNS))
    text = data.draw(generated(pattern))
    beginnings = re2.compile(prefixes(pattern))
    for end in range(len(text) + 1):
        assert beginnings.fullmatch(text[:end]), (pattern, text[:end])


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"\babc\b", ["a", "ab", "abc"], ["b", "abcd", "abd", "ac"]),
        ("a{2,3}b", ["", "a", "aa", "aaa", "aab", "aaab"], ["ab", "aaaa", "b"]),
        ("(?:ab){2}c?", ["a", "ab", "aba", "abab", "ababc"], ["abb", "ababa", "c"]),
        ("(?:ab|cd)+x", ["a", "c", "abc", "abcda", "abx"], ["x", "abd", "ad"]),
        ("(?i)key[:=][0-9]*?z", ["K", "Key", "KEY:", "key=12", "KEY=1z"], ["e", "key1", "=1"]),
        (r"[^\]\d-][]x]", ["a", "ax", "a]"], ["-", "1", "ab"]),
        (r"\.\p{Han}{1,2}", [".", ".中", ".中国"], [".a", "中"]),
    ],
)
def test_beginnings_are_those_and_no_others(pattern: str, good: list[str], bad: list[str]) -> None:
    beginnings = re2.compile(prefixes(pattern))
    assert [text for text in good if not beginnings.fullmatch(text)] == []
    assert [text for text in bad if beginnings.fullmatch(text)] == []


@pytest.mark.parametrize("pattern", ["(a)", "(?P<a>b)", "(?=a)b", "*a", "(?:a", "a)"])
def test_syntax_that_is_not_known_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=" of "):
        prefixes(pattern)
