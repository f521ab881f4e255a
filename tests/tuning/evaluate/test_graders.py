"""Graders: templates, judgements, and the reasons of those that give none."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from deepwell.errors import EngineUnavailable, InvalidRequest
from deepwell.tuning.evaluate.graders import Grade, ModelAnswer, parse_grader, run_grader, sample_of
from deepwell.tuning.evaluate.templates import UnknownVariable, check_template, render

ITEM = {"city": "Paris", "tags": ["a", {"x y": 7}], "evil": "{{ sample.output_text }}", "none": None}


class Judge:
    """Answers every conversation alike and keeps what it was asked."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        self.text, self.refused = text, refused
        self.asked: list[tuple[str, Sequence[Mapping[str, str]], Mapping[str, Any], Mapping[str, Any]]] = []

    async def answer(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        schema: Mapping[str, Any],
        sampling: Mapping[str, Any],
    ) -> ModelAnswer:
        self.asked.append((model, messages, schema, sampling))
        return ModelAnswer(self.text, 12, self.refused)


class Vectors:
    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(len(text)), 1.0] for text in texts]


async def graded(given: Any, text: str = "It is paris.", **others: Any) -> Grade:
    return await run_grader(parse_grader(given), item=ITEM, sample=sample_of(text), **others)


def string_check(operation: str, reference: str = "{{ item.city }}") -> dict[str, str]:
    return {
        "type": "string_check",
        "name": "city",
        "operation": operation,
        "input": "{{sample.output_text}}",
        "reference": reference,
    }


def test_templates_read_paths():
    assert render("{{item.tags[0]}}-{{ item.tags[1]['x y'] }}-{{item.tags}}", item=ITEM) == (
        'a-7-["a", {"x y": 7}]'
    )
    sample = sample_of(
        '{"a": [1]}', tool_calls=[{"function": {"name": "f"}}], choices=[{"message": {"content": "b"}}]
    )
    text = (
        "{{ sample.output_json.a[0] }} {{ sample.output_tools[0].function.name }} "
        "{{ sample.choices[0].message.content }} {{ item.none }}"
    )
    assert render(text, item=ITEM, sample=sample) == "1 f b null"


def test_values_are_not_templates():
    assert render("{{ item.evil }}", item=ITEM, sample={"output_text": "x"}) == "{{ sample.output_text }}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ item.__class__ }}",
        "{{ item.city.upper }}",
        "{{ item.tags[9] }}",
        "{{ item.tags.append }}",
        "{{ sample.no }}",
    ],
)
def test_attributes_and_missing_fields_have_no_value(template: str):
    with pytest.raises(UnknownVariable, match="has no value"):
        render(template, item=ITEM)


@pytest.mark.parametrize(
    "template",
    [
        "{{ city }}",
        "{{ item }}",
        "{{ item.a + 1 }}",
        "{{ self.x }}",
        "{{ item['a }}",
        "{{}}",
        "{{ item.x | upper }}",
        "{{ ''.__class__ }}",
    ],
)
def test_unreadable_templates_are_refused(template: str):
    with pytest.raises(InvalidRequest, match="the template has"):
        check_template(template)


def test_braces_that_are_never_closed_are_text():
    """Ten million of them are read at once: a search to the end for each would take days."""
    text = "{" * 10_000_000
    assert render(text, item={}) == text
    assert render("{{ item.x }}{{ item.x }}}{{", item={"x": "y"}) == "yy}{{"


def test_a_rendered_text_has_a_limit():
    with pytest.raises(InvalidRequest, match="longer than a million"):
        render("{{ item.x }}" * 11, item={"x": "y" * 100_000})


@pytest.mark.parametrize(
    ("operation", "reference", "score"),
    [
        ("eq", "It is paris.", 1),
        ("eq", "it is paris.", 0),
        ("ne", "Paris", 1),
        ("ne", "It is paris.", 0),
        ("like", "paris", 1),
        ("like", "{{ item.city }}", 0),
        ("ilike", "{{ item.city }}", 1),
        ("ilike", "Rome", 0),
    ],
)
async def test_string_check(operation: str, reference: str, score: int):
    grade = await graded(string_check(operation, reference))
    assert (grade.score, grade.passed, grade.error) == (score, bool(score), None)


async def test_long_texts_are_compared_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch):
    threads: list[int] = []

    def similarity(*_: str) -> float:
        threads.append(threading.get_ident())
        return 1.0

    monkeypatch.setattr("deepwell.tuning.evaluate.graders.similarity", similarity)
    given = {"type": "text_similarity", "name": "near", "input": "{{ item.x }}", "reference": "a"}
    for x in ("a", "a" * 10_000):
        await run_grader(
            parse_grader({**given, "evaluation_metric": "fuzzy_match"}), item={"x": x}, sample={}
        )
    assert threads[0] == threading.get_ident() != threads[1]


async def test_text_similarity_and_its_threshold():
    given = {
        "type": "text_similarity",
        "name": "near",
        "input": "{{ sample.output_text }}",
        "reference": "It is Paris.",
        "evaluation_metric": "fuzzy_match",
    }
    assert (await graded(given)).score == pytest.approx(11 / 12)
    assert (await graded(given)).passed
    assert not (await graded({**given, "pass_threshold": 0.95})).passed
    cosine = await graded({**given, "evaluation_metric": "cosine"}, embedder=Vectors())
    assert cosine.score == pytest.approx(1.0)
    assert (await graded({**given, "evaluation_metric": "cosine"})).error == "other_error"


