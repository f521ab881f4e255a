"""Statements of a text and the questions that rules make of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.knowledge.context.rehearsal import rehearsals, rehearse

STATEMENTS = [
    "The locker number at the Kiel gym is 48213.",
    "The Aarhus choir is conducted by Bruno Novak.",
    "The Cork bridge closes for repairs on 4 May 1990.",
    "Bus line 421 serves the Graz hospital.",
    "The flag of the Porto rowing club is pale blue.",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_answers_its_own_questions(statement: str) -> None:
    [found] = rehearse([f"It rained. {statement} The day was long."], 8)
    assert found.text == statement
    assert len(found.questions) >= 4
    value = {"48213", "Bruno Novak", "4 May 1990", "421", "pale blue"}
    asked = [one for one in found.questions if not any(v in one for v in value)]
    assert len(asked) >= 4  # questions do not hold their answer


def test_a_sentence_that_leans_on_the_one_before_it_stays_behind_it() -> None:
    [found] = rehearse(["The Jena bakery bought a new oven in May. Its serial number is 55310."], 1)
    assert found.text == "The Jena bakery bought a new oven in May. Its serial number is 55310."


def test_the_rarest_statements_are_chosen() -> None:
    common = [f"LibreOffice opens the dialog of LibreOffice at step {number % 3}." for number in range(40)]
    found = rehearse([*common, STATEMENTS[0]], 1)
    assert [one.text for one in found] == [STATEMENTS[0]]


def test_questions_and_plain_talk_state_nothing() -> None:
    assert rehearse(["How are you today?", "That is all very well for now.", "Fine:"], 8) == []


def test_records_are_the_same_for_the_same_text() -> None:
    found = rehearsals(STATEMENTS)
    assert found == rehearsals(STATEMENTS)
    answers = {one["content"] for record in found for one in record["messages"][1::2]}
    assert answers == set(STATEMENTS)


@given(st.lists(st.text(max_size=200), max_size=5))
def test_every_answer_stands_in_the_text(texts: list[str]) -> None:
    whole = " ".join(" ".join(text.split()) for text in texts)
    for one in rehearse(texts, 8):
        assert one.text in whole
        assert all(question.strip() for question in one.questions)
