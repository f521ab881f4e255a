"""The support desk: answers, declines, and hands over with everything that a person needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from deepwell.agents.support import DeskOptions, SupportDesk, signal_of
from deepwell.errors import InvalidRequest
from deepwell.knowledge.answer.cite import Citation, GroundedAnswer
from deepwell.knowledge.documents import Place


def citation(file: str) -> Citation:
    return Citation(1, file, f"{file}.html", Place(headings=("Printing",)), 0, 5, "quote", 4, 0, 4, 1)


class Documents:
    """Answers questions about printing from page `a`, then `b`; knows nothing else."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, frozenset[str]]] = []
        self.turns = 0

    async def __call__(
        self, messages: Sequence[Mapping[str, str]], without: frozenset[str]
    ) -> GroundedAnswer:
        question = messages[-1]["content"]
        self.asked.append((question, without))
        self.turns = len(messages)
        left = [one for one in ("a", "b") if one not in without]
        if not ("print" in question or "打印" in question) or not left:
            return GroundedAnswer("I do not know.", (), declined=True)
        return GroundedAnswer(f"From page {left[0]} [1]", (citation(left[0]),), declined=False)


async def test_a_question_is_answered_with_citations_and_its_history() -> None:
    documents = Documents()
    desk = SupportDesk(documents)
    first = await desk.reply("How do I print?")
    assert (first.state, first.text, len(first.citations)) == ("answered", "From page a [1]", 1)
    await desk.reply("And how do I print two pages?")
    assert documents.turns == 3


async def test_the_second_question_without_an_answer_hands_over() -> None:
    desk = SupportDesk(Documents())
    first = await desk.reply("What is the weather?")
    assert first.state == "declined" and "a person" in first.text
    second = await desk.reply("And tomorrow?")
    assert second.state == "handed_over" and second.handover is not None
    summary = second.handover.summary()
    assert (
        "no answer twice" in summary and "- What is the weather?" in summary and "- And tomorrow?" in summary
    )


async def test_an_answer_between_two_unknown_questions_keeps_the_conversation() -> None:
    desk = SupportDesk(Documents())
    states = [
        (await desk.reply(one)).state for one in ("What is the weather?", "How do I print?", "Who won?")
    ]
    assert states == ["declined", "answered", "declined"]


async def test_a_failed_answer_is_followed_by_another_and_then_by_a_person() -> None:
    documents = Documents()
    desk = SupportDesk(documents)
    await desk.reply("怎么打印双面？")
    again = await desk.reply("试过了，还是不行")
    assert again.state == "answered" and "From page b" in again.text
    assert documents.asked[-1] == ("怎么打印双面？", frozenset({"a"}))
    over = await desk.reply("还是没用")
    assert over.state == "handed_over" and over.handover is not None
    record = over.handover.record()
    assert record["reason"] == "unsolved" and record["language"] == "zh"
    assert "客户的反馈" in record["summary"] and "a.html > Printing" in record["summary"]
    assert [one["kind"] for one in record["conversation"]] == ["question", "unsolved", "question", "unsolved"]


async def test_a_wish_for_a_person_before_any_question_asks_what_it_is_about() -> None:
    documents = Documents()
    desk = SupportDesk(documents)
    assert (await desk.reply("转人工")).state == "asking"
    over = await desk.reply("打印机不出纸")
    assert (
        over.state == "handed_over"
        and over.handover is not None
        and "打印机不出纸" in over.handover.summary()
    )
    assert not documents.asked


async def test_topics_of_people_are_never_answered_from_documents() -> None:
    documents = Documents()
    desk = SupportDesk(documents, DeskOptions(always_a_person=("退款", "refund")))
    over = await desk.reply("I want a REFUND for the print job")
    assert over.state == "handed_over" and over.handover is not None and over.handover.reason == "topic"
    assert not documents.asked


async def test_an_empty_message_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        await SupportDesk(Documents()).reply("  ")


@pytest.mark.parametrize(
    ("message", "signal"),
    [
        ("我要人工客服", "person"),
        ("Let me talk to a human.", "person"),
        ("Can someone help me by phone? I need somebody to call me", "person"),
        ("没解决", "unsolved"),
        ("It still doesn’t work", "unsolved"),
        ("怎样把工作表共享给别人", "none"),
        ("How do I contact the author of a document?", "none"),
        ("x" * 500 + " let me talk to a person", "none"),
        ("\x00", "none"),
    ],
    ids=[
        "zh-person",
        "en-person",
        "en-call",
        "zh-unsolved",
        "en-unsolved",
        "zh-question",
        "en-question",
        "long",
        "nul",
    ],
)
def test_signals(message: str, signal: str) -> None:
    assert signal_of(message) == signal