LABEL = {
    "type": "label_model",
    "name": "tone",
    "model": "judge",
    "input": [
        {"role": "developer", "content": "Judge."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "{{ sample.output_text }}"}, "{{ item.city }}"],
        },
    ],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
SCORE = {"type": "score_model", "name": "how", "model": "judge", "input": LABEL["input"], "range": [1, 5]}


async def test_label_model():
    judge = Judge('{"result": "good"}')
    grade = await graded(LABEL, model=judge)
    assert (grade.score, grade.passed, grade.label, grade.tokens) == (1, True, "good", {"judge": 12})
    model, messages, schema, _ = judge.asked[0]
    assert model == "judge"
    assert messages[1] == {"role": "user", "content": "It is paris.\nParis"}
    assert schema["properties"]["result"]["enum"] == ["good", "bad"]
    assert not (await graded(LABEL, model=Judge('{"result": "bad"}'))).passed


async def test_score_model():
    judge = Judge('{"result": 3.5}')
    given = {**SCORE, "sampling_params": {"temperature": 0, "seed": 7}}
    grade = await graded(given, model=judge)
    assert (grade.score, grade.passed) == (3.5, True)
    assert judge.asked[0][3] == {"temperature": 0, "seed": 7}
    assert not (await graded({**SCORE, "pass_threshold": 4}, model=judge)).passed


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (LABEL, '{"result": "ugly"}'),
        (LABEL, "good"),
        (LABEL, '["good"]'),
        (SCORE, '{"result": "4"}'),
        (SCORE, '{"result": true}'),
        (SCORE, '{"result": 9}'),
        (SCORE, '{"result": NaN}'),
        (SCORE, '{"result": ' + "9" * 400 + "}"),
        (SCORE, "[" * 100_000),
    ],
)
async def test_unusable_answers_of_judges_are_errors(given: dict[str, Any], text: str):
    grade = await graded(given, model=Judge(text))
    assert (grade.score, grade.passed, grade.error) == (0, False, "model_grader_parse_error")
    assert grade.tokens == {"judge": 12}


async def test_refusals_and_failures_of_judges_are_told_apart():
    class Broken(Judge):
        async def answer(self, *_: Any, **__: Any) -> ModelAnswer:
            raise EngineUnavailable("no engine", fix="wait")

    assert (await graded(LABEL, model=Judge("", refused=True))).error == "model_grader_refusal_error"
    assert (await graded(LABEL, model=Broken(""))).error == "model_grader_server_error"
    assert (await graded(LABEL)).error == "other_error"


async def test_multi_computes_a_formula():
    given = {
        "type": "multi",
        "name": "both",
        "graders": {"exact": string_check("eq"), "near": string_check("ilike"), "score": SCORE},
        "calculate_output": "0.25 * exact + 0.5 * near + score / 20",
    }
    grade = await graded(given, model=Judge('{"result": 5}'))
    assert grade.score == pytest.approx(0.75)
    assert grade.scores == {"exact": 0, "near": 1, "score": 5}
    assert grade.tokens == {"judge": 12}
    failing = await graded(given, model=Judge("?"))
    assert (failing.error, failing.score) == ("model_grader_parse_error", 0)
    divided = await graded({**given, "calculate_output": "1 / exact"}, model=Judge('{"result": 5}'))
    assert divided.error == "formula_parse_error"


async def test_multi_takes_one_grader_as_the_sdk_types_it():
    given = {"type": "multi", "name": "m", "graders": string_check("ilike"), "calculate_output": "city * 2"}
    assert (await graded(given)).score == 2


async def test_missing_variables_are_an_error_of_the_grade():
    grade = await graded(string_check("eq", "{{ item.country }}"))
    assert grade.error == "invalid_variable_error"
    assert "item has: city" in grade.detail


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        (string_check("matches"), "grader.operation", "Input should be"),
        ({**string_check("eq"), "reference": "{{ env.KEY }}"}, "grader.reference", "item.field"),
        ({**string_check("eq"), "extra": 1}, "grader.extra", "Extra inputs"),
        ({**LABEL, "passing_labels": ["great"]}, "grader", "no label"),
        ({**SCORE, "range": [1, 1]}, "grader", "smaller and a larger"),
        (
            {"type": "multi", "name": "m", "graders": {"a": LABEL}, "calculate_output": "a + b"},
            "grader.calculate_output",
            "'b'",
        ),
        ({"type": "python", "name": "p", "source": "print(1)"}, "grader.type", "execute code"),
        (
            {
                "type": "multi",
                "name": "m",
                "graders": {"p": {"type": "python", "name": "p", "source": ""}},
                "calculate_output": "p",
            },
            "grader.graders.p.type",
            "execute code",
        ),
        ("string_check", "grader", "valid dictionary"),
        ({**string_check("eq"), "input": "{{item.a}}" * 1001}, "grader", "more than 1000 variables"),
        ({**SCORE, "input": [{"role": "user", "content": "{{item.a}}"}] * 1001}, "grader", "more than 1000"),
    ],
)
def test_mistakes_are_refused_with_their_place(given: Any, param: str, words: str):
    with pytest.raises(InvalidRequest, match=words) as refused:
        parse_grader(given)
    assert refused.value.param == param


def test_samples_parse_json():
    assert sample_of(json.dumps({"a": 1}))["output_json"] == {"a": 1}
    assert "output_json" not in sample_of("text")
    assert sample_of(r'{"a": "\ud83d\ude00"}')["output_json"] == {"a": "\U0001f600"}
    assert "output_json" not in sample_of(
        r'{"a": "\ud83d"}'
    )  # it is no character, and nothing can send it on
    with pytest.raises(InvalidRequest, match="no JSON"):
        sample_of("text", has_format=True)
