"""Grounded answers: found passages are cited, far questions declined, and a stream is the whole in sentences."""

from __future__ import annotations

import pytest
from tests.knowledge.answer.fakes import FakeWriter, WordEmbedder, passage

from deepwell.errors import InvalidRequest
from deepwell.knowledge.answer.cite import GroundedAnswer
from deepwell.knowledge.answer.decline import judge
from deepwell.knowledge.answer.grounded import AnswerDelta, AnswerOptions, answer, quotation, stream_answer
from deepwell.knowledge.answer.quoting import LEXICAL, WRITERS, Quoting, WriterCalibration
from deepwell.knowledge.documents import Passage

POOL = passage(
    "Sets the time after which a pooled connection is freed. It lies between 30 and 600 seconds.",
    1,
    headings=("Connection pool",),
)
GAMMA = passage("Specifies the gamma value of the view of the selected object.", 2, headings=("Gamma",))
RED = passage("如果输入的参数类型错误，则前面显示为红点。", 3, headings=("函数向导",))
QUESTION = "After how many seconds is a pooled connection freed?"


class Store:
    def __init__(self, *passages: Passage) -> None:
        self.passages = list(passages)
        self.asked: list[tuple[str, int]] = []

    async def search(self, query: str, limit: int) -> list[Passage]:
        self.asked.append((query, limit))
        return self.passages[:limit]


