"""The held-out tasks: 60 that need 1 to 3 calls, and 60 that need 3 to 8. Their answers are computed from the fixtures."""

from __future__ import annotations

import itertools
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.agents import company
from deepwell_bench.workloads.agents.company import COMPANY
from deepwell_bench.workloads.agents.task import Language, Task, digest_of

__all__ = ["LONG_TASKS", "SHORT_TASKS", "frozen_tasks", "questions"]

_FROZEN: Final = Path(__file__).with_name("frozen.toml")
_BOTH: Final[tuple[Language, ...]] = ("en", "zh")
Make = Callable[[Language, int], Task]


@cache
def questions() -> dict[str, dict[str, str]]:
    """Returns the questions of each kind of task by language."""
    text = Path(__file__).with_name("questions.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def frozen_tasks() -> tuple[list[Task], list[Task]]:
    """Returns the short and the long tasks, after a look at their hash and that of the fixtures.

    Raises:
        DeepwellError: they are not the frozen ones.
    """
    short, long = SHORT_TASKS, LONG_TASKS
    frozen = tomllib.loads(_FROZEN.read_text(encoding="utf-8"))["company"]
    if (len(short), len(long), digest_of(COMPANY, [*short, *long])) != (
        frozen["short"],
        frozen["long"],
        frozen["sha256"],
    ):
        raise DeepwellError(
            "the tasks for agents are not the frozen ones",
            fix="restore bench/workloads/agents from the repository",
        )
    return short, long


def _task(template: str, language: Language, calls: int, /, **filled: object) -> Task:
    return Task("", template, language, calls, questions()[template][language].format(**filled))


def _drawn(template: str, language: Language, place: int) -> random.Random:
    return random.Random(f"agents/{template}/{language}/{place}")  # noqa: S311


def _calculation(language: Language, place: int) -> Task:
    drawn = _drawn("calculation", language, place)
    percent, amount, extra = (
        5 + 3 * drawn.randrange(28),
        120 + 10 * drawn.randrange(900),
        13 + drawn.randrange(400),
    )
    task = _task("calculation", language, 1, percent=percent, amount=amount, extra=extra)
    return replace(task, number=amount * percent / 100 + extra)


def _rule(language: Language, place: int) -> Task:
    _, _, value, question = company.RULES[language][place]
    return replace(_task("rule", language, 1, question=question), number=value)


def _door(language: Language, place: int) -> Task:
    name, code, _ = company.OFFICES[language][place]
    return replace(_task("door", language, 1, path=_office(language, name)), number=code)


def _mention(language: Language, place: int) -> Task:
    path, subject = company.CODEWORDS[language][place]
    others = tuple(one for one, _ in company.CODEWORDS[language] if one != path)
    return replace(_task("mention", language, 1, subject=subject), text=path, others=others)


def _count(language: Language, place: int) -> Task:
    status, least = ("open", "paid", "cancelled", "paid", "open")[place], (12, 7, 15, 21, 5)[place]
    if language == "zh":
        least += 3
    number = sum(one[4] == status and one[3] > least for one in company.ORDERS)
    return replace(_task("count", language, 2, status=status, least=least), number=number)


def _pieces(language: Language, place: int) -> Task:
    store = company.STOCKS[language][place % 3]
    number = sum(count for _, count in company.stock_of(language, store))
    return replace(_task("pieces", language, 2, path=_stock(language, store)), number=number)


def _rate(language: Language, place: int) -> Task:
    _, _, rate, question = company.RATES[language][place % 3]
    amount = 26 + 11 * place + (5 if language == "zh" else 0)
    task = _task("rate", language, 2, question=question.format(amount=amount))
    return replace(task, number=rate * amount)


def _bought(language: Language, place: int) -> Task:
    customer = company.ACCOUNTS[language][place][0]
    number = sum(one[3] for one in company.ORDERS if one[1] == _account_id(language, customer))
    return replace(_task("bought", language, 2, customer=customer), number=number)


def _price(language: Language, place: int) -> Task:
    product, price = company.ARTICLES[language][place]
    pieces, discount = 17 + 6 * place, 4 + 2 * place
    task = _task("price", language, 3, product=product, pieces=pieces, discount=discount)
    return replace(task, number=price * pieces * (100 - discount) / 100)


def _left(language: Language, place: int) -> Task:
    name, budget, spent = company.PROJECTS[language][place]
    return replace(_task("left", language, 3, project=_title(language, name)), number=budget - spent)


def _seats(language: Language, place: int) -> Task:
    pairs = list(itertools.combinations(company.OFFICES[language], 2))
    (first, _, seats), (second, _, more) = pairs[place]
    task = _task("seats", language, 3, first=_office(language, first), second=_office(language, second))
    return replace(task, number=seats + more)


def _courier(language: Language, place: int) -> Task:
    number, _, _, pieces = company.requests_of(language)[place]
    weight = (2.5, 4, 1.5, 3, 6)[place]
    rate = company.RATES[language][1][2]
    task = _task("courier", language, 3, path=_request_path(language, number), weight=weight)
    return replace(task, number=pieces * weight * rate)


def _account(language: Language, place: int) -> Task:
    customer, _, level = company.ACCOUNTS[language][place]
    total = sum(
        one[3] * _prices()[one[2]]
        for one in company.ORDERS
        if one[1] == _account_id(language, customer) and one[4] == "paid"
    )
    number = total * (100 - company.DISCOUNTS[level]) / 100
    return replace(_task("account", language, 5, customer=customer), number=number)


def _profit(language: Language, place: int) -> Task:
    regions = company.REGIONS[language]
    chosen = regions if place == 4 else list(itertools.combinations(regions, 3))[2 * place]
    number = sum(revenue - costs for _, revenue, costs in chosen)
    folder, result = (
        ("reports", f"results/profit-{place}.txt") if language == "en" else ("报告", f"结果/利润{place}.txt")
    )
    *names, last = (_title(language, name) for name, _, _ in chosen)
    listed = f"{', '.join(names)} and {last}" if language == "en" else f"{'、'.join(names)}和{last}"
    task = _task("profit", language, 3 + len(chosen), regions=listed, folder=folder, result=result)
    return replace(task, number=number, written={result: number})


def _request(language: Language, place: int) -> Task:
    number, _, article, pieces = company.requests_of(language)[place]
    amount = pieces * dict(company.ARTICLES[language])[article]
    result = f"results/{number}.txt" if language == "en" else f"结果/{number}.txt"
    task = _task("request", language, 6, number=number, result=result)
    return replace(task, number=amount, written={result: amount})


def _offer(language: Language, place: int) -> Task:
    number, account, article, pieces = company.requests_of(language)[5 - place]
    level = next(level for name, _, level in company.ACCOUNTS[language] if name == account)
    price = dict(company.ARTICLES[language])[article]
    amount = pieces * price * (100 - company.DISCOUNTS[level]) / 100
    return replace(_task("offer", language, 7, number=number), number=amount)


def _archive(language: Language, place: int) -> Task:
    name, _, _, figure = company.archive_of(language)[place]
    percent = 12 + 7 * place
    path = f"archive/case-{name}.txt" if language == "en" else f"归档/案卷{name}.txt"
    task = _task("archive", language, 4, path=path, percent=percent)
    return replace(task, number=figure * percent / 100)


def _worth(language: Language, place: int) -> Task:
    product, price = company.ARTICLES[language][place]
    pieces = sum(dict(company.stock_of(language, store))[product] for store in company.STOCKS[language])
    folder = "stock" if language == "en" else "库存"
    return replace(_task("worth", language, 4, product=product, folder=folder), number=pieces * price)


def _office(language: Language, name: str) -> str:
    return f"offices/{name}.txt" if language == "en" else f"办公室/{name}.txt"


def _stock(language: Language, store: str) -> str:
    return f"stock/{store}.csv" if language == "en" else f"库存/{store}.csv"


def _request_path(language: Language, number: str) -> str:
    return f"requests/{number}.txt" if language == "en" else f"申请/{number}.txt"


def _title(language: Language, name: str) -> str:
    return name.title() if language == "en" else name


def _account_id(language: Language, name: str) -> int:
    names = [one[0] for one in (*company.ACCOUNTS["en"], *company.ACCOUNTS["zh"])]
    return names.index(name) + 1


def _prices() -> dict[int, float]:
    articles = [*company.ARTICLES["en"], *company.ARTICLES["zh"]]
    return {number: price for number, (_, price) in enumerate(articles, start=1)}


# Five of each kind for 1, 2 and 3 calls, of which every second is Chinese; ten of each kind for the long ones.
_SHORT: Final[tuple[Make, ...]] = (
    *(_calculation, _rule, _door, _mention),
    *(_count, _pieces, _rate, _bought),
    *(_price, _left, _seats, _courier),
)
_LONG: Final[tuple[Make, ...]] = (_account, _profit, _request, _offer, _archive, _worth)


def _short() -> Iterator[Task]:
    for number, make in enumerate(_SHORT):
        for place in range(5):
            yield make(_BOTH[(number + place) % 2], place)


def _long() -> Iterator[Task]:
    for make in _LONG:
        for language in _BOTH:
            for place in range(5):
                yield make(language, place)


SHORT_TASKS: Final = [replace(task, id=f"short-{number:02}") for number, task in enumerate(_short())]
"""Tasks that need 1 to 3 calls: 20 of each number, half of them Chinese."""

LONG_TASKS: Final = [replace(task, id=f"long-{number:02}") for number, task in enumerate(_long())]
"""Tasks that need 3 to 8 calls, half of them Chinese."""
