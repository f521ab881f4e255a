"""Product texts: what a brief asks for is measured, and the chosen sentences keep to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.agents.writing import Brief, compose, length_of, measure, read_briefs
from deepwell.agents.writing.pick import Sentence, pick
from deepwell.agents.writing.sentences import cut
from deepwell.errors import InvalidRequest
from deepwell.safety.labels import has_mark

ZH = Brief(
    "a", "zh", "保温杯", ("保温 12 小时", "容量 500 毫升"), "亲切", 60, ("保温 12 小时",), ("最", "第一")
)
EN = Brief("b", "en", "bottle", ("12 hours", "750 ml"), "warm", 20, ("12 hours",), ("best",))


@dataclass
class Reply:
    text: str
    finish_reason: str = "stop"

    @property
    def choices(self) -> list[Reply]:
        return [self]


@dataclass
class Scored:
    mean: float


class Scripted:
    """A writer whose drafts are given, and that finds short sentences natural."""

    def __init__(self, *drafts: str) -> None:
        self.drafts, self.prompts = list(drafts), list[str]()

    def chat(self, messages: Any, **arguments: Any) -> Reply:
        self.prompts.append(messages[-1]["content"])
        return Reply(self.drafts.pop(0) if self.drafts else "")

    def score(self, texts: Any) -> list[Scored]:
        return [Scored(-len(text) / 100) for _, text in texts]


@pytest.mark.parametrize(
    ("text", "missing", "forbidden"),
    [
        ("保温  12 小时的杯子。", (), ()),
        ("保温12小时的杯子。", ("保温 12 小时",), ()),
        ("保温 12 小时，品质第 一。", (), ("第一",)),
    ],
    ids=["kept", "another-spelling", "broken-by-space"],
)
def test_terms_are_told(text: str, missing: tuple[str, ...], forbidden: tuple[str, ...]) -> None:
    found = measure(ZH, text)
    assert (found.missing, found.forbidden) == (missing, forbidden)


def test_english_terms_are_words_in_a_row_whatever_their_case() -> None:
    assert measure(EN, "12 Hours. The cab established it.").forbidden == ()
    assert measure(EN, "The BEST one: 12  hours").forbidden == ("best",)


def test_chinese_numbers_take_the_spelling_of_the_brief() -> None:
    assert cut("这只杯子可以保温12小时。", ZH) == ["这只杯子可以保温 12 小时。"]


@pytest.mark.parametrize(
    "draft",
    [
        "没有句号的一段",
        "这是最好的保温杯。",
        "它可以保温 24 小时吗。",
        "卖点：保温 12 小时。",
        "抱歉，我不能写这个。",
        "每一口两口，每一口两口，每一口两口。",
        "点击 [链接](https://example.org) 购买。",
    ],
    ids=["no-end", "forbidden", "another-number", "echo", "refusal", "circles", "markup"],
)
def test_what_may_not_stand_in_a_text_is_left_out(draft: str) -> None:
    assert cut(draft, ZH) == []


def test_a_text_is_put_together_from_several_drafts() -> None:
    drafts = (
        "这只保温杯陪你度过寒冷的早晨和漫长的夜晚，握在手里很安心。它是最好的选择。",
        "它能保温 12 小时，从早到晚都有热水喝，办公室里人人都想要一只。",
    )
    made = compose(Scripted("\n".join(drafts)), ZH)
    assert made.measured.kept and made.rounds == 1 and not made.stated
    assert "保温 12 小时" in made.body and "最好" not in made.body
    assert has_mark(made.text) and made.text.startswith(made.body)


def test_a_term_that_the_model_never_writes_is_stated() -> None:
    filler = "这只杯子陪你度过寒冷的早晨和漫长的夜晚。握在手里也很安心，出门带着它喝水，十分方便省心。"
    made = compose(Scripted(filler), ZH)
    assert made.stated == ("保温 12 小时",) and "特点之一：保温 12 小时。" in made.body and made.measured.kept


def test_a_text_that_cannot_be_made_says_what_it_lacks() -> None:
    made = compose(Scripted(), ZH)
    assert not made.measured.kept and not made.measured.in_length


@given(
    st.lists(st.tuples(st.integers(3, 40), st.sets(st.integers(0, 2)), st.floats(-5, -0.1)), max_size=14),
    st.integers(20, 120),
)
def test_what_is_picked_fits(drawn: list[tuple[int, set[int], float]], length: int) -> None:
    sentences = [
        Sentence(chr(0x4E00 + number) * size, size, frozenset(terms), number / 14, value)
        for number, (size, terms, value) in enumerate(drawn)
    ]
    chosen = pick(sentences, 3, length - 10, length + 10, 2)
    if chosen:
        assert length - 10 <= sum(one.length for one in chosen) <= length + 10
        assert frozenset().union(*(one.terms for one in chosen)) == {0, 1, 2}
        assert [one.place for one in chosen] == sorted(one.place for one in chosen)


def test_a_contradicting_brief_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "brief.json"
    path.write_text(
        json.dumps({**{f: getattr(ZH, f) for f in ZH.__struct_fields__}, "forbidden": ["保温"]}),
        encoding="utf-8",
    )
    with pytest.raises(InvalidRequest, match="forbids '保温'"):
        read_briefs(path)
    path.write_text('{"id": "x", "unknown": 1}', encoding="utf-8")
    with pytest.raises(InvalidRequest, match="is no brief"):
        read_briefs(path)


def test_lengths_are_characters_or_words() -> None:
    assert length_of("保温 12 小时。", "zh") == 7 and length_of("keeps drinks cold", "en") == 3
