"""The written questions: frozen, disjoint, and their patterns mean something."""

from __future__ import annotations

import re

from deepwell_bench.workloads.knowledge.answers import (
    AnswerQuestion,
    development_answers,
    held_answers,
    normalised,
)


def pages(questions: list[AnswerQuestion]) -> set[str]:
    return {one.golds[0].split("#")[0] for one in questions if one.golds}


def test_the_sets_are_apart() -> None:
    held, development = held_answers(), development_answers()
    assert not pages(held) & pages(development)
    assert not {one.question for one in held} & {one.question for one in development}
    for language in ("en", "zh"):
        own = [one for one in held if one.language == language]
        assert sum(bool(one.golds) for one in own) >= 52
        assert sum(not one.golds for one in own) >= 50


def test_a_question_does_not_give_its_answer_away() -> None:
    for one in held_answers() + development_answers():
        assert bool(one.golds) == bool(one.pattern)
        assert len(set(one.golds)) == len(one.golds)
        assert all(gold.count("#") == 1 for gold in one.golds)
        re.compile(one.pattern)
        assert not one.is_answered("")


def test_marks_and_forms_do_not_matter() -> None:
    assert normalised("Ｐress  F5 [1].") == "press f5 ."
    assert AnswerQuestion("en", ("p#1",), "Which key?", r"\bf5\b").is_answered("Press F5 [12].")
    assert not AnswerQuestion("en", (), "Who?", "").is_answered("anything")
