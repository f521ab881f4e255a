"""Checked citations: what is supported stays, what is not goes, and marks point at their passage and place."""

from __future__ import annotations

import pytest
from tests.knowledge.answer.fakes import WordEmbedder, passage

from deepwell.knowledge.answer.cite import (
    AnswerText,
    CitationChecker,
    GroundedAnswer,
    SentenceStream,
    Unsupported,
)
from deepwell.knowledge.answer.support import SupportThresholds
from deepwell.knowledge.answer.text import sentences
from deepwell.knowledge.documents import Passage

GAMMA = passage(
    "Specifies the gamma value. Values from 0.10 to 10 are possible.",
    1,
    headings=("Picture", "Gamma"),
    page=7,
)
POOL = passage("Defines when a pooled connection is freed. It is freed after 600 seconds.", 2)
KEYS = passage("Press Shift+F4 to select the first control. It cannot be undone.", 3)
RED = passage("如果输入的参数类型错误，则前面显示为红点。", 4)
LIMITS = SupportThresholds(min_contained=0.6, min_cosine=0.3, min_cross_cosine=0.9)


async def checked(
    text: str, passages: list[Passage], question: str = "Why?", unsupported: Unsupported = "drop"
) -> GroundedAnswer:
    checker = CitationChecker(question, passages, WordEmbedder(), unsupported=unsupported, thresholds=LIMITS)
    answer = AnswerText(passages, "zh" if passages[0] is RED else "en")
    dropped = []
    for sentence in sentences(text):
        one = await checker.check(sentence)
        if one.dropped:
            dropped.append(one.dropped)
        if one.stays:
            answer.add(one)
    return GroundedAnswer(answer.text, tuple(answer.citations), False, dropped=tuple(dropped))


async def test_a_supported_sentence_keeps_its_mark() -> None:
    found = await checked("Gamma values from 0.10 to 10 are possible. [1]", [GAMMA, POOL])
    assert found.text == "Gamma values from 0.10 to 10 are possible [1]."
    (one,) = found.citations
    assert (one.number, one.file_id, one.filename, one.place.page, one.key) == (1, "file-1", "1.md", 7, 1)
    assert one.quote == "Values from 0.10 to 10 are possible."
    assert GAMMA.text[one.start - GAMMA.start : one.end - GAMMA.start] == one.quote
    assert found.text[one.index : one.index + 3] == "[1]"
    assert found.text[one.answer_start : one.answer_end] == found.text
    assert found.dropped == ()


async def test_a_wrong_mark_is_moved_to_the_passage_that_supports() -> None:
    found = await checked("The pooled connection is freed after 600 seconds [1].", [GAMMA, POOL])
    assert [one.number for one in found.citations] == [2]
    assert [one.action for one in found.dropped] == ["rebound"]
    missing = await checked("The pooled connection is freed after 600 seconds.", [GAMMA, POOL])
    assert [one.number for one in missing.citations] == [2]
    assert missing.dropped == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The pooled connection is freed after 900 seconds [2].", "900"),
        ("Press Ctrl+F4 to select the first control [3].", "ctrl"),
        ("The moon orbits around distant planets [1].", "of the words"),
        ("Never press Shift+F4 to select the first control [3].", "denies"),
    ],
)
async def test_an_unsupported_sentence_goes_or_is_marked(text: str, reason: str) -> None:
    dropped = await checked(text, [GAMMA, POOL, KEYS])
    assert dropped.text == ""
    assert [one.action for one in dropped.dropped] == ["dropped"]
    assert reason in dropped.dropped[0].reason
    marked = await checked(text, [GAMMA, POOL, KEYS], unsupported="mark")
    assert marked.text.endswith(" [unverified].")
    assert marked.citations == ()


async def test_several_sentences_and_offsets() -> None:
    found = await checked(
        "Press Shift+F4 to select the first control [3]. The sun is hot [1]. It is freed after 600 seconds [2].",
        [GAMMA, POOL, KEYS],
    )
    assert found.text == (
        "Press Shift+F4 to select the first control [3]. It is freed after 600 seconds [2]."
    )
    for one in found.citations:
        assert found.text[one.index : one.index + 3] == f"[{one.number}]"
        assert found.text[one.answer_start : one.answer_end].endswith("].")
    twice = await checked("It is freed after 600 seconds [1]. It is freed after 600 seconds [1].", [POOL])
    assert len(twice.citations) == 1


async def test_chinese() -> None:
    found = await checked("参数类型错误时前面显示红点。[1]", [RED], "显示什么颜色的点？")
    assert found.text == "参数类型错误时前面显示红点[1]。"
    wrong = await checked("参数类型错误时前面显示 3 个红点。[1]", [RED], "显示什么颜色的点？")
    assert wrong.text == ""


async def test_words_of_the_question_need_no_support() -> None:
    found = await checked(
        "In Writer 7, it is freed after 600 seconds [1].", [POOL], "When is it freed in Writer 7?"
    )
    assert len(found.citations) == 1


async def test_a_table_header_is_cited_by_its_chunk() -> None:
    table = Passage(5, "f", "t.csv", 0.5, "name, seconds\nThe pool is freed after 600 seconds.", 40, 76)
    found = await checked("The pool is freed after 600 seconds [1].", [table])
    assert (found.citations[0].start, found.citations[0].end) == (40, 76)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_stream_gives_the_sentences_of_the_whole(size: int) -> None:
    text = "It is 1.5 cm. [1] See e.g. there.\n- item [2]\n```\ncode. x\n```\n好的。[3]完"
    stream = SentenceStream()
    given = [one for at in range(0, len(text), size) for one in stream.push(text[at : at + size])]
    assert [one for one, _ in given + stream.finish()] == sentences(text)