def asks(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_an_answer_cites_its_passage() -> None:
    store = Store(POOL, GAMMA)
    writer = FakeWriter(
        ["A pooled connection is freed after 30 to 600 seconds [1]. The sea is blue and deep."]
    )
    found = await answer(asks(QUESTION), store.search, writer, WordEmbedder())
    assert found.text == "A pooled connection is freed after 30 to 600 seconds [1]."
    assert [(one.number, one.file_id) for one in found.citations] == [(1, "file-1")]
    assert not found.declined
    assert [one.text for one in found.dropped] == ["The sea is blue and deep."]
    assert found.ledger is not None
    assert found.ledger.used_tokens < writer.context_tokens
    assert store.asked == [(QUESTION, AnswerOptions().candidates)]


@pytest.mark.parametrize(
    ("question", "words"),
    [("Who wrote War and Peace?", "did not find this"), ("《红楼梦》的作者是谁？", "没有找到")],
)
async def test_a_question_far_from_the_store_is_declined(question: str, words: str) -> None:
    writer = FakeWriter([])
    found = await answer(asks(question), Store(POOL, GAMMA, RED).search, writer, WordEmbedder())
    assert found.declined
    assert words in found.text
    assert found.citations == ()
    assert writer.asked == []
    empty = await answer(asks(question), Store().search, writer, WordEmbedder())
    assert empty.declined


async def test_the_passage_is_quoted_if_nothing_survives() -> None:
    writer = FakeWriter(["The moon is made of cheese [1]."])
    found = await answer(asks(QUESTION), Store(POOL).search, writer, WordEmbedder())
    assert found.quoted
    assert len(found.citations) == 1
    assert found.citations[0].quote in POOL.text
    assert found.text.replace(" [1]", "") in POOL.text
    assert [one.action for one in found.dropped] == ["dropped"]
    unasked = await answer(
        asks(QUESTION), Store(POOL).search, FakeWriter([]), WordEmbedder(), AnswerOptions(style="quoted")
    )
    assert unasked.text == found.text
    assert unasked.ledger is None


async def test_a_stream_is_the_whole_in_sentences() -> None:
    text = "A pooled connection is freed after 600 seconds [1].\nThe moon is cheese.\nIt lies between 30 and 600 seconds. [1]"
    parts = [
        part
        async for part in stream_answer(
            asks(QUESTION), Store(POOL).search, FakeWriter([text]), WordEmbedder()
        )
    ]
    last = parts[-1]
    assert isinstance(last, GroundedAnswer)
    deltas = [part for part in parts[:-1] if isinstance(part, AnswerDelta)]
    assert len(deltas) == 2
    assert "".join(part.text for part in deltas) == last.text
    assert tuple(one for part in deltas for one in part.citations) == last.citations
    for one in last.citations:
        assert last.text[one.index : one.index + 3] == "[1]"


async def test_a_question_is_searched_as_it_was_meant() -> None:
    messages = [
        {"role": "user", "content": "Which settings has the connection pool?"},
        {"role": "assistant", "content": "A time for pooled connections."},
        {"role": "user", "content": "After how many seconds is it freed?"},
    ]
    store = Store(POOL)
    writer = FakeWriter([QUESTION, "A pooled connection is freed after 30 to 600 seconds."])
    found = await answer(messages, store.search, writer, WordEmbedder())
    assert store.asked[0][0] == QUESTION
    assert found.query == QUESTION
    assert [one.number for one in found.citations] == [1]


async def test_a_conversation_must_end_with_a_question() -> None:
    with pytest.raises(InvalidRequest, match="no question"):
        await answer([{"role": "assistant", "content": "Hi"}], Store().search, FakeWriter(), WordEmbedder())


async def test_the_passage_that_answers_is_judged_best() -> None:
    judged = await judge(QUESTION, [GAMMA, POOL, RED], WordEmbedder())
    assert judged[0].passage is POOL
    assert [one.score >= 0 for one in judged] == [True, False, False]
    assert judged[0].features.kind == 1
    assert [one.features.case for one in judged].count("cross") == 1
    assert await judge(QUESTION, [], WordEmbedder()) == []


async def test_a_small_writer_is_not_asked_where_a_quotation_answers_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(WRITERS, "small", WriterCalibration(quotes=True))
    writer = FakeWriter(["It is freed after 30 to 600 seconds [1]."])
    writer.name = "small"  # type: ignore[attr-defined]
    found = await answer(asks(QUESTION), Store(POOL, GAMMA).search, writer, WordEmbedder())
    assert found.quoted
    assert writer.asked == []
    assert found.text == f"{POOL.text[:-1]} [1]."
    written = await answer(
        asks(QUESTION), Store(POOL).search, writer, WordEmbedder(), AnswerOptions(style="written")
    )
    assert not written.quoted


async def test_a_quotation_is_declined_where_two_passages_come_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WRITERS, "small", WriterCalibration(quotes=True))
    leading = Quoting({"en": (0.0, *LEXICAL.order["en"][1:5], 0.0, 0.0)}, {"en": (0.0,) * 7 + (1.0, -0.3)})
    monkeypatch.setattr("deepwell.knowledge.answer.decline.UNCALIBRATED", leading)
    small = FakeWriter()
    small.name = "small"  # type: ignore[attr-defined]
    rival = passage(f"{POOL.text} It is red.", 4, headings=("Connection pool",))
    tied = await answer(asks(QUESTION), Store(POOL, rival, GAMMA).search, small, WordEmbedder())
    assert tied.declined
    lenient = AnswerOptions(lenience=0.3, quotations=2)
    both = await answer(asks(QUESTION), Store(POOL, rival, GAMMA).search, small, WordEmbedder(), lenient)
    assert [one.number for one in both.citations] == [1, 2]
    assert [both.text[one.index : one.index + 3] for one in both.citations] == ["[1]", "[2]"]
    assert {one.file_id for one in both.citations} == {"file-1", "file-4"}
    copy = passage(POOL.text, 5, headings=("Connection pool",))
    copied = await answer(asks(QUESTION), Store(POOL, copy, GAMMA).search, small, WordEmbedder())
    assert not copied.declined
    reader = FakeWriter(["A pooled connection is freed after 30 to 600 seconds [1]."])
    read = await answer(asks(QUESTION), Store(POOL, rival, GAMMA).search, reader, WordEmbedder())
    assert not read.declined
    assert len(read.passages) == 2


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        (
            "Sets a pooled connection's time. It is long. Older ones stay.",
            "Sets a pooled connection's time. It is long.",
        ),
        ("Sets when a pooled connection is freed.\nRead more.", "Sets when a pooled connection is freed."),
        (
            f"Sets when a pooled connection is freed. Then {'so ' * 150}on.",
            "Sets when a pooled connection is freed.",
        ),
    ],
)
async def test_a_quotation_is_a_sentence_or_two_of_one_paragraph(text: str, quote: str) -> None:
    checked = await quotation(
        "After how many seconds is a pooled connection freed?", passage(text), WordEmbedder()
    )
    ((number, support),) = checked.supports
    assert (number, support.quote.text) == (1, quote)
    assert text[support.quote.start : support.quote.end] == quote


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("# When is a pooled connection freed\n\nAfter 600 seconds.", ("When is a pooled connection freed",)),
        (
            "When is a pooled connection freed\n\nAfter 600 seconds.",
            ("Pools", "When is a pooled  connection freed"),
        ),
    ],
    ids=["markdown", "plain"],
)
async def test_a_heading_that_repeats_the_question_is_not_quoted(
    text: str, headings: tuple[str, ...]
) -> None:
    found = passage(text, headings=headings)
    checked = await quotation("When is a pooled connection freed?", found, WordEmbedder())
    assert checked.supports[0][1].quote.text == "After 600 seconds."


async def test_a_passage_of_headings_alone_is_quoted_as_it_is() -> None:
    found = passage("# Pools", headings=("Pools",))
    checked = await quotation("Pools?", found, WordEmbedder())
    assert checked.supports[0][1].quote.text == "# Pools"
