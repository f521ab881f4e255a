"""Rewriting of the last message: when it is needed, and what happens if the model fails."""

from __future__ import annotations

import pytest
from tests.knowledge.answer.fakes import FakeWriter

from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.knowledge.answer.rewrite import Rewritten, needs_rewrite, rewrite

BEFORE = {
    "en": ("How do I insert a footnote in Writer?", "Choose Insert - Footnote and Endnote - Footnote."),
    "zh": ("在 Writer 里怎样插入脚注？", "选择「插入 - 脚注和尾注 - 脚注」。"),
}

LEANS = [
    "How do I delete it?",
    "And in Calc?",
    "What about endnotes?",
    "Why?",
    "Can they be numbered by chapter?",
    "Does that work for tables, too?",
    "In Impress?",
    "Which shortcut?",
    "How can I change its format?",
    "tell me more",
    "Is the same possible for endnotes?",
    "What is the difference between them?",
    "For tables as well?",
    "And if the document is read-only?",
    "Can I change this later?",
    "怎么删除它？",
    "那 Calc 里呢？",
    "为什么？",
    "它们可以按章节编号吗？",
    "这个功能有快捷键吗？",
    "尾注呢？",
    "怎么修改？",
    "还有别的办法吗？",
    "前者和后者有什么区别？",
    "那如果文档是只读的呢？",
    "上面的设置在哪里保存？",
]

STANDS_ALONE = [
    "How do I insert a page break in Writer?",
    "What is CSV?",
    "Is it possible to protect a sheet with a password?",
    "Which function returns the day of a date?",
    "What does =WEEKDAY(A1) return?",
    "How do I find the cell that contains the largest value?",
    "Is there a shortcut for bold text?",
    "How long does it take to rebuild the index of a large document?",
    "In Calc, how do I freeze the first row?",
    "List all keyboard shortcuts of the Navigator",
    "怎样在 Calc 中冻结第一行？",
    "ISERR 函数忽略哪种错误？",
    "打印时如何只打印选中的工作表？",
    "颜色的红色成分必须介于哪两个数之间？",
    "什么是数据透视表的筛选字段？",
    "CSV 是什么？",
]


def conversation(last: str) -> list[dict[str, str]]:
    question, answer = BEFORE["zh" if any(one > "\u3400" for one in last) else "en"]
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": last},
    ]


@pytest.mark.parametrize("last", LEANS)
def test_a_message_that_leans_on_others_is_found(last: str) -> None:
    assert needs_rewrite(conversation(last))
    assert not needs_rewrite([{"role": "user", "content": last}])


@pytest.mark.parametrize("last", STANDS_ALONE)
def test_a_message_that_stands_alone_is_left(last: str) -> None:
    assert not needs_rewrite(conversation(last))


async def test_the_model_is_asked_only_if_needed() -> None:
    writer = FakeWriter(["How do I delete a footnote in Writer?"])
    assert await rewrite(conversation(STANDS_ALONE[0]), writer) == Rewritten(STANDS_ALONE[0], "unchanged")
    assert writer.asked == []
    assert await rewrite(conversation("How do I delete it?"), writer) == Rewritten(
        "How do I delete a footnote in Writer?", "written"
    )
    assert "insert a footnote" in writer.asked[0][-1]["content"]


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "How do I delete it?",
        "The weather in Paris is sunny, and the train leaves at nine.",
        BEFORE["en"][0],
        "delete " * 200,
    ],
)
async def test_nonsense_is_replaced_by_the_turn_before(nonsense: str) -> None:
    found = await rewrite(conversation("How do I delete it?"), FakeWriter([nonsense]))
    assert found == Rewritten(f"{BEFORE['en'][0]}\nHow do I delete it?", "joined")


async def test_a_failing_model_is_no_failure() -> None:
    found = await rewrite(
        conversation("How do I delete it?"), FakeWriter([ContextLengthExceeded("too long")])
    )
    assert found.how == "joined"
    assert (await rewrite(conversation("那 Calc 里呢？"), None)).query == f"{BEFORE['zh'][0]}\n那 Calc 里呢？"


async def test_a_conversation_without_a_question_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no question"):
        await rewrite([{"role": "system", "content": "Be kind."}], None)
