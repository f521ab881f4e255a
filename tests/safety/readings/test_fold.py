"""Folding: what reads alike is alike, and every character knows where it came from."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.safety.readings.fold import fold
from deepwell.safety.readings.tables import folded_term
from deepwell.safety.readings.view import View, positions

ANY_TEXT = st.text(st.characters(), max_size=80)


def folded(text: str) -> View:
    return fold(View("", text, positions(len(text) + 1))).view


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Ignore ALL", "ignore all"),
        ("ｉｇｎｏｒｅ　ａｌｌ", "ignore all"),
        ("𝐢𝓰𝖓𝑜𝗋𝚎 ⓐⓛⓛ", "ignore all"),
        ("іgnоrе аll", "ignore all"),  # Cyrillic i, o, e, a
        ("ΙGΝΟRΕ", "ignore"),  # Greek capitals
        ("🅸🅶🅽🅾🆁🅴 🇦🇱🇱", "ignore all"),
        ("i\u200bg\u200cn\u2060o\ufeffr\u00ade", "ignore"),
        ("\u202eignore\u202c", "ignore"),
        ("i̷g̴n̸o̵r̶e̷", "ignore"),
        ("ígnörê", "ignore"),
        ("ignorX\be", "ignore"),
        ("ﬁne ﬂag", "fine flag"),
        ("a\t\n  b", "a\tb".replace("\t", " ")),
        ("法輪功，習近平。", "法轮功,习近平。"),
        ("１２３٤٥", "12345"),
        ("\U000e0069gnore", "gnore"),
        ("“quoted” — dash…", '"quoted" — dash...'),
    ],
)
def test_what_reads_alike_folds_alike(text: str, reading: str) -> None:
    assert folded(text).text == reading


def test_chinese_and_japanese_stay_what_they_are() -> None:
    assert folded("今天天气很好，我们去公园。").text == "今天天气很好,我们去公园。"
    assert folded("データが大きい").text == "データが大きい"


@given(ANY_TEXT)
def test_places_are_valid_and_grow(text: str) -> None:
    view = folded(text)
    starts = view.starts.tolist()
    assert len(starts) == len(view.text) + 1
    assert starts == sorted(starts)
    assert all(0 <= start <= len(text) for start in starts)


@given(ANY_TEXT)
def test_a_folded_text_folds_to_itself(text: str) -> None:
    once = folded(text).text
    assert folded(once).text == once


@given(st.text(st.sampled_from("abc XYZ é法輪1\u200bо"), max_size=40))
def test_a_span_leads_back_to_the_characters(text: str) -> None:
    view = folded(text)
    for at, character in enumerate(view.text):
        start, end = view.span(at, at + 1)
        assert folded(text[start:end]).text.strip() in (character, "") or character.isspace()


@given(ANY_TEXT)
def test_terms_fold_as_texts_do(text: str) -> None:
    if any(unicodedata.category(character) == "Cc" for character in text):
        return
    assert folded_term(text) == " ".join(folded(text).text.split())
