"""Metrics on a tiny model: labels as the evaluation scores them, exact answers, graders, and rows that do not fit."""

from __future__ import annotations

import math

import pytest
from tests.tuning.prompts.conftest import rows

from deepwell import LLM
from deepwell.dialogue.prompts.text import PromptText
from deepwell.errors import InvalidRequest
from deepwell.tuning.evaluate.graders import parse_grader
from deepwell.tuning.evaluate.likelihood import Scorer
from deepwell.tuning.evaluate.subjects import Subject, SubjectName
from deepwell.tuning.evaluate.tasks import Prompt
from deepwell.tuning.prompts.metrics import ExactMetric, GraderMetric, LabelMetric, plain
from deepwell.tuning.prompts.rows import Row
from deepwell.tuning.prompts.run import Data, optimise
from deepwell.tuning.prompts.search import Plan

LABELS = ("yes", "no, never")
TALKS = [
    [{"role": "system", "content": "Is it so?"}, {"role": "user", "content": text}]
    for text in ("hello", "12", "ll")
]
ROWS = [Row(str(number), talk[1]["content"], LABELS[number % 2], {}) for number, talk in enumerate(TALKS)]


def test_labels_are_scored_as_the_evaluation_scores_choices(tiny: LLM) -> None:
    found = LabelMetric(tiny, LABELS).ask(TALKS, ROWS)
    prompts = [Prompt(n, tuple(talk), "", LABELS, n % 2, "") for n, talk in enumerate(TALKS)]
    scores = Scorer(Subject(SubjectName("tiny", "tiny"), tiny), chat=True).choices(prompts, lambda _: None)
    for outcome, score, row, talk in zip(found, scores, ROWS, TALKS, strict=True):
        assert outcome.answer == LABELS[score.best()] and outcome.passed == (outcome.answer == row.answer)
        assert -math.log(outcome.chance) == pytest.approx(score.loss(LABELS.index(row.answer)), abs=1e-5)
        assert outcome.prompt_tokens == len(tiny.tokenize(talk)) and outcome.answer_tokens == sum(
            score.tokens
        )
    with pytest.raises(InvalidRequest, match="1 labels"):
        LabelMetric(tiny, ["yes"])


def test_a_row_that_does_not_fit_the_context_counts_as_wrong(tiny: LLM) -> None:
    long = [{"role": "user", "content": "x" * 600}]
    for metric in (LabelMetric(tiny, LABELS), ExactMetric(tiny, max_tokens=4)):
        fits, refused = metric.ask([TALKS[0], long], ROWS[:2])
        assert (fits.refused, refused.refused, refused.score) == (False, True, 0.0)


def test_exact_answers_forgive_case_blanks_and_a_full_stop(tiny: LLM) -> None:
    metric = ExactMetric(tiny, max_tokens=4)
    said = tiny.chat(TALKS[0], temperature=0, max_tokens=4).text
    same = Row("0", "hello", f" {said.upper()}.", {})
    assert [one.score for one in metric.ask([TALKS[0]] * 2, [same, ROWS[0]])] == [1.0, 0.0]


def test_what_an_exact_match_passes_over_is_found_in_one_pass() -> None:
    assert plain(" Ja. 。! ") == "ja"
    assert plain(" .!。 ") == ""
    # A quadratic search for the end would take an hour.
    assert plain("." * 300_000 + "x") == "." * 300_000 + "x"
    assert plain("x" + ". " * 200_000) == "x"


def test_a_grader_judges_answers_by_the_fields_of_the_row(tiny: LLM) -> None:
    said = tiny.chat(TALKS[0], temperature=0, max_tokens=4).text
    check = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{ sample.output_text }}"}
    grader = parse_grader(check | {"reference": "{{ item.word }}"})
    rows = [Row("0", "hello", "", {"word": said}), Row("1", "hello", "", {"word": "other"})]
    assert [one.passed for one in GraderMetric(tiny, grader, max_tokens=4).ask([TALKS[0]] * 2, rows)] == [
        True,
        False,
    ]
    wrong = parse_grader(check | {"reference": "{{ item.wort }}"})
    with pytest.raises(InvalidRequest, match="wort"):
        GraderMetric(tiny, wrong, max_tokens=4).ask([TALKS[0]], rows[:1])
    judge = {"type": "score_model", "name": "j", "model": "m", "input": [{"role": "user", "content": "x"}]}
    with pytest.raises(InvalidRequest, match="score_model"):
        GraderMetric(tiny, parse_grader(judge))


def test_a_model_proposes_rewrites_that_cost_calls(tiny: LLM) -> None:
    start = PromptText("Say yes or no.")
    data = Data(rows(0, 40), rows(100, 40), lambda: rows(200, 20))
    metric = LabelMetric(tiny, ("a", "b"))
    found = optimise(tiny, start, metric, data, calls=100, plan=Plan(rewrites=1, edits=2, most_examples=2))
    assert found.spent.calls <= 100 and found.spent.prompt_tokens > 0
