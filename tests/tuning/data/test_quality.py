"""Each quality filter finds what it is named after and lets sound text pass; languages are told by their own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.messages import catalogue
from deepwell.tuning.data.check import FINDINGS
from deepwell.tuning.data.language import KNOWN_LANGUAGES, language_of
from deepwell.tuning.data.quality import FILTERS, QualityLimits, quality_findings
from deepwell.tuning.data.records import Record
from deepwell.tuning.data.turns import turn_findings
from deepwell_bench.harness.assets import repository

CHINESE = "你好，世界！今天天气很好，我们一起去公园散步吧。明天可能会下雨，记得带上雨伞。"
FRENCH = "Ce café est très agréable — on y mange bien, même le dimanche. « Voilà », dit-elle."
PROSE = "The parcel left our warehouse on Tuesday, and it will reach you tomorrow before noon. Please be at home then."


def answer(text: str) -> Record:
    return Record(
        ({"role": "user", "content": "Could you please help me?"}, {"role": "assistant", "content": text})
    )


def names(record: Record, limits: QualityLimits | None = None) -> set[str]:
    return {one.name for one in quality_findings(record, limits)}


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        CHINESE,
        FRENCH,
        "Yes.",
        "42",
        "```python\nfor one in range(10):\n    print(one)\n```",
        "Here is the list that you asked for, in the order in which they left our warehouse this week:\n\n- Oslo\n- Rome",
        "これは日本語の文章です。とても短いですが、十分に読めます。",
        "Å, Ä and Ö are the last letters of the Swedish alphabet; Ñ is Spanish.",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 and 👩‍👩‍👧 are fine",
    ],
)
def test_sound_text_passes(text: str) -> None:
    assert names(answer(text)) == set()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sound\ufffd text", "garbled"),
        ("a\x00b", "garbled"),
        ("tail\x1b[31m", "garbled"),
        (FRENCH.encode().decode("cp1252", "replace").replace("\ufffd", ""), "garbled"),
        ("déjà".encode().decode("latin-1"), "garbled"),
        (CHINESE.encode().decode("latin-1"), "garbled"),
        (CHINESE.encode().decode("gbk", "ignore"), "garbled"),
        ("锟斤拷锟斤拷", "garbled"),
        ("The same line\n" * 6, "repeated_lines"),
        ("and then it goes on " * 20, "repeated_words"),
        ("哈哈" * 40, "repeated_words"),
        ("==== //// ++++ !!!! ???? ---- **** ^^^^ %%%% $$$$ ####", "symbols"),
        (PROSE + " We would be glad if you could tell us whether the", "truncated"),
        (
            CHINESE + "如果你还有其他的问题需要我们帮忙处理，请在周五之前打电话给我们的客服，我们会",
            "truncated",
        ),
        ("```python\nfor one in range(10):\n    print(one)\n", "truncated"),
        ("word " * 30_000 + "end.", "long"),
    ],
)
def test_each_filter_finds_its_own(text: str, name: str) -> None:
    assert name in names(answer(text))


def test_few_words_are_counted_in_every_script_and_not_for_calls() -> None:
    assert names(Record(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}))) == {
        "short"
    }
    assert names(Record(({"role": "user", "content": "你好吗"},), format="text")) == set()
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "x"}}]}
    assert names(Record(({"role": "user", "content": "Go"}, call))) == set()
    assert (
        names(Record(({"role": "user", "content": "Good"},), format="text"), QualityLimits(min_words=1))
        == set()
    )


def test_system_messages_are_not_judged_but_their_encoding_is() -> None:
    record = answer(PROSE)
    assert names(Record(({"role": "system", "content": "Be brief. " * 200}, *record.messages))) == set()
    assert names(Record(({"role": "system", "content": "caf\ufffd"}, *record.messages))) == {"garbled"}


@given(st.text(max_size=400))
def test_any_text_is_judged(text: str) -> None:
    found = [one.name for one in quality_findings(answer(text))]
    assert set(found) <= set(FILTERS) and len(set(found)) == len(found)
    assert language_of(text) in (*KNOWN_LANGUAGES, "und")


def test_every_finding_is_explained_in_both_languages() -> None:
    assert {f"data_finding_{name}" for name in FINDINGS} <= catalogue().keys()


@pytest.mark.parametrize(
    ("turns", "found"),
    [
        ("ua", set()),
        ("sua", set()),
        ("uaua", set()),
        ("uu", {"role_order", "no_answer"}),
        ("au", {"role_order"}),
        ("u", {"role_order", "no_answer"}),
        ("usa", {"role_order"}),
        ("uct a".replace(" ", ""), set()),
        ("uca", {"role_order"}),
        ("uta", {"role_order"}),
        ("ue", {"empty_turn"}),
        ("uw", {"no_answer"}),
    ],
)
def test_turns_are_checked(turns: str, found: set[str]) -> None:
    kinds = {
        "s": {"role": "system", "content": "s"},
        "u": {"role": "user", "content": "u"},
        "a": {"role": "assistant", "content": "a"},
        "e": {"role": "assistant", "content": " \n"},
        "w": {"role": "assistant", "content": "a", "weight": 0},
        "c": {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
        "t": {"role": "tool", "content": "t", "tool_call_id": "1"},
    }
    assert {one.name for one in turn_findings(Record(tuple(kinds[one] for one in turns)))} == found


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The book is on the table.", "en"),
        ("今天天气很好", "zh"),
        ("请用 Python 写一个 hello world 函数", "zh"),
        ("こんにちは、世界", "ja"),
        ("안녕하세요, 세계", "ko"),
        ("Das Buch liegt auf dem Tisch und ist nicht neu.", "de"),
        ("Je ne sais pas ce que c'est.", "fr"),
        ("No sé lo que es esto, pero me gusta mucho.", "es"),
        ("Non so che cosa sia, ma mi piace molto.", "it"),
        ("Não sei o que é isso, mas gosto muito.", "pt"),
        ("Ik weet niet wat het is, maar het is heel mooi.", "nl"),
        ("Nie wiem, co to jest, ale bardzo mi się podoba.", "pl"),
        ("Bunun ne olduğunu bilmiyorum ama çok güzel.", "tr"),
        ("Я не знаю, что это такое.", "ru"),
        ("Я не знаю, що це таке, але її книга є цікавою.", "uk"),
        ("Δεν ξέρω τι είναι.", "el"),
        ("لا أعرف ما هذا", "ar"),
        ("def f(x): return x * 2", "und"),
        ("12 + 30 = 42", "und"),
        ("", "und"),
        ("看这段代码：```python\nprint('the and of to is that it for was')\n```", "zh"),
    ],
)
def test_languages_are_told_by_their_own_words(text: str, code: str) -> None:
    assert language_of(text) == code


def test_the_guides_are_in_the_language_they_are_in() -> None:
    for name, code in (("knowledge.md", "en"), ("knowledge.zh-CN.md", "zh")):
        text = (repository() / "docs" / "guides" / name).read_text(encoding="utf-8")
        paragraphs = [
            one for one in text.split("\n\n") if len(one) > 120 and not one.startswith(("```", "|"))
        ]
        assert [one for one in paragraphs if language_of(one) not in (code, "und")] == []
