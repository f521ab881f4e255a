"""Terms over seams of texts: a term that is split is one, and what meets by chance is none."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.safety.findings import Decision
from deepwell.safety.normalise import normalised
from deepwell.safety.seams import REACH, crosses, seams, tail
from deepwell.safety.streaming.rules import StreamRules
from deepwell.safety.streaming.scanner import StreamScanner
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import Term, TermList, term_key

TERMS = ["法轮功", "badger", "枪支", "blue moon", "sly"]
DETECTOR = Terms([TermList("own", [Term(term_key(term), "test", "block") for term in TERMS], "", "", "")])


def crossing(*texts: str) -> list[dict[int, str]]:
    """Returns the parts of every term over a seam."""
    return [
        {
            number: texts[number][begin:stop]
            for number, (begin, stop) in seam.parts(one.start, one.end).items()
        }
        for seam in seams(texts)
        for one in DETECTOR.scan(normalised(seam.text))
        if crosses(seam.text, one.start, one.end, seam.at)
    ]


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (("tell me of 法", "轮功 please"), {0: "法", 1: "轮功"}),
        (("法", "轮", "功"), {0: "法", 1: "轮", 2: "功"}),
        (("a bad", "ger came"), {0: "bad", 1: "ger"}),
        (("a bad\n", "\n\nger came"), {0: "bad", 1: "ger"}),
        (("a blue ", "moon"), {0: "blue", 1: "moon"}),
        (("a blue", "   ", "moon"), {0: "blue", 2: "moon"}),
        (("x" * 500 + " bad", "ger" + " y" * 500), {0: "bad", 1: "ger"}),
        (("ＢＡＤ", "ｇｅｒ"), {0: "ＢＡＤ", 1: "ｇｅｒ"}),
    ],
)
def test_a_term_that_is_split_over_texts_is_found_with_its_parts(
    texts: tuple[str, ...], parts: dict[int, str]
) -> None:
    assert crossing(*texts) == [parts]


@pytest.mark.parametrize(
    "texts",
    [
        ("我想买枪", "支持微信吗"),  # two characters meet by chance
        ("这是国法。", "轮功能怎么用"),
        ("That is bad.", "German is hard"),
        ("too bad", "Gerry left"),
        ("the sl", "y fox"),
        ("once in a blue", "moon"),
        ("a badger", "came"),
        ("so", "a badger"),
        ("", "badger"),
    ],
)
def test_what_meets_at_a_seam_by_chance_is_no_term(texts: tuple[str, ...]) -> None:
    assert crossing(*texts) == []


@given(st.lists(st.text(max_size=90), max_size=4))
def test_a_seam_names_the_characters_of_its_texts(texts: list[str]) -> None:
    for seam in seams(texts):
        assert 0 < seam.at < len(seam.text) <= 2 * REACH + 1
        for character, (number, place) in zip(seam.text, seam.places, strict=True):
            assert character in (texts[number][place], " ")


def streamed(before: str, text: str, size: int) -> str:
    rules = StreamRules(
        [DETECTOR],
        lambda findings, failed: Decision("block", "output", [(one, "block") for one in findings]),
        terms=DETECTOR.texts("block"),
    )
    scanner, out = StreamScanner(rules, tail(before)), ""
    for at in range(0, len(text), size):
        out += scanner.push(text[at : at + size]).text
        if scanner.ended:
            return out + "▮"
    last = scanner.finish()
    return out + last.text + ("▮" if last.decision is not None else "")


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize(
    ("before", "text", "told"),
    [
        ("so it is 法", "轮功 is it", "▮"),
        ("so it is bad", "ger it is", "▮"),
        ("so it is blue ", "moon it is", "▮"),
        ("so it is bad", "Germany it is", "Germany it is"),
        ("so it is a badger", " it is", " it is"),
        ("so it is bad.", "ger it is", "ger it is"),
        ("我想买枪", "支持微信吗", "支持微信吗"),
        ("so it is bad", "ly, a badger", "ly, a ▮"),
    ],
)
def test_a_stream_does_not_end_a_term_that_began_before_it(
    size: int, before: str, text: str, told: str
) -> None:
    assert streamed(before, text, size) == told


def test_ordinary_messages_have_no_term_over_their_seams() -> None:
    """Counts terms of the shipped list over seams of sentences whose punctuation is left out, as in chats."""
    from deepwell.safety.terms.lists import starter_list

    detector = Terms([starter_list()])
    chance = random.Random(3)
    said = [
        "我想买一把枪",
        "支持微信付款吗",
        "今天天气很好",
        "法律上怎么规定的",
        "请帮我写一封信给老师",
        "The weather is fine today",
        "tell me about the moon",
        "毒品的危害有哪些",
        "how do I cook rice",
        "自由是什么",
        "门票多少钱",
        "I want to know more",
    ]
    for _ in range(300):
        for seam in seams(chance.sample(said, 4)):
            found = detector.scan(normalised(seam.text))
            assert not [one for one in found if crosses(seam.text, one.start, one.end, seam.at)]


def test_of_a_long_text_only_the_ends_are_taken_apart() -> None:
    texts = ["x" * 400_000 + " 法", "轮功 " + "y" * 400_000]
    tracemalloc.start()
    try:
        [seam] = seams(texts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000, "some 64 characters of each, not the half of a request's limit"
    assert (len(seam.text), seam.at) == (2 * REACH, REACH)
    assert seam.text[seam.at - 1 : seam.at + 2] == "法轮功" and seam.parts(REACH - 1, REACH + 2) == {
        0: (400_001, 400_002),
        1: (0, 2),
    }
