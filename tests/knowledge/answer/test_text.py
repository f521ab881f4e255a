"""Sentences with offsets, content words, numbers and names."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepwell.knowledge.answer.text import (
    content_words,
    language_of,
    names,
    numbers,
    sentences,
    without_marks,
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Press F5. It runs.", ["Press F5.", "It runs."]),
        ("See e.g. the U.S. edition, i.e. No. 3. Done.", ["See e.g. the U.S. edition, i.e. No. 3.", "Done."]),
        ("Version 1.4 is used. 2.5 is not.", ["Version 1.4 is used.", "2.5 is not."]),
        ("1. First step.\n2. Second step.", ["1. First step.", "2. Second step."]),
        ("- one\n- two", ["- one", "- two"]),
        ("按 F5 键。然后松开！好吗？", ["按 F5 键。", "然后松开！", "好吗？"]),
        ("「先这样。」再那样。", ["「先这样。」", "再那样。"]),
        ("Run:\n```\na. b. c.\n\nd\n```\nEnd.", ["Run:", "```\na. b. c.\n\nd\n```", "End."]),
        ("What? Yes! No.", ["What?", "Yes!", "No."]),
        ("", []),
        (" \n ... ", []),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert [one.text for one in sentences(text)] == parts


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("It is 3. [1] It is 4 [2, 3].", [(1,), (2, 3)]),
        ("是三。[1]是四[2]。", [(1,), (2,)]),
        ("It is 3.\n[2]", [(2,)]),
        ("It is 3 【1】.", [(1,)]),
        ("a[0] is code, x[10] too", [(0, 10)]),
    ],
)
def test_marks_belong_to_the_sentence_before(text: str, cited: list[tuple[int, ...]]) -> None:
    assert [one.cited for one in sentences(text)] == cited


@given(st.text(alphabet="ab 1.3[]，。？!\n`-“”e.g", max_size=120))
@example("1!，[1]")
def test_offsets_hold_the_sentence_in_order(text: str) -> None:
    end = 0
    for one in sentences(text):
        assert end <= one.start < one.end <= len(text)
        assert (
            one.code
            or one.text.split() == without_marks(text[one.start : one.end]).split()[: len(one.text.split())]
        )
        end = one.end


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    for one in sentences(text):
        content_words(one.text)
        numbers(one.text)
        names(one.text)


def test_words_numbers_and_names() -> None:
    assert content_words("Which keys are selecting the first controls?") == content_words(
        "key select first control"
    )
    assert content_words("自动换行") == ["自动", "动换", "换行"]
    assert numbers("1. Use two of 1,000 or 0.10, −5 and 三个") == {"2", "1000", "0.10", "5", "3"}
    assert numbers("十五个") == set()
    assert names("Press Shift+F4 in Writer for QUARTILE.EXC") == {"shift+f4", "writer", "quartile.exc"}
    assert names("按 Enter 键") == {"enter"}
    assert [language_of(text) for text in ("", "abc", "打开 LibreOffice", "单元格 A1")] == [
        "en",
        "en",
        "en",
        "zh",
    ]
