"""Loan agreements, drawn from templates: who lends whom how much, at which yearly rate, for how long, as JSON.

The templates of the halves share no wording. Each text also states another rate, another amount or another party.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final, Literal

from deepwell_bench.workloads.prompts.task import Half, PromptItem, PromptTask, json_in, squeezed

__all__ = ["FINANCE"]

_FIELDS: Final = ("lender", "borrower", "amount", "rate", "term")
_COUNT: Final = {"development": 32, "held_out": 60}
_TEMPLATES = Path(__file__).with_name("loans.toml")
_PLAIN_EN: Final = (
    "Extract the lender, the borrower, the principal amount with its currency, the yearly interest rate and the term "
    "from the loan agreement. Answer with a JSON object that has the keys lender, borrower, amount, rate and term, "
    "each copied from the text."
)
_PLAIN_ZH: Final = (
    "从借款合同中提取出借人、借款人、借款本金、年利率和借款期限，只输出一个 JSON 对象，"
    "键为 lender、borrower、amount、rate、term，值从原文中照抄。"
)


def _items(language: Literal["en", "zh"], half: Half) -> Sequence[PromptItem]:
    words = tomllib.loads(_TEMPLATES.read_text(encoding="utf-8"))[language]
    families = words[half]
    return [
        _item(language, half, number, families[number % len(families)], words)
        for number in range(_COUNT[half])
    ]


def _item(language: str, half: Half, number: int, template: str, words: dict[str, list[str]]) -> PromptItem:
    random = Random(f"loan:{language}:{half}:{number}")  # noqa: S311 the seed of a test set, no secret
    parties = random.sample(words[f"names_{half}"], 3)
    rate, other = random.sample(range(6, 40), 2)
    months = random.choice((6, 9, 12, 18, 24, 30, 36, 48, 60))
    amounts = random.sample(range(3, 95), 2)
    style = random.randrange(3)
    slots = {
        "lender": parties[0],
        "borrower": parties[1],
        "third": parties[2],
        "rate": f"{rate / 2:g}%",
        "other_rate": f"{other / 2:g}%",
        "term": _term(language, months, style),
        "amount": _amount(language, amounts[0], style),
        "other_amount": _amount(language, amounts[1], (style + 1) % 3),
        "day": str(random.randrange(1, 28)),
        "year": str(random.randrange(2021, 2027)),
    }
    return PromptItem(
        f"{half}-{number:02}", template.format(**slots), {name: slots[name] for name in _FIELDS}
    )


def _term(language: str, months: int, style: int) -> str:
    if language == "zh":
        return f"{months // 12}年" if months % 12 == 0 and style else f"{months}个月"
    years = months // 12
    return f"{years} year{'s' if years > 1 else ''}" if months % 12 == 0 and style else f"{months} months"


def _amount(language: str, thousands: int, style: int) -> str:
    if language == "zh":
        return (f"{thousands}万元", f"{thousands * 10_000:,}元", f"{thousands * 10_000}元")[style]
    return (f"USD {thousands * 5000:,}", f"EUR {thousands * 1000:,}", f"${thousands * 2500:,}")[style]


def _score(item: PromptItem, answer: str) -> float:
    found = json_in(answer)
    right = [_same(name, found.get(name), str(item.expected[name])) for name in _FIELDS]
    return sum(right) / len(_FIELDS)


def _same(name: str, said: object, expected: str) -> bool:
    """Returns whether a value says the same; the words of currency and year before a number may be left out."""
    text, wanted = squeezed(said), squeezed(expected)
    if name == "amount":
        text, wanted = (one.removeprefix("人民币").removeprefix("rmb") for one in (text, wanted))
    if name == "rate":
        text = text.removeprefix("年利率").removeprefix("年息")
        for end in ("perannum", "ayear", "peryear", "p.a."):
            text = text.removesuffix(end)
    return text == wanted


FINANCE: Final = (
    PromptTask(
        "finance-loan-en",
        "en",
        _PLAIN_EN,
        lambda half: _items("en", half),
        _score,
        max_tokens=96,
    ),
    PromptTask(
        "finance-loan-zh",
        "zh",
        _PLAIN_ZH,
        lambda half: _items("zh", half),
        _score,
        max_tokens=96,
    ),
)
"""Tasks of the packs of finance."""
