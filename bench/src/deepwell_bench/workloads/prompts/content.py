"""Briefs for product bullets: a number of lines, a length, words that must and one that must not be there.

Products and selling points are drawn from lists, which the halves do not share. All checks are by construction.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final, Literal

from deepwell_bench.workloads.prompts.task import Half, PromptItem, PromptTask

__all__ = ["CONTENT"]

_PRODUCTS = Path(__file__).with_name("products.toml")
_A_PRODUCT: Final = {"development": 3, "held_out": 4}
_MOST: Final = {"en": 12, "zh": 24}  # words or characters of a line


def _items(language: Literal["en", "zh"], half: Half) -> Sequence[PromptItem]:
    words = tomllib.loads(_PRODUCTS.read_text(encoding="utf-8"))[language]
    items: list[PromptItem] = []
    for product, points in words[half].items():
        for number in range(_A_PRODUCT[half]):
            random = Random(f"content:{language}:{half}:{product}:{number}")  # noqa: S311
            lines = random.choice((2, 3, 4))
            terms = random.sample(points, lines)
            banned = random.choice(words["banned"])
            items.append(
                PromptItem(
                    f"{product}-{number}",
                    _brief(language, product, terms, banned, lines),
                    {"lines": lines, "terms": terms, "banned": banned, "language": language},
                )
            )
    return items


def _brief(language: str, product: str, terms: Sequence[str], banned: str, lines: int) -> str:
    if language == "zh":
        return f"商品：{product}\n条数：{lines}\n每条最多：{_MOST['zh']}个字\n必须出现：{'、'.join(terms)}\n不得出现：{banned}"
    return (
        f"Product: {product}\nLines: {lines}\nMost words a line: {_MOST['en']}\n"
        f"Must appear: {', '.join(terms)}\nMust not appear: {banned}"
    )


def _score(item: PromptItem, answer: str) -> float:
    """Returns the mean of four: the number of lines and their form, their length, the terms, and the banned word."""
    expected, text = item.expected, answer.casefold()
    lines = [one.strip() for one in answer.strip().splitlines() if one.strip()]
    form = len(lines) == expected["lines"] and all(one.startswith("- ") for one in lines)
    bodies = [one.removeprefix("-").strip() for one in lines]
    language = expected["language"]
    sizes = [len(one.split()) if language == "en" else len(one) for one in bodies]
    short = bool(lines) and max(sizes) <= _MOST[language]
    terms = sum(term.casefold() in text for term in expected["terms"]) / len(expected["terms"])
    clean = bool(lines) and expected["banned"].casefold() not in text
    return (form + short + terms + clean) / 4


CONTENT: Final = (
    PromptTask(
        "content-bullets-en",
        "en",
        "Write selling points of the product as the brief asks: exactly that many lines, each beginning with '- ', "
        "no line longer than allowed, with the words that must appear and without the word that must not. "
        "Answer with the lines alone.",
        lambda half: _items("en", half),
        _score,
        max_tokens=96,
    ),
    PromptTask(
        "content-bullets-zh",
        "zh",
        "按要求写商品卖点：条数正好，每条一行并以“- ”开头，每条不超过规定字数，"
        "包含必须出现的词，不含不得出现的词。只输出这些行。",
        lambda half: _items("zh", half),
        _score,
        max_tokens=96,
    ),
)
"""Tasks of the packs of content."""
