"""The numbers by which candidates are judged: words of a question, their order, and the kind of answer that it asks for."""

from __future__ import annotations

import pytest
from tests.knowledge.answer.fakes import WordEmbedder, passage

from deepwell.knowledge.answer.features import Features, features_from, features_of


def judged(question: str, *texts: str) -> list[Features]:
    return features_from(
        question, [passage(text, key) for key, text in enumerate(texts, 1)], [0.9] * len(texts)
    )


def test_words_count_within_what_a_quotation_may_hold() -> None:
    near, far, none = judged(
        "Which button saves the report?",
        "Click the button. It saves the report. Blue sky.",
        "The button is blue. The sky is blue. It saves the report.",
        "The sky is blue.",
    )
    assert near.covered == 1
    assert none.covered < far.covered < near.covered


def test_words_that_stay_neighbours_count() -> None:
    question = "Which keys select the first control of a form?"
    together, apart = judged(
        question,
        "Press F4 to select the first control.",
        "A form has a control. The first of its keys is F4.",
    )
    assert together.order > apart.order == 0
    (word,) = judged("Why?", "Because.")
    assert word.order == 0


@pytest.mark.parametrize(
    ("question", "text", "kind"),
    [
        ("Above which line length are paragraphs joined?", "If greater than 50%.", 1),
        ("Above which line length are paragraphs joined?", "If they are long.", -1),
        ("结果介于哪两个数之间？", "介于 0 和 59 之间。", 1),
        ("Which button joins paragraphs?", "If greater than 50%.", 0),
    ],
)
def test_a_measure_is_a_number(question: str, text: str, kind: float) -> None:
    assert judged(question, text)[0].kind == kind


@pytest.mark.parametrize(
    ("question", "text", "missing"),
    [
        ('What does =REGEX("12";"a") return?', '=REGEX("12";"a";"g") returns 3.', -1.0),
        ('What does =REGEX("12";"a") return?', '=REGEX("12";"a") returns 3.', 0.0),
        ("Between which two integers does SECOND lie?", "SECOND is between 0 and 59.", 0.0),
        ("When does the shop in Oslo close on Fridays?", "The Oslo shop closes at three on Friday.", 0.0),
        ("When does the shop in Bergen close on Fridays?", "The Oslo shop closes at three on Friday.", -0.5),
        ('输入 ")" 时显示什么？', "将显示 1。", -1.0),
    ],
)
async def test_what_a_question_names_must_stand_in_the_passage(
    question: str, text: str, missing: float
) -> None:
    (features,) = await features_of(question, [passage(text)], WordEmbedder(), 1)
    assert features.missing == missing


async def test_a_direction_is_no_number_and_formulas_are_no_language() -> None:
    (features,) = await features_of(
        "In which direction do positive vertical values move it?", [passage("Down.")], WordEmbedder(), 1
    )
    assert features.kind == 0
    (features,) = await features_of(
        "函数 TRUE() 需要参数吗？", [passage("=NOT(TRUE) is =NOT(A) 逻辑函数示例")], WordEmbedder(), 1
    )
    assert features.case == "zh"
