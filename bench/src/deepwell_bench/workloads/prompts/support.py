"""Questions of users beside a paragraph of the LibreOffice help: half of them it answers, half it does not.

The questions are those of `deepwell_bench.workloads.knowledge.answers`, whose patterns tell a right answer. A paragraph that
answers another question takes the place of the right one in the second half.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from deepwell_bench.workloads.knowledge.answers import AnswerQuestion, development_answers, held_answers
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages
from deepwell_bench.workloads.prompts.task import Half, PromptItem, PromptTask

__all__ = ["SUPPORT"]

_COUNT: Final = {"development": 20, "held_out": 36}  # questions with the right paragraph, and as many without
_MOST: Final = 700  # characters of a paragraph
_DECLINE: Final = {"en": "The text does not say.", "zh": "文中没有说明。"}


def _items(language: Literal["en", "zh"], half: Half) -> Sequence[PromptItem]:
    texts = {one.id: one.english if language == "en" else one.chinese for one in help_passages()}
    asked = development_answers() if half == "development" else held_answers()
    covered = [
        one
        for one in asked
        if one.language == language and one.golds and len(texts.get(one.golds[0], " " * 999)) <= _MOST
    ]
    Random(f"support:{language}:{half}").shuffle(covered)  # noqa: S311 the order of a test set, no secret
    count = min(_COUNT[half], len(covered) // 2)
    items: list[PromptItem] = []
    for number, one in enumerate(covered[:count]):
        items.append(_item(f"{number}-right", language, one, texts[one.golds[0]], covered=True))
    for number, one in enumerate(covered[count : 2 * count]):
        other = covered[(count + number + 7) % len(covered)]
        text = texts[other.golds[0]]
        if one.is_answered(text) or set(one.golds) & set(other.golds):
            continue
        items.append(_item(f"{number}-wrong", language, one, text, covered=False))
    return items


def _item(id: str, language: str, asked: AnswerQuestion, text: str, *, covered: bool) -> PromptItem:
    head, question = ("Text", "Question") if language == "en" else ("文本", "问题")
    return PromptItem(
        id,
        f"{head}: {text}\n{question}: {asked.question}",
        {"pattern": asked.pattern if covered else "", "language": language},
    )


def _score(item: PromptItem, answer: str) -> float:
    declined = _DECLINE[item.expected["language"]].rstrip(".。").casefold() in answer.casefold()
    if not item.expected["pattern"]:
        return float(declined)
    asked = AnswerQuestion(item.expected["language"], ("-",), "", item.expected["pattern"])
    return float(not declined and asked.is_answered(answer))


SUPPORT: Final = (
    PromptTask(
        "support-answer-en",
        "en",
        "Answer the question in a few words from the text alone. If the text does not answer it, say exactly: "
        f"{_DECLINE['en']}",
        lambda half: _items("en", half),
        _score,
        {"decline": _DECLINE["en"]},
        max_tokens=48,
    ),
    PromptTask(
        "support-answer-zh",
        "zh",
        f"只根据文本用几个词回答问题。如果文本没有答案，就只回答：{_DECLINE['zh']}",
        lambda half: _items("zh", half),
        _score,
        {"decline": _DECLINE["zh"]},
        max_tokens=48,
    ),
)
"""Tasks of the packs of support."""
