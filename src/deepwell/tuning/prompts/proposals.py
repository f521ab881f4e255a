"""Instructions to try beside the start: edits drawn by a seed, and rewrites that the model itself proposes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from deepwell.dialogue.prompts.text import PromptText
from deepwell.errors import ContextLengthExceeded
from deepwell.models.text.shipped import shipped
from deepwell.tuning.prompts.candidates import Instruction
from deepwell.tuning.prompts.rows import Row

if TYPE_CHECKING:
    from deepwell.llm import LLM

__all__ = ["MAX_REWRITE", "asked_rewrite", "cleaned", "mutations", "rewrite_messages"]

MAX_REWRITE: Final = 1200
"""Characters of the longest rewrite that is kept."""

_SHOWN: Final = 4  # rows that a request for a rewrite shows
_SHOWN_CHARACTERS: Final = 200
_MOST_TOKENS: Final = 200  # of a rewrite
_CHINESE: Final = re.compile(r"[\u3400-\u9fff]")
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_SLOT: Final = re.compile(r"\{\{[^{}]*\}\}")

_WAYS: Final = (
    "shorter and more direct",
    "more detailed, with a sentence on each possible answer",
    "as a role that the model plays, and its task",
    "as numbered steps",
    "with the form of the answer first",
    "for a reader who has never seen the task",
)
_WAYS_ZH: Final = (
    "更短、更直接",
    "更详细，每种答案各用一句话说明",
    "先给模型设定角色，再交代任务",
    "写成编号的步骤",
    "先说明回答的格式",
    "写给第一次接触这个任务的人",
)

_REWRITE: Final = {
    False: shipped(
        "These are instructions for a language model:\n\n{start}\n\n{answers}Examples of the task:\n\n{examples}"
        "\n\nRewrite the instructions {way}. Keep their meaning. Write the new instructions and nothing else."
    ),
    True: shipped(
        "下面是给语言模型的一段指令：\n\n{start}\n\n{answers}任务示例：\n\n{examples}"
        "\n\n请改写这段指令，{way}。意思不变，只写改写后的指令。"
    ),
}
"""Instructions that ask for a rewrite, by whether the instructions are in Chinese."""


def mutations(start: str, labels: Sequence[str], dice: random.Random, count: int) -> list[Instruction]:
    """Returns up to `count` different edits of a start, in an order that the dice decide. Variables stay as they are.

    Args:
        labels: the possible answers; empty: answers are free text.
    """
    zh = bool(_CHINESE.search(start))
    edits: list[tuple[str, str]] = [("none", "")]
    sentences = [one.strip() for one in _SENTENCE.split(start) if one and one.strip()]
    gap = "" if zh else " "
    if len(sentences) > 1:
        edits.append(("last first", gap.join([sentences[-1], *sentences[:-1]])))
        edits += [
            (f"without sentence {place + 1}", gap.join(sentences[:place] + sentences[place + 1 :]))
            for place in range(len(sentences))
        ]
    edits.append(("twice", f"{start}\n\n{start}"))
    edits += _worded(start, labels, gap, zh=zh)
    dice.shuffle(edits)
    found = [Instruction(text, f"edit: {name}") for name, text in edits if _keeps(start, text)]
    return found[:count]


def rewrite_messages(
    start: str, rows: Sequence[Row], labels: Sequence[str], number: int
) -> list[dict[str, str]]:
    """Returns the conversation that asks for a rewrite of instructions; the number decides which way."""
    zh = bool(_CHINESE.search(start))
    shown = [
        f"{_short(row.input)}\n-> {row.answer}" if row.answer else _short(row.input) for row in rows[:_SHOWN]
    ]
    if zh:
        way = _WAYS_ZH[number % len(_WAYS_ZH)]
        answers = f"可能的答案：{'、'.join(labels)}。\n\n" if labels else ""
    else:
        way = _WAYS[number % len(_WAYS)]
        answers = f"Possible answers: {', '.join(labels)}.\n\n" if labels else ""
    text = _REWRITE[zh].format(start=start, answers=answers, examples="\n\n".join(shown), way=way)
    return [{"role": "user", "content": text}]


def asked_rewrite(llm: LLM, messages: Sequence[dict[str, str]], seed: int) -> tuple[str, int, int]:
    """Returns the text that a model proposes, with the tokens of the request and of the answer.

    The text is empty where the request does not fit the context.
    """
    try:
        answer = llm.chat(list(messages), temperature=0.9, top_p=0.95, seed=seed, max_tokens=_MOST_TOKENS)
    except ContextLengthExceeded:
        return "", 0, 0
    return answer.text, answer.prompt_tokens, answer.completion_tokens


def cleaned(text: str, start: PromptText) -> str | None:
    """Returns a proposed text without quotes and fences; None: it is empty, too long, or has not the start's variables."""
    text = re.sub(r"^```\w*\n|\n?```$", "", text.strip()).strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    text = re.sub(r"^(?:new )?(?:instructions?|指令)\s*[:：]\s*", "", text, flags=re.IGNORECASE)
    if not text or len(text) > MAX_REWRITE or "\0" in text or not _keeps(start.instructions, text):
        return None
    return text


def _worded(start: str, labels: Sequence[str], gap: str, *, zh: bool) -> list[tuple[str, str]]:
    """Returns edits with words of their own."""
    if zh:
        edits = [
            ("answer alone", f"{start}{gap}只写答案，不要写别的。"),
            ("careful reader", f"你是一位细心的读者。{start}"),
            ("read first", f"{start}{gap}先通读全文，再回答。"),
        ]
        if labels:
            listed = "\n".join(f"- {one}" for one in labels)
            edits += [
                ("labels listed", f"{start}\n\n可选答案：\n{listed}"),
                ("labels alone", f"从以下答案中选一个：{'、'.join(labels)}。"),
                ("labels last", f"{start}{gap}答案只能是：{'、'.join(labels)}。"),
            ]
        return edits
    edits = [
        ("answer alone", f"{start}{gap}Write the answer alone, without any other words."),
        ("careful reader", f"You are a careful reader.{gap}{start}"),
        ("read first", f"{start}{gap}Read the whole text before you answer."),
    ]
    if labels:
        listed = "\n".join(f"- {one}" for one in labels)
        edits += [
            ("labels listed", f"{start}\n\nPossible answers:\n{listed}"),
            ("labels alone", f"Choose one of these answers: {', '.join(labels)}."),
            ("labels last", f"{start}{gap}The answer is one of: {', '.join(labels)}."),
        ]
    return edits


def _keeps(start: str, text: str) -> bool:
    """Returns whether a text has the variables of the start and opens no other braces."""
    slots: Callable[[str], list[str]] = lambda one: sorted(_SLOT.findall(one))  # noqa: E731
    return set(slots(start)) == set(slots(text)) and "{{" not in _SLOT.sub("", text)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} ..."
