"""A scripted solver of the held-out tasks. It sees what a model sees: the question, and the texts that tools return."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from deepwell_bench.workloads.agents.company_tasks import questions
from deepwell_bench.workloads.agents.task import Language

__all__ = ["Call", "Solver", "solver_of"]

Call = tuple[str, dict[str, Any]]
"""Name and arguments of a call."""

Solver = Generator[Call, str, str]
"""Yields calls, is sent what they returned, and returns the answer."""

Values = Mapping[str, str]


def solver_of(question: str) -> Solver:
    """Returns what solves a question.

    Raises:
        ValueError: it is of no known kind.
    """
    for template, texts in questions().items():
        for language in ("en", "zh"):
            found = re.fullmatch(_pattern(texts[language]), question)
            if found and template != "rate":
                return _SOLVERS[template](found.groupdict(), language)
    return _rate({"question": question}, "zh" if re.search(r"[\u4e00-\u9fff]", question) else "en")


def _pattern(text: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(text))


def _number(text: str, before: str = "") -> str:
    """Returns the first number after a text."""
    found = re.search(rf"(?:{before})\D*?(\d+(?:\.\d+)?)", text, re.DOTALL)
    if found is None:
        raise ValueError(f"no number in {text[:200]!r}")
    return found.group(1)


def _cell(text: str) -> str:
    """Returns the only cell of a result of SQL."""
    return text.splitlines()[1].split(" | ")[0]


def _calculate(expression: str) -> Generator[Call, str, str]:
    text = yield "calculate", {"expression": expression}
    return text.removesuffix(" (rounded)")


def _sql(query: str) -> Generator[Call, str, str]:
    text = yield "sql_query", {"query": query}
    return _cell(text)


def _handbook(query: str, before: str, holding: str = "") -> Generator[Call, str, str]:
    """Searches the handbook, and returns the number behind a word in the first passage that holds another."""
    text = yield "search_knowledge", {"query": query}
    passages = [one for one in re.split(r"(?m)^\[\d+\] ", text) if holding in one and re.search(before, one)]
    return _number(passages[0].partition(": ")[2], before)


def _calculation(values: Values, _language: Language) -> Solver:
    return (yield from _calculate(f"{values['amount']} * {values['percent']}% + {values['extra']}"))


def _rule(values: Values, _language: Language) -> Solver:
    text = yield "search_knowledge", {"query": values["question"]}
    best = text.splitlines()[0]
    return best.partition(": ")[2]


def _door(values: Values, _language: Language) -> Solver:
    text = yield "read_file", {"path": values["path"]}
    return _number(text, "Door code|门禁码")


def _mention(values: Values, _language: Language) -> Solver:
    text = yield "search_files", {"text": values["subject"]}
    return text.splitlines()[0].split(":")[0]


def _count(values: Values, _language: Language) -> Solver:
    yield "sql_schema", {}
    return (
        yield from _sql(
            f"SELECT COUNT(*) FROM orders WHERE status = '{values['status']}' AND quantity > {values['least']}"  # noqa: S608
        )
    )


def _pieces(values: Values, _language: Language) -> Solver:
    text = yield "read_file", {"path": values["path"]}
    return (yield from _calculate(" + ".join(re.findall(r",(\d+)", text))))


def _rate(values: Values, language: Language) -> Solver:
    amount = _number(values["question"])
    text = yield "search_knowledge", {"query": values["question"]}
    rate = _number(text.splitlines()[0].partition(": ")[2])
    return (yield from _calculate(f"{rate} * {amount}"))


def _bought(values: Values, _language: Language) -> Solver:
    yield "sql_schema", {}
    return (
        yield from _sql(
            "SELECT SUM(quantity) FROM orders JOIN customers ON customers.id = customer_id"  # noqa: S608
            f" WHERE customers.name = '{values['customer']}'"
        )
    )


def _price(values: Values, _language: Language) -> Solver:
    yield "sql_schema", {}
    price = yield from _sql(f"SELECT price FROM products WHERE name = '{values['product']}'")  # noqa: S608
    return (yield from _calculate(f"{price} * {values['pieces']} * (1 - {values['discount']}%)"))


def _left(values: Values, language: Language) -> Solver:
    wanted = f"Project: {values['project']}" if language == "en" else f"项目：{values['project']}"
    found = yield "search_files", {"text": wanted}
    text = yield "read_file", {"path": found.split(":")[0]}
    return (yield from _calculate(f"{_number(text, 'Budget|预算')} - {_number(text, 'Spent|已支出')}"))


def _seats(values: Values, _language: Language) -> Solver:
    first = yield "read_file", {"path": values["first"]}
    second = yield "read_file", {"path": values["second"]}
    return (yield from _calculate(f"{_number(first, 'Seats|座位数')} + {_number(second, 'Seats|座位数')}"))


def _courier(values: Values, language: Language) -> Solver:
    text = yield "read_file", {"path": values["path"]}
    query = "courier shipping cost for each kilogram" if language == "en" else "快递运费每公斤"
    rate = yield from _handbook(query, "costs|运费为")
    return (yield from _calculate(f"{_number(text, 'Pieces|数量')} * {values['weight']} * {rate}"))


def _account(values: Values, language: Language) -> Solver:
    yield "sql_schema", {}
    level = yield from _sql(f"SELECT level FROM customers WHERE name = '{values['customer']}'")  # noqa: S608
    total = yield from _sql(
        "SELECT SUM(quantity * price) FROM orders JOIN customers ON customers.id = customer_id"  # noqa: S608
        " JOIN products ON products.id = product_id"
        f" WHERE customers.name = '{values['customer']}' AND status = 'paid'"
    )
    discount = yield from _discount(level, language)
    return (yield from _calculate(f"round({total} * (1 - {discount}%), 2)"))


def _discount(level: str, language: Language) -> Generator[Call, str, str]:
    query = f"discount for customers of the level {level}" if language == "en" else f"{level}客户 订单 折扣"
    return (yield from _handbook(query, "discount of|折扣|享受", level))


def _profit(values: Values, _language: Language) -> Solver:
    listed = yield "list_files", {"folder": values["folder"]}
    parts = list[str]()
    for region in re.split(r", | and |、|和", values["regions"]):
        paths = [line.rpartition(" (")[0] for line in listed.splitlines()]
        path = next(one for one in paths if region.casefold() in one)
        text = yield "read_file", {"path": path}
        parts.append(f"({_number(text, 'Revenue|收入')} - {_number(text, 'Costs|成本')})")
    total = yield from _calculate(" + ".join(parts))
    yield "write_file", {"path": values["result"], "content": f"{total}\n"}
    return total


def _found_request(values: Values, language: Language) -> Generator[Call, str, str]:
    wanted = f"Request: {values['number']}" if language == "en" else f"申请编号：{values['number']}"
    found = yield "search_files", {"text": wanted}
    text = yield "read_file", {"path": found.split(":")[0]}
    yield "sql_schema", {}
    return text


def _after(text: str, name: str) -> str:
    """Returns the rest of the line behind a name."""
    found = re.search(rf"(?:{name})[:：]\s*(.+)", text)
    if found is None:
        raise ValueError(f"no {name} in {text[:200]!r}")
    return found.group(1).strip()


def _request(values: Values, language: Language) -> Solver:
    text = yield from _found_request(values, language)
    article = _after(text, "Article|商品")
    price = yield from _sql(f"SELECT price FROM products WHERE name = '{article}'")  # noqa: S608
    amount = yield from _calculate(f"{_number(text, 'Pieces|数量')} * {price}")
    yield "write_file", {"path": values["result"], "content": f"{amount}\n"}
    return amount


def _offer(values: Values, language: Language) -> Solver:
    text = yield from _found_request(values, language)
    article, customer = _after(text, "Article|商品"), _after(text, "Customer|客户")
    price = yield from _sql(f"SELECT price FROM products WHERE name = '{article}'")  # noqa: S608
    level = yield from _sql(f"SELECT level FROM customers WHERE name = '{customer}'")  # noqa: S608
    discount = yield from _discount(level, language)
    return (yield from _calculate(f"round({_number(text, 'Pieces|数量')} * {price} * (1 - {discount}%), 2)"))


def _archive(values: Values, _language: Language) -> Solver:
    text = yield "read_file", {"path": values["path"]}
    while moved := re.search(r"(?:moved to|移到)\s*(\S+\.txt)", text):
        text = yield "read_file", {"path": moved.group(1)}
    return (yield from _calculate(f"{_number(text, 'amount|最终金额')} * {values['percent']}%"))


def _worth(values: Values, _language: Language) -> Solver:
    found = yield "search_files", {"text": f"{values['product']},"}
    counts = re.findall(r",(\d+)$", found, re.MULTILINE)
    yield "sql_schema", {}
    price = yield from _sql(f"SELECT price FROM products WHERE name = '{values['product']}'")  # noqa: S608
    return (yield from _calculate(f"({' + '.join(counts)}) * {price}"))


_SOLVERS: Final[dict[str, Callable[[Values, Any], Solver]]] = {
    "calculation": _calculation,
    "rule": _rule,
    "door": _door,
    "mention": _mention,
    "count": _count,
    "pieces": _pieces,
    "bought": _bought,
    "price": _price,
    "left": _left,
    "seats": _seats,
    "courier": _courier,
    "account": _account,
    "profit": _profit,
    "request": _request,
    "offer": _offer,
    "archive": _archive,
    "worth": _worth,
}
