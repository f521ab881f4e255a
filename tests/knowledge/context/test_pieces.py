"""Contracts of cutting texts: sentences stay whole, and long ones are cut where their sense stays."""

from __future__ import annotations

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.knowledge.context.counting import WordTokens

from deepwell.knowledge.answer.text import is_negated
from deepwell.knowledge.context.pieces import Source, cut

CLAUSES = (
    "the shipment of 48,213 crates left on 12 May 2024",
    "it is not to be opened",
    "Jan de Vries signed for 3.5 kg of copper",
    "nobody in the Port of Rotterdam may enter without a badge",
    "the weather was fine",
    "no one called",
    "Maria van den Berg paid 19 euros",
    "all was well",
)
CLAUSES_ZH = (
    "共有四十八箱货物",
    "不得擅自打开",
    "由Maria Berg于2024年5月12日签收",
    "天气很好",
    "没有人在场",
    "费用为48213元",
)
NAMES = (
    "Jan de Vries",
    "Port of Rotterdam",
    "Maria van den Berg",
    "48,213 crates",
    "12 May 2024",
    "3.5 kg",
    "19 euros",
)


def spans(text: str, room: int) -> list[tuple[int, int]]:
    return [(one.start, one.end) for one in cut([Source.read(text, WordTokens())], room)]


def test_sentences_cover_a_text_with_the_space_before_them() -> None:
    text = "  One is here. Two!\n\n三在这里。四。 "
    pieces = cut([Source.read(text, WordTokens())], 100)
    assert [text[one.start : one.end] for one in pieces] == [
        "  One is here.",
        " Two!",
        "\n\n三在这里。",
        "四。 ",
    ]
    assert sum(one.tokens for one in pieces) == WordTokens().count(text)


def test_a_text_without_words_is_one_piece() -> None:
    assert spans("", 10) == []
    assert spans(" \n ", 10) == [(0, 3)]


@given(
    clauses=st.lists(st.sampled_from(CLAUSES), min_size=2, max_size=30),
    marks=st.lists(st.sampled_from([", ", "; ", " and then "]), min_size=30, max_size=30),
    room=st.integers(5, 60),
)
@settings(max_examples=150, deadline=None)
def test_no_number_and_no_name_is_cut(clauses: list[str], marks: list[str], room: int) -> None:
    text = "".join(clause + mark for clause, mark in zip(clauses, marks, strict=False))
    found = spans(text, room)
    assert found[0][0] == 0
    assert found[-1][1] == len(text)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    edges = {start for start, _ in found}
    for name in NAMES:
        for one in re.finditer(re.escape(name), text):
            assert not edges & set(range(one.start() + 1, one.end()))
    assert all(not (text[at - 1].isalnum() and text[at].isalnum()) for at in edges if at)


@given(clauses=st.lists(st.sampled_from(CLAUSES), min_size=4, max_size=30), room=st.integers(5, 60))
@settings(max_examples=150, deadline=None)
def test_what_denies_stays_with_its_neighbours(clauses: list[str], room: int) -> None:
    text = ", ".join(clauses)
    found = spans(text, room)
    at = 0
    owners: list[tuple[int, int]] = []  # pieces in which each clause begins and ends
    for clause in clauses:
        inside = [n for n, (a, b) in enumerate(found) if a < at + len(clause) and b > at]
        owners.append((inside[0], inside[-1]))
        at += len(clause) + 2
    for number, clause in enumerate(clauses):
        if is_negated(clause):
            first, last = owners[number]
            assert first == last
            assert number == 0 or owners[number - 1][1] == first
            assert number + 1 == len(clauses) or owners[number + 1][0] == first


@given(clauses=st.lists(st.sampled_from(CLAUSES_ZH), min_size=3, max_size=30), room=st.integers(8, 40))
@settings(max_examples=100, deadline=None)
def test_chinese_is_cut_at_its_marks_and_no_number_is_cut(clauses: list[str], room: int) -> None:
    text = "，".join(clauses)
    edges = {start for start, _ in spans(text, room)}
    for name in ("四十八", "Maria Berg", "2024", "48213", "不得擅自打开", "没有人在场"):
        for one in re.finditer(name, text):
            assert not edges & set(range(one.start() + 1, one.end()))


def test_a_long_sentence_is_cut_into_pieces_that_fit() -> None:
    text = "the road goes on " * 200
    pieces = cut([Source.read(text, WordTokens())], 30)
    assert len(pieces) > 20
    assert max(one.tokens for one in pieces) <= 30
    assert {one.sentence for one in pieces} == {0}
